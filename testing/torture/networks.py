"""What lies between client and server: proxies on their sockets, or links of packets."""

import os
import subprocess

from programs import Talker, run
from script_support import ScriptError, binary, free_port


class ProxyNetwork:
    """A proxy on each path. Bytes may be late or end, connections break; in a byte stream none are lost or reordered."""

    KIND = "proxy"

    def __init__(self, directory, sockets, fabrics, _seed):
        self._directory = directory
        self._sockets = sockets
        self._fabrics = fabrics
        self._port = free_port()
        self._socket = sockets / "server"
        self._proxy = None
        self.paths = [f"path{number}" for number in range(len(fabrics))]
        self.server_prefix = []

    def prepare(self):
        """Before the server starts; where it is to listen."""
        return [f'tcp: "127.0.0.1:{self._port}"', f"unix: {self._socket}"]

    def connect(self):
        """When the server listens; where the client is to connect to."""
        command = []
        for name, fabric in zip(self.paths, self._fabrics):
            listen = "tcp:127.0.0.1:0" if fabric == "tcp" else f"unix:{self._sockets / name}"
            target = f"tcp:127.0.0.1:{self._port}" if fabric == "tcp" else f"unix:{self._socket}"
            command += [name, listen, target]
        self._proxy = Talker(self._directory / "proxy.log", binary("testing/torture/weather-proxy"), *command)
        addresses = []
        while (line := self._proxy.read_line()) != "ready":
            addresses.append(line.split()[1])
        return addresses

    def command(self, route, command):
        answer = self._proxy.ask(f"{route} {command}")
        if answer.startswith("error"):
            raise ScriptError(f"weather-proxy: {answer}")

    def end(self):
        if self._proxy:
            self._proxy.end()


class LinkNetwork:
    """The server in a network namespace of its own, and a link to it for each path, whose packets are delayed, lost,
    doubled and overtaken."""

    KIND = "link"

    def __init__(self, directory, _sockets, fabrics, seed):
        self._directory = directory
        self._seed = seed
        # Names and addresses that two runs at a time do not share; the addresses are for tests of networks.
        self._number = os.getpid() % 4096
        self._namespace = f"rnbd-torture-{os.getpid()}"
        self._links = None
        self.paths = [f"rt{self._number}n{index}" for index in range(len(fabrics))]
        self.server_prefix = ["nsenter", f"--net=/run/netns/{self._namespace}"]

    def _addresses(self, index):
        base = (self._number * 16 + index) * 4
        network = f"198.{18 + (base >> 16)}.{(base >> 8) & 255}."
        return network + str((base & 255) + 1), network + str((base & 255) + 2)

    def prepare(self):
        run("ip", "netns", "add", self._namespace)
        self._links = Talker(self._directory / "link.log", binary("testing/torture/weather-link"),
                             f"/run/netns/{self._namespace}", self._seed, *self.paths)
        if self._links.read_line() != "ready":
            raise ScriptError("weather-link has made no links")
        for index, name in enumerate(self.paths):
            here, there = self._addresses(index)
            run("ip", "address", "add", f"{here}/30", "dev", name)
            run("ip", "link", "set", name, "up")
            run(*self.server_prefix, "ip", "address", "add", f"{there}/30", "dev", name)
            run(*self.server_prefix, "ip", "link", "set", name, "up")
        return ['tcp: "0.0.0.0:1234"']

    def connect(self):
        return [f"tcp:{self._addresses(index)[1]}:1234" for index in range(len(self.paths))]

    def command(self, route, command):
        answer = self._links.ask(f"{route} {command}")
        if answer != "ok":
            raise ScriptError(f"weather-link: {answer}")

    def end(self):
        if self._links:
            self._links.end()
        subprocess.run(["ip", "netns", "delete", self._namespace], stderr=subprocess.DEVNULL, check=False, timeout=30)


def make_network(name, *arguments):
    return {"proxy": ProxyNetwork, "link": LinkNetwork}[name](*arguments)
