"""What uses the disk while faults happen, and knows what it must hold."""

import hashlib
import json
import os
import pathlib
import random
import subprocess
import threading
import time

from programs import Talker, run
from script_support import ScriptError, binary, wait_for


class BlockLoad:
    """block-writer on a file or a block device."""

    def __init__(self, world, file, seed, blocks=0):
        self._talker = Talker(world.directory / "block-writer.log", binary("testing/torture/block-writer"),
                              "--file", file, "--seed", seed, "--blocks", blocks)
        self.totals = {}
        self.messages = []

    def ask(self, line, seconds=10):
        return self._talker.ask(line, seconds)

    def start(self):
        self.ask("resume")

    def report(self):
        """What has happened so far; `longest_request` and `longest_pause` since the last report."""
        report = json.loads(self._talker.ask("report"))
        self.messages += report.pop("messages")
        self.totals = report
        return report

    def host_lost(self):
        self._talker.ask("host_lost")

    def finish(self):
        for command in ("pause 30", "check 60"):
            if self._talker.ask(command, 100) != "ok":
                raise ScriptError(f"requests are not done: {command}")
        self.report()
        self._talker.end()

    def kill(self):
        self._talker.process.kill()


class FioLoad:
    """fio that writes and verifies, over and over, in a part of a disk."""

    def __init__(self, world, file, seed, offset_mb, size_mb):
        self._log = world.directory / "fio.log"
        self._command = ["fio", "--name=torture", f"--filename={file}", "--rw=randwrite", "--bsrange=4k-128k",
                         f"--offset={offset_mb}m", f"--size={size_mb}m", "--ioengine=libaio", "--iodepth=16",
                         "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--fsync=64",
                         "--minimal", f"--aux-path={world.directory}"]
        self._seed = seed
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = False
        self._process = None
        self.rounds = 0
        self.errors = 0

    def start(self):
        self._thread.start()

    def _run(self):
        while not self._stop:
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(self._command + [f"--randseed={self._seed + self.rounds}"], stdout=log,
                                                 stderr=log, stdin=subprocess.DEVNULL)
            if self._process.wait() != 0 and not self._stop:
                self.errors += 1
                time.sleep(0.2)
            self.rounds += 1

    def finish(self):
        self._stop = True
        self._thread.join(90)
        if self._thread.is_alive():
            raise ScriptError("fio does not end")

    def kill(self):
        self._stop = True
        if self._process:
            self._process.kill()


class FileLoad:
    """Files of a file system, written, renamed, read again, and removed; all through the page cache."""

    FILES = 200

    def __init__(self, directory, seed):
        self._directory = pathlib.Path(directory)
        self._directory.mkdir()
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = False
        self._kept = {}  # name: digest
        self.files = 0
        self.errors = 0
        self.violations = 0
        self.messages = []

    def start(self):
        self._thread.start()

    def _run(self):
        while not self._stop:
            try:
                self._step()
            except OSError as error:
                self.errors += 1
                self.messages.append(f"ERROR {error}")
                time.sleep(0.2)

    def _step(self):
        name = f"file{self._random.randrange(self.FILES)}"
        path = self._directory / name
        if name in self._kept and self._random.random() < 0.5:
            self._check(name)
            if self._random.random() < 0.3:
                path.unlink()
                del self._kept[name]
            return
        data = self._random.randbytes(self._random.randrange(1, 100_000))
        temporary = self._directory / "new"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if self._random.random() < 0.5:
                os.fsync(file.fileno())
        temporary.rename(path)
        self._kept[name] = hashlib.sha256(data).digest()
        self.files += 1

    def _check(self, name):
        if hashlib.sha256((self._directory / name).read_bytes()).digest() != self._kept[name]:
            self.violations += 1
            self.messages.append(f"VIOLATION {name} has other content")

    def finish(self):
        self._stop = True
        self._thread.join(60)
        if self._thread.is_alive():
            raise ScriptError("files: an operation does not end")

    def check_all(self):
        """On the file system that was mounted again."""
        for name in list(self._kept):
            self._check(name)


class Loads:
    """All that is above the disk, as --above says."""

    def __init__(self, world, above, seed, megabytes):
        self._world = world
        self._above = above
        self._seed = seed
        self._megabytes = megabytes
        self._fio = self._files = self._loop = None
        self.blocks = None
        self.directory = world.directory / "fs"

    def start(self):
        file = self._world.mount / "disk"
        if self._above != "file":
            file = self._loop = self._world.attach_loop()
        if self._above in ("ext4", "xfs"):
            file = self._make_file_system()
        half = self._megabytes // 2
        if self._above == "fio":
            self._fio = FioLoad(self._world, file, self._seed, half, min(half, 24))
            self._fio.start()
        self.blocks = BlockLoad(self._world, file, self._seed, half * 2048 if self._above == "fio" else 0)
        self.blocks.start()

    def _make_file_system(self):
        quick = ["-q", "-E", "nodiscard"] if self._above == "ext4" else ["-q", "-K", "-f"]
        run(f"mkfs.{self._above}", *quick, self._loop, seconds=120)
        self.directory.mkdir()
        run("mount", self._loop, self.directory)
        file = self.directory / "blocks"
        with open(file, "wb") as blocks:
            os.posix_fallocate(blocks.fileno(), 0, 64 << 20)
        self._files = FileLoad(self.directory / "files", self._seed)
        self._files.start()
        return file

    def host_lost(self):
        self.blocks.host_lost()

    def report(self):
        report = self.blocks.report()
        for load in (self._fio, self._files):
            if load:
                report["errors"] += load.errors
        return report

    def messages(self):
        return (self.blocks.messages if self.blocks else []) + (self._files.messages if self._files else [])

    def violations(self):
        return self.blocks.totals.get("violations", 0) + (self._files.violations if self._files else 0)

    def summary(self):
        totals = self.blocks.totals
        text = (f"{totals['writes']} writes, {totals['reads']} reads verified ({totals['blocks_verified']} blocks), "
                f"{totals['flushes']} flushes")
        if self._fio:
            text += f", {self._fio.rounds} rounds of fio"
        if self._files:
            text += f", {self._files.files} files"
        return text

    def finish(self):
        """Ends all of it, with a last look at everything that was written."""
        for load in (self._fio, self._files, self.blocks):
            if load:
                load.finish()
        if self._files:
            self._check_file_system()
        if self._loop:
            self._world.detach_loop(self._loop)

    def _check_file_system(self):
        run("umount", self.directory)
        check = ["e2fsck", "-fn"] if self._above == "ext4" else ["xfs_repair", "-n"]
        run(*check, self._loop, seconds=120)
        run("mount", self._loop, self.directory)
        self._files.check_all()
        run("umount", self.directory)

    def kill(self):
        for load in (self._fio, self.blocks):
            if load:
                load.kill()

    def unmount(self):
        """After kill(), when requests have ended."""
        if os.path.ismount(self.directory):
            subprocess.run(["umount", "--lazy", str(self.directory)], check=False, timeout=60)

    def settle(self, seconds):
        """Until every request in flight is done, and new ones are."""
        if self.blocks.ask(f"pause {seconds}", seconds + 10) != "ok":
            raise ScriptError(f"requests in flight are not done within {seconds} s")
        before = self._done()
        self.blocks.start()
        wait_for("I/O goes on", lambda: self._done() > before, seconds)

    def _done(self):
        report = self.report()
        self._longest = max(self._longest, report["longest_request"])
        return report["writes"] + report["reads"] + report["flushes"]

    _longest = 0.0

    def take_longest(self):
        """Since the last call."""
        report = self.report()
        longest = max(self._longest, report["longest_request"])
        self._longest = 0.0
        return longest
