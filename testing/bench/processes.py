"""Programs that the benchmark starts: each with a log and a bound, none of which outlives it."""

import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys

from script_support import ScriptError, wait_for


def accepts(family, address):
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def end(process, seconds=8):
    """Ends a process and whatever it has started in its session."""
    for number, bound in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(bound)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


class Interruption:
    """Makes signals end the benchmark by SystemExit, but not between the fork of a program and the moment when
    somebody knows its number: it would work on, perhaps on a file that is unmounted meanwhile."""

    def __init__(self):
        self._held = False
        self._pending = None

    def install(self):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @staticmethod
    def ignore():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number, _):
        self._pending = number
        if not self._held:
            sys.exit(128 + number)

    def popen(self, command, **options):
        self._held = True
        try:
            process = subprocess.Popen(command, **options)
        finally:
            self._held = False
        if self._pending is not None:
            end(process)
            sys.exit(128 + self._pending)
        return process


INTERRUPTION = Interruption()


def start(command, **streams):
    """In a session of its own: a signal from the terminal is for the benchmark, which ends its programs in order. When
    the benchmark is killed, it ends as well."""
    command = ["setpriv", "--pdeathsig", "TERM", *(str(part) for part in command)]
    return INTERRUPTION.popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **streams)


def run(*command, seconds=60):
    """A command that ends by itself: its output, and the seconds of processor that it and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ScriptError(f"not done after {seconds} s: {' '.join(map(str, command))}") from error
    finally:
        end(process, 2)
    if process.returncode != 0:
        raise ScriptError(f"{' '.join(map(str, command))}: status {process.returncode}: {output}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Daemon:
    """A process that serves until it is stopped."""

    def __init__(self, log, *command):
        self.log_path = pathlib.Path(log)
        with open(self.log_path, "ab") as file:
            self._process = start(command, stdout=file, stderr=file)
        self.pid = self._process.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_until(self, what, condition, seconds=20):
        def holds():
            if self._process.poll() is not None:
                raise ScriptError(f"{what} has ended with status {self._process.returncode}: {self.log()[-2000:]}")
            return condition()

        try:
            wait_for(what, holds, seconds)
        except ScriptError as error:
            raise ScriptError(f"{error}: {self.log()[-2000:]}") from error

    def stop(self):
        end(self._process)
