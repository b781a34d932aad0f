"""Programs that the torture starts, and talks with by lines."""

import os
import pathlib
import select
import signal
import subprocess
import time

from script_support import ScriptError, wait_for


def process_name(pid):
    """As ps shows it, or nothing where there is none."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def run(*command, seconds=60):
    """A command that ends by itself; its output."""
    command = [str(part) for part in command]
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
                                check=False)
    except subprocess.TimeoutExpired as error:
        raise ScriptError(f"not done after {seconds} s: {' '.join(command)}") from error
    if result.returncode != 0:
        raise ScriptError(f"{' '.join(command)}: status {result.returncode}: {result.stdout}")
    return result.stdout.strip()


class Program:
    """A process with a log, which goes on from one start to the next."""

    def __init__(self, log, *command):
        self.log_path = pathlib.Path(log)
        self.command = [str(part) for part in command]
        self.process = None
        self._log_begin = 0

    def start(self):
        with open(self.log_path, "ab") as log:
            self._log_begin = log.tell()
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def log(self):
        """What it has said since it was last started."""
        with open(self.log_path, "rb") as log:
            log.seek(self._log_begin)
            return log.read().decode(errors="replace")

    def await_log(self, text, seconds=20):
        def said():
            if not self.is_running():
                raise ScriptError(f"{self.command[0]} has ended: {self.log()[-2000:]}")
            return text in self.log()
        wait_for(f"{self.command[0]}: {text}", said, seconds)

    def send_signal(self, number):
        if self.is_running():
            self.process.send_signal(number)

    def wait(self, seconds=10):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise ScriptError(f"{self.command[0]} does not end within {seconds} s") from error

    def kill(self):
        if self.is_running():
            self.process.kill()
            self.wait()

    def children(self):
        """Its child processes' numbers."""
        found = []
        try:
            for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
                found += [int(number) for number in (task / "children").read_text().split()]
        except OSError:
            pass
        return found


class Talker:
    """A program that answers each line of its input by one line."""

    def __init__(self, log, *command):
        self.name = pathlib.Path(command[0]).name
        with open(log, "ab") as errors:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=errors, bufsize=0)
        self._input = b""

    def ask(self, line, seconds=10):
        try:
            self.process.stdin.write(line.encode() + b"\n")
        except OSError as error:
            raise ScriptError(f"{self.name} has ended") from error
        return self.read_line(seconds)

    def read_line(self, seconds=10):
        deadline = time.monotonic() + seconds
        while b"\n" not in self._input:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise ScriptError(f"{self.name} does not answer within {seconds} s")
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                raise ScriptError(f"{self.name} has ended")
            self._input += piece
        line, self._input = self._input.split(b"\n", 1)
        return line.decode()

    def end(self, seconds=5):
        """True if it has ended by itself."""
        self.process.stdin.close()
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            return False
