"""What is measured: disks behind a mounted file, each on a loop device too, and the limits that they run up against."""

import collections
import os
import shutil
import socket
import subprocess

import load
import processes
import script_support

# kind: "ours", "peer", "ceiling" (our FUSE side with nothing behind it), "image" (nothing before the disk) or "limit"
# (plain sockets). Compared are those with the same socket and backend. backend: "memory"; "cache", an image through
# the server's page cache, as the peers have it; "direct", an image with direct I/O.
Spec = collections.namedtuple("Spec", "name kind program socket backend")

SPECS = [
    Spec("tcp", "ours", "rnbd", "tcp", "memory"),
    Spec("unix", "ours", "rnbd", "unix", "memory"),
    Spec("tcp-file", "ours", "rnbd", "tcp", "cache"),
    Spec("unix-file", "ours", "rnbd", "unix", "cache"),
    Spec("tcp-direct", "ours", "rnbd", "tcp", "direct"),
    Spec("unix-direct", "ours", "rnbd", "unix", "direct"),
    Spec("nbdfuse-tcp", "peer", "nbdfuse", "tcp", "memory"),
    Spec("nbdfuse-unix", "peer", "nbdfuse", "unix", "memory"),
    Spec("nbdfuse-tcp-file", "peer", "nbdfuse", "tcp", "cache"),
    Spec("nbdfuse-unix-file", "peer", "nbdfuse", "unix", "cache"),
    Spec("qemu-tcp", "peer", "qemu", "tcp", "memory"),
    Spec("qemu-unix", "peer", "qemu", "unix", "memory"),
    Spec("qemu-tcp-file", "peer", "qemu", "tcp", "cache"),
    Spec("qemu-unix-file", "peer", "qemu", "unix", "cache"),
    Spec("null", "ceiling", "null", None, "memory"),
    Spec("image", "image", "image", None, "direct"),
    Spec("sockets-tcp", "limit", "sockets", "tcp", None),
    Spec("sockets-unix", "limit", "sockets", "unix", None),
]
BY_NAME = {spec.name: spec for spec in SPECS}


def applies(spec, cell, place):
    """Whether a target is measured in a cell. The full product would not fit the time, and most of it says nothing."""
    if spec.kind == "limit":
        return place == load.FILE and (load.is_sequential(cell) or cell.depth == 1) and cell.group != "fsync"
    if cell.group == "fsync":
        # Memory has nothing to make durable.
        return spec.backend != "memory"
    if spec.backend == "memory":
        return True
    return spec.backend == "cache" and cell.group == "common" and place == load.FILE


def is_file_backed(spec):
    return spec.backend in ("cache", "direct")


class Target:
    """A disk: the file that shows it, and the processes behind it."""

    def __init__(self, spec, work, sockets, image, size_mib):
        self.spec = spec
        self.socket = sockets / spec.name
        self.name = spec.name
        self.size_mib = size_mib
        self.directory = work / spec.name
        self.directory.mkdir()
        self.mount = self.directory / "mnt"
        self.image = self.directory / "disk.img"
        if is_file_backed(spec):
            shutil.copyfile(image, self.image)
            self._write_back()
        self.file = None
        self.loop = None
        self._loop_fd = None
        self.clients = []
        self.servers = []

    def start(self):
        """Sets self.file, and the daemons."""
        raise NotImplementedError

    def client_pids(self):
        return [daemon.pid for daemon in self.clients]

    def server_pids(self):
        return [daemon.pid for daemon in self.servers]

    def _daemon(self, role, *command):
        daemon = processes.Daemon(self.directory / f"{role}.log", *command)
        (self.clients if role == "client" else self.servers).append(daemon)
        return daemon

    def _address(self):
        """Where the server listens, of the socket family of this target."""
        if self.spec.socket == "unix":
            return socket.AF_UNIX, str(self.socket)
        return socket.AF_INET, ("127.0.0.1", script_support.free_port())

    def attach_loop(self):
        output, _ = processes.run("losetup", "--find", "--show", "--direct-io=on", self.file)
        self.loop = output.strip()
        # Held open and detached at once: it goes when the descriptor does, whatever becomes of this process.
        try:
            self._loop_fd = os.open(self.loop, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            processes.run("losetup", "--detach", self.loop)

    def _write_back(self):
        """Now, not beside the next measurement. Of this image only: a file system of somebody else may hang."""
        with open(self.image, "rb") as image:
            os.fdatasync(image.fileno())

    def path(self, place):
        return self.loop if place == load.LOOP else self.file

    def measure(self, cell, place, seconds):
        try:
            return load.measure_file(self, self.path(place), cell, seconds, self.size_mib)
        finally:
            if is_file_backed(self.spec):
                self._write_back()

    def stop(self):
        if self._loop_fd is not None:
            os.close(self._loop_fd)
            self._loop_fd = None
        for mount in (self.file, self.mount):
            if mount is not None and os.path.ismount(mount):
                subprocess.run(["umount", "--lazy", str(mount)], check=False, stderr=subprocess.DEVNULL, timeout=20)
        for daemon in self.clients + self.servers:
            daemon.stop()

    def logs(self):
        return "".join(f"--- {self.name}, {path.stem}\n{path.read_text(errors='replace')[-2000:]}"
                       for path in sorted(self.directory.glob("*.log")))


class Rnbd(Target):
    def start(self):
        _, address = self._address()
        listen = address if self.spec.socket == "unix" else f"{address[0]}:{address[1]}"
        if self.spec.backend == "memory":
            export = "    backend: memory\n"
        else:
            direct = "yes" if self.spec.backend == "direct" else "no"
            export = f"    dev_search_path: {self.directory}\n    direct_io: {direct}\n"
        server = self.directory / "server.yaml"
        memory = f"memory_devices:\n  disk.img: {self.size_mib}MiB\n" if self.spec.backend == "memory" else ""
        server.write_text(f'listen:\n  - {self.spec.socket}: "{listen}"\n{memory}sessions:\n  - name: "*"\n{export}')
        client = self.directory / "client.yaml"
        client.write_text(f'sessions:\n  - name: bench\n    paths: ["{self.spec.socket}:{listen}"]\n'
                          '    devices:\n      - path: disk.img\n        name: disk\n')
        daemon = self._daemon("server", script_support.binary("server/rnbd-server"), "--config", server)
        daemon.wait_until("rnbd-server", lambda: "is ready" in daemon.log())
        self.mount.mkdir()
        daemon = self._daemon("client", script_support.binary("client/rnbd-fuse"), self.mount, "--config", client,
                              "--foreground")
        self.file = self.mount / "disk"
        daemon.wait_until("rnbd-fuse", self.file.exists)


class OnNbdkit(Target):
    """A client of NBD; the server is nbdkit, which was the fastest with both of them."""

    def serve(self):
        """Starts nbdkit, and returns where it listens."""
        kind, address = self._address()
        where = ["--unix", address] if kind == socket.AF_UNIX else ["--ipaddr", address[0], "--port", address[1]]
        disk = ["memory", f"{self.size_mib}M"] if self.spec.backend == "memory" else ["file", self.image]
        daemon = self._daemon("server", "nbdkit", "--foreground", *where, *disk)
        daemon.wait_until("nbdkit", lambda: processes.accepts(kind, address))
        return kind, address


class Nbdfuse(OnNbdkit):
    def start(self):
        kind, address = self.serve()
        uri = f"nbd+unix:///?socket={address}" if kind == socket.AF_UNIX else f"nbd://{address[0]}:{address[1]}"
        self.mount.mkdir()
        daemon = self._daemon("client", "nbdfuse", self.mount / "disk", uri)
        self.file = self.mount / "disk"
        daemon.wait_until("nbdfuse", self.file.exists)


class Qemu(OnNbdkit):
    def start(self):
        kind, address = self.serve()
        server = (f"server.type=unix,server.path={address}" if kind == socket.AF_UNIX else
                  f"server.type=inet,server.host={address[0]},server.port={address[1]}")
        # It mounts on a file.
        self.mount.write_bytes(b"")
        daemon = self._daemon("client", "qemu-storage-daemon", "--blockdev", f"driver=nbd,node-name=disk,{server}",
                              "--export", f"type=fuse,id=export,node-name=disk,mountpoint={self.mount},writable=on")
        self.file = self.mount
        daemon.wait_until("qemu-storage-daemon", lambda: os.path.ismount(self.mount))


class Null(Target):
    def start(self):
        self.mount.mkdir()
        daemon = self._daemon("client", script_support.binary("testing/fuse/null_mount"), f"--size={self.size_mib << 20}",
                              self.mount)
        self.file = self.mount / "disk0"
        daemon.wait_until("null_mount", self.file.exists)


class Image(Target):
    def start(self):
        self.file = self.image


class Sockets(Target):
    def start(self):
        pass

    def measure(self, cell, place, seconds):
        return load.measure_sockets(script_support.binary("testing/bench/socket_limits"), self.spec.socket, cell, seconds)


PROGRAMS = {"rnbd": Rnbd, "nbdfuse": Nbdfuse, "qemu": Qemu, "null": Null, "image": Image, "sockets": Sockets}


def make(spec, work, sockets, image, size_mib):
    return PROGRAMS[spec.program](spec, work, sockets, image, size_mib)
