"""What can go wrong, by name. Each fault draws all that is random about it from its own generator, so that a
schedule is the same whenever it is run."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Callable

from script_support import wait_for
from world import CLIENT_HEARTBEAT, SERVER_HEARTBEAT

FAILOVER = 1.0  # to another path, or to a new worker
# A session that was lost as a whole comes back by an attempt of the client, at most so late.
RECONNECT = 2.0


@dataclass(frozen=True)
class Fault:
    """`inject` makes it happen and ends it again; it returns for how long I/O may stand still."""
    inject: Callable
    text: str
    paths: int = 1             # that the session needs
    disk: bool = False         # needs the faulty disk
    worker: bool = False       # needs a client whose worker can be killed
    network: str = ""          # needs this kind of network
    errors: bool = False       # requests may fail; not for file systems
    flush_errors: bool = False  # flushes may


def _path(world, random):
    return world.paths[random.randrange(len(world.paths))]


def _all(_world, _random):
    return "*"


def _pass(seconds):
    time.sleep(seconds)
    return seconds


# --- The network ---

def _one(command):
    def inject(world, random):
        path, number = _path(world, random), random.randrange(100)
        world.network.command(path, command.format(number=number))
        return FAILOVER
    return inject


def _path_down(world, random):
    path = _path(world, random)
    world.network.command(path, "refuse")
    world.network.command(path, "reset")
    _pass(random.uniform(0.2, 3))
    world.network.command(path, "clear")
    return FAILOVER


def _path_flap(world, random):
    path = _path(world, random)
    for _ in range(random.randrange(3, 12)):
        world.network.command(path, "refuse")
        world.network.command(path, "reset")
        _pass(random.uniform(0.01, 0.2))
        world.network.command(path, "accept")
        _pass(random.uniform(0.01, 0.4))
    # A request may meet it more than once.
    return 2 * FAILOVER


def _silence(route_of, command):
    def inject(world, random):
        route = route_of(world, random)
        world.network.command(route, command)
        # Until both ends have noticed, and longer.
        seconds = _pass(max(CLIENT_HEARTBEAT, SERVER_HEARTBEAT) * random.uniform(1.4, 2.5))
        world.network.command(route, "clear")
        everything = route == "*"
        return seconds + RECONNECT if everything else CLIENT_HEARTBEAT + 0.5 + FAILOVER
    return inject


def _path_blink(world, random):
    path = _path(world, random)
    world.network.command(path, "stall")
    seconds = _pass(CLIENT_HEARTBEAT * random.uniform(0.1, 0.6))
    world.network.command(path, "go_on")
    return seconds + FAILOVER


def _weather(command, low, high):
    def inject(world, random):
        path = _path(world, random)
        world.network.command(path, f"{command} {random.randrange(low, high)}")
        seconds = _pass(random.uniform(0.5, 2))
        world.network.command(path, "clear")
        return seconds + FAILOVER
    return inject


def _packets(command, low, high):
    def inject(world, random):
        path = _path(world, random) if random.random() < 0.7 else "*"
        world.network.command(path, f"{command} {random.randrange(low, high)}")
        seconds = _pass(random.uniform(1, 3))
        world.network.command(path, "clear")
        # TCP waits longer and longer before it sends again.
        return 2 * seconds + FAILOVER
    return inject


def _rain(world, random):
    """Some of everything, on every path."""
    for command, most in (("loss", 50), ("duplicate", 50), ("reorder", 300), ("delay", 20)):
        world.network.command("*", f"{command} {random.randrange(most)}")
    seconds = _pass(random.uniform(1, 4))
    world.network.command("*", "clear")
    return 2 * seconds + FAILOVER


def _all_reset(world, _random):
    world.network.command("*", "reset")
    return RECONNECT


def _all_down(world, random):
    world.network.command("*", "refuse")
    world.network.command("*", "reset")
    seconds = _pass(random.uniform(0.2, 4))
    world.network.command("*", "clear")
    return seconds + RECONNECT


def _paths_in_turn(world, random):
    """Each path is lost soon after the last one, while that one comes back."""
    for number in range(random.randrange(4, 10)):
        world.network.command(world.paths[number % len(world.paths)], "reset")
        _pass(random.uniform(0.02, 0.3))
    return RECONNECT


# --- The server ---

def _restart(world, random, longest=1.5):
    seconds = _pass(random.uniform(0, longest) if random.random() < 0.5 else 0)
    world.start_server()
    return seconds + RECONNECT + FAILOVER


def _server_kill(world, random):
    world.server.kill()
    return _restart(world, random)


def _server_term(world, random):
    world.server.send_signal(signal.SIGTERM)
    world.server.wait(10)
    return 1 + _restart(world, random)


def _server_stop(world, random):
    world.server.send_signal(signal.SIGSTOP)
    seconds = _pass(CLIENT_HEARTBEAT * random.uniform(1.5, 3))
    world.server.send_signal(signal.SIGCONT)
    return seconds + RECONNECT


def _server_blink(world, random):
    world.server.send_signal(signal.SIGSTOP)
    seconds = _pass(CLIENT_HEARTBEAT * random.uniform(0.1, 0.6))
    world.server.send_signal(signal.SIGCONT)
    return seconds + FAILOVER


def _host_lost(world, random):
    """What the server's host had not made durable is lost by half."""
    world.server.kill()
    # Answers that are under way are still answers of the lost host.
    _pass(0.3)
    world.disk.ask("power_loss")
    world.load.host_lost()
    world.boot_host()
    return 0.3 + _restart(world, random)


# --- The client ---

def _kill_worker(world):
    wait_for("a worker of rnbd-fuse", world.worker)
    os.kill(world.worker(), signal.SIGKILL)


def _worker_kill(world, _random):
    _kill_worker(world)
    return FAILOVER


def _worker_kill_twice(world, random):
    _kill_worker(world)
    seconds = _pass(random.uniform(0, 0.5))
    _kill_worker(world)
    return seconds + 2 * FAILOVER


def _worker_stop(world, random):
    worker = world.worker() or world.client.process.pid
    os.kill(worker, signal.SIGSTOP)
    seconds = _pass(SERVER_HEARTBEAT * random.uniform(1.3, 2.5))
    os.kill(worker, signal.SIGCONT)
    return seconds + RECONNECT


def _both_kill(world, random):
    world.server.kill()
    _kill_worker(world)
    return FAILOVER + _restart(world, random)


# --- The disk ---

def _disk_slow(world, random):
    milliseconds = random.randrange(50, 1500)
    world.disk.ask(f"slow {random.randrange(5, 60)} {milliseconds}")
    _pass(random.uniform(0.5, 2))
    world.disk.ask("clear")
    return milliseconds / 1000 + FAILOVER


def _disk_hang(world, random):
    world.disk.ask("hang")
    seconds = _pass(SERVER_HEARTBEAT * random.uniform(0.5, 2))
    world.disk.ask("go_on")
    return seconds + FAILOVER


def _disk_error(world, random):
    world.disk.ask(f"fail {random.randrange(1, 30)}")
    _pass(random.uniform(0.05, 0.5))
    world.disk.ask("clear")
    return FAILOVER


# --- An old write that is late: what fencing is for ---

def _while_disk_hangs(fault):
    """The fault meets requests in the server's kernel, and they end only after new ones could have run."""
    def inject(world, random):
        begin = time.monotonic()
        world.disk.ask("hang")
        _pass(random.uniform(0.02, 0.3))
        world.disk.ask("pass")
        stall = fault(world, random)
        _pass(random.uniform(0.1, 1.5))
        world.disk.ask("go_on")
        return time.monotonic() - begin + stall
    return inject


def _slow_disk_and(fault):
    def inject(world, random):
        milliseconds = random.randrange(50, 800)
        world.disk.ask(f"slow {random.randrange(20, 80)} {milliseconds}")
        _pass(random.uniform(0.05, 0.3))
        stall = fault(world, random)
        _pass(random.uniform(0.1, 1))
        world.disk.ask("clear")
        # Of a request itself, of the slowest one that the fence waits for, and of the request when it is sent again.
        return 3 * milliseconds / 1000 + stall
    return inject


PROXY = {"network": "proxy"}
LINK = {"network": "link"}
TWO_PATHS = {"paths": 2}
PATHS = {**PROXY, **TWO_PATHS}
DISK = {"disk": True}
WORKER = {"worker": True}

FAULTS = {
    "connection_reset": Fault(_one("reset_one {number}"), "one connection of a path breaks", **PATHS),
    "path_reset": Fault(_one("reset"), "a path's connections break", **PATHS),
    "path_cut": Fault(_one("cut"), "a path's connections end", **PATHS),
    "path_down": Fault(_path_down, "a path breaks and is refused for a while", **PATHS),
    "path_flap": Fault(_path_flap, "a path goes and comes many times", **PATHS),
    "paths_in_turn": Fault(_paths_in_turn, "one path breaks after the other", **PATHS),
    "path_stall": Fault(_silence(_path, "stall"), "a path is silent, and what was held comes later", **TWO_PATHS),
    "path_half_open": Fault(_silence(_path, "forget"), "a path has ended for the server only", **PATHS),
    "path_blink": Fault(_path_blink, "a path is silent for less than the heartbeat"),
    "path_delay": Fault(_weather("delay", 5, 150), "a path is slow to arrive"),
    "path_narrow": Fault(_weather("limit", 50_000, 2_000_000), "a path has little bandwidth"),
    "packet_loss": Fault(_packets("loss", 5, 150), "packets are lost", **LINK),
    "packet_reorder": Fault(_packets("reorder", 50, 600), "packets overtake each other", **LINK),
    "packet_duplicate": Fault(_packets("duplicate", 50, 600), "packets come twice", **LINK),
    "packet_rain": Fault(_rain, "all of these", **LINK),
    "all_reset": Fault(_all_reset, "all connections break", **PROXY),
    "all_down": Fault(_all_down, "all paths break and are refused for a while", **PROXY),
    "all_stall": Fault(_silence(_all, "stall"), "all paths are silent, and what was held comes later"),
    "all_half_open": Fault(_silence(_all, "forget"), "all paths have ended for the server only", **PROXY),
    "server_kill": Fault(_server_kill, "kill -9 of the server"),
    "server_term": Fault(_server_term, "SIGTERM to the server"),
    "server_stop": Fault(_server_stop, "the server stands for longer than the heartbeat"),
    "server_blink": Fault(_server_blink, "the server stands for less than the heartbeat"),
    "host_lost": Fault(_host_lost, "the server's host loses its power and comes back", **DISK, flush_errors=True),
    "worker_kill": Fault(_worker_kill, "kill -9 of the client's worker", **WORKER),
    "worker_kill_twice": Fault(_worker_kill_twice, "and of the next one at once", **WORKER),
    "worker_stop": Fault(_worker_stop, "the client stands for longer than the heartbeat"),
    "both_kill": Fault(_both_kill, "kill -9 of server and worker", **WORKER),
    "disk_slow": Fault(_disk_slow, "the server's disk is slow", **DISK),
    "disk_hang": Fault(_disk_hang, "the server's disk hangs for a while", **DISK),
    "disk_error": Fault(_disk_error, "the server's disk fails requests", **DISK, errors=True),
    "hang_path_reset": Fault(_while_disk_hangs(_one("reset")), "a path breaks while the disk hangs", **PATHS, **DISK),
    "hang_path_stall": Fault(_while_disk_hangs(_silence(_path, "stall")),
                             "a path is silent while it hangs", **TWO_PATHS, **DISK),
    "hang_path_half_open": Fault(_while_disk_hangs(_silence(_path, "forget")),
                                 "a path has ended for the server only while it hangs", **PATHS, **DISK),
    "hang_paths_in_turn": Fault(_while_disk_hangs(_paths_in_turn),
                                "one path breaks after the other while it hangs", **PATHS, **DISK),
    "hang_worker_stop": Fault(_while_disk_hangs(_worker_stop), "the client stands while it hangs", **DISK),
    "hang_all_reset": Fault(_while_disk_hangs(_all_reset), "all connections break while it hangs", **PROXY, **DISK),
    "hang_server_kill": Fault(_while_disk_hangs(_server_kill), "kill -9 of the server while it hangs", **DISK),
    "hang_worker_kill": Fault(_while_disk_hangs(_worker_kill),
                              "kill -9 of the worker while it hangs", **DISK, **WORKER),
    "hang_both_kill": Fault(_while_disk_hangs(_both_kill), "kill -9 of both while it hangs", **DISK, **WORKER),
    "slow_path_reset": Fault(_slow_disk_and(_one("reset")), "a path breaks while the disk is slow", **PATHS, **DISK),
    "slow_path_flap": Fault(_slow_disk_and(_path_flap), "a path goes and comes while it is slow", **PATHS, **DISK),
    "slow_path_stall": Fault(_slow_disk_and(_silence(_path, "stall")),
                             "a path is silent while it is slow", **TWO_PATHS, **DISK),
    "slow_paths_in_turn": Fault(_slow_disk_and(_paths_in_turn),
                                "one path breaks after the other while it is slow", **PATHS, **DISK),
    "slow_all_reset": Fault(_slow_disk_and(_all_reset), "all connections break while it is slow", **PROXY, **DISK),
    "slow_server_kill": Fault(_slow_disk_and(_server_kill), "kill -9 of the server while it is slow", **DISK),
    "slow_worker_kill": Fault(_slow_disk_and(_worker_kill),
                              "kill -9 of the worker while it is slow", **DISK, **WORKER),
}
