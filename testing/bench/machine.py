"""What the benchmarks' commands share: the machine, its mounts, and the build."""

import os
import platform
import re
import subprocess
import sys

import script_support


def in_private_mounts():
    """Mounts of ours are seen by, and survive in, no other process."""
    if "RNBD_IN_PRIVATE_MOUNTS" not in os.environ:
        os.environ["RNBD_IN_PRIVATE_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--", sys.executable] + sys.argv)


def build(programs):
    """Once, however often the command executes itself."""
    if "RNBD_IN_PRIVATE_MOUNTS" in os.environ:
        return
    subprocess.run([script_support.ROOT / "testing/install_packages", "build", "run", "bench"], check=True)
    subprocess.run(["bazel", "build", "-c", "opt", "--noshow_progress", *programs], cwd=script_support.ROOT, check=True)


def first_line(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def describe(name):
    """The command `name` as it was called, and what it runs on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(re.search(r"MemTotal: *(\d+)", file.read())[1]) >> 20
    return {
        "command": " ".join([f"testing/bench/{name}", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} processors ({model[1] if model else platform.machine()}), {memory} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }
