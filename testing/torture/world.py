"""A disk, a server, a client, and the network between them, all of them the torture's own."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

from networks import make_network
from programs import Program, Talker, process_name, run
from script_support import ScriptError, binary, wait_for

# In seconds. Short, so that many faults fit into an hour.
CLIENT_HEARTBEAT = 1.5
SERVER_HEARTBEAT = 2.0

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class World:
    """Everything below the load."""

    def __init__(self, network, fabrics, megabytes, seed, plain_disk=False, client_options=""):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="rnbd-torture."))
        # A path of a Unix socket may have 107 bytes.
        self.sockets = pathlib.Path(tempfile.mkdtemp(prefix="rnbd-t.", dir="/tmp"))
        self.mount = self.directory / "mnt"
        self.network = make_network(network, self.directory, self.sockets, fabrics, seed)
        self.paths = self.network.paths
        self.loops = []
        self.disk = None
        self._seed = seed
        self._client_options = client_options
        self._connection = None
        self.server = None
        self.client = None
        self.address_in_use = 0  # attempts to start the server that failed by this
        self._make_image(megabytes, plain_disk)

    # --- Set up ---

    def start(self):
        if self._disk_mount:
            self.disk = Talker(self.directory / "disk.log", binary("testing/torture/faulty-disk"), self._disk_mount,
                               self._image, self._seed)
            if self.disk.read_line() != "ready":
                raise ScriptError("faulty-disk has not mounted")
        self._boot = self.directory / "boot_id"
        self.boot_host()
        run("mount", "--bind", self._boot, BOOT_ID)
        self._make_server(self.network.prepare())
        self.start_server()
        self._start_client(self.network.connect())

    def _make_image(self, megabytes, plain_disk):
        images = self.directory / "images"
        images.mkdir()
        self._image = images / "disk.img"
        with open(self._image, "wb") as image:
            image.truncate(megabytes << 20)
        self._served = images
        self._disk_mount = None
        if not plain_disk:
            self._disk_mount = self._served = self.directory / "disk"
            self._disk_mount.mkdir()

    def _make_server(self, listen):
        configuration = self.directory / "server.yaml"
        listeners = "".join(f"  - {entry}\n" for entry in listen)
        configuration.write_text(
            f'listen:\n{listeners}sessions:\n  - name: "*"\n    dev_search_path: {self._served}\n'
            f'heartbeat: {{interval: 400ms, timeout: {int(SERVER_HEARTBEAT * 1000)}ms}}\n'
            'queue_depth: 64\nmax_io_size: 128KiB\n')
        self.server = Program(self.directory / "server.log", *self.network.server_prefix, binary("server/rnbd-server"),
                              "--config", configuration)

    def start_server(self):
        """Again and again, as a service manager would: of a process that was killed the kernel may still have the sockets
        for a moment, when io_uring has requests on them."""
        begin = time.monotonic()
        while True:
            self.server.start()
            try:
                return self.server.await_log("rnbd-server is ready")
            except ScriptError as error:
                if "Address already in use" not in str(error) or time.monotonic() > begin + 5:
                    raise
            self.address_in_use += 1
            time.sleep(0.05)

    def _start_client(self, addresses):
        self.mount.mkdir()
        paths = ", ".join(f'"{address}"' for address in addresses)
        configuration = self.directory / "client.yaml"
        configuration.write_text(
            f'sessions:\n  - name: torture\n    paths: [{paths}]\n    devices:\n      - {{path: disk.img, name: disk}}\n'
            f'heartbeat: {{interval: 300ms, timeout: {int(CLIENT_HEARTBEAT * 1000)}ms}}\n'
            f'reconnect: {{min: 50ms, max: 500ms}}\nconnect_timeout: 2s\n{self._client_options}')
        self.client = Program(self.directory / "client.log", binary("client/rnbd-fuse"), self.mount, "--config",
                              configuration, "--foreground")
        self.client.start()
        wait_for("rnbd-fuse", (self.mount / "disk").exists)
        self._connection = pathlib.Path(f"/sys/fs/fuse/connections/{os.minor(os.stat(self.mount).st_dev)}")

    def attach_loop(self):
        device = run("losetup", "--find", "--show", "--direct-io=on", self.mount / "disk")
        self.loops.append(device)
        return device

    def detach_loop(self, device):
        run("losetup", "--detach", device)
        self.loops.remove(device)

    # --- What faults need ---

    def worker(self):
        """The client's process that serves, or None where none does now."""
        return next((child for child in self.client.children() if process_name(child) == "rnbd-fuse"), None)

    def boot_host(self):
        """By this the server's next process tells that its host was started anew."""
        self._boot.write_text(f"{uuid.uuid4()}\n")

    def heal(self):
        """No fault is left, but what has to recover may not have."""
        self.network.command("*", "clear")
        if self.disk:
            self.disk.ask("clear")
        self.server.send_signal(signal.SIGCONT)
        if not self.server.is_running():
            self.start_server()

    # --- Tear down ---

    def abort(self):
        """Ends all I/O of the mount with errors."""
        if self._connection and self._connection.exists():
            (self._connection / "abort").write_text("1")

    def stop(self):
        """In order; the client's exit status."""
        status = None
        if self.client and self.client.is_running():
            self.client.send_signal(signal.SIGTERM)
            try:
                status = self.client.wait(15)
            except ScriptError:
                self.abort()
                self.client.kill()
        self._quietly("umount", "--lazy", self.mount)
        if self.server:
            self.server.send_signal(signal.SIGCONT)
            self.server.send_signal(signal.SIGTERM)
        if self.disk:
            try:
                self.disk.ask("clear")
            except ScriptError:
                pass
        if self.server and self.server.is_running():
            try:
                self.server.wait(10)
            except ScriptError:
                self.server.kill()
        self.network.end()
        self._quietly("umount", BOOT_ID)
        if self.disk:
            self.disk.end()
            self._quietly("umount", "--lazy", self._disk_mount)
        for device in self.loops:
            self._quietly("losetup", "--detach", device)
        shutil.rmtree(self.sockets, ignore_errors=True)
        return status

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _quietly(*command):
        subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
                       timeout=30)
