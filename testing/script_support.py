"""What scripts share that start programs of this tree and wait for them."""

import os
import pathlib
import random
import socket
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


class ScriptError(Exception):
    """What ends a script: something does not go on, or could not be set up."""


def binary(path):
    """A program of this tree, in Bazel's runfiles or built by hand."""
    here = pathlib.Path(path)
    return here.absolute() if os.access(here, os.X_OK) else ROOT / "bazel-bin" / path


def wait_for(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ScriptError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def free_port():
    """Below those that the system gives to connections: one that is made while nobody listens could be its own peer,
    and keep the port from whoever is to listen there again."""
    while True:
        port = random.SystemRandom().randrange(10000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
