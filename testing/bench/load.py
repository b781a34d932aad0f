"""What is done to each target, and what one measurement of it gives."""

import collections
import json

import processes
import processor

FILE = "file"
LOOP = "loop"

# group: which targets it is measured on, see targets.py. pattern: as fio's rw.
Cell = collections.namedtuple("Cell", "name group pattern block depth jobs options quick", defaults=(1, (), False))

CELLS = [
    Cell("4 KiB random read, depth 1", "common", "randread", 4, 1, quick=True),
    Cell("4 KiB random write, depth 1", "common", "randwrite", 4, 1, quick=True),
    Cell("4 KiB random read, depth 32", "common", "randread", 4, 32, quick=True),
    Cell("4 KiB random write, depth 32", "common", "randwrite", 4, 32, quick=True),
    Cell("4 KiB random read, 2 × depth 32", "memory", "randread", 4, 32, jobs=2),
    Cell("4 KiB random write, 2 × depth 32", "memory", "randwrite", 4, 32, jobs=2),
    Cell("4 KiB random, 70 % reads, depth 32", "memory", "randrw", 4, 32,
         options=("--rwmixread=70", "--unified_rw_reporting=mixed")),
    Cell("64 KiB random read, depth 16", "memory", "randread", 64, 16),
    Cell("64 KiB random write, depth 16", "memory", "randwrite", 64, 16),
    Cell("128 KiB sequential read, depth 8", "memory", "read", 128, 8),
    Cell("128 KiB sequential write, depth 8", "memory", "write", 128, 8),
    Cell("1 MiB sequential read, depth 8", "common", "read", 1024, 8, quick=True),
    Cell("1 MiB sequential write, depth 8", "common", "write", 1024, 8, quick=True),
    Cell("4 KiB random write, fsync after each", "fsync", "randwrite", 4, 1, options=("--fsync=1",), quick=True),
]


def is_read(cell):
    return "read" in cell.pattern


def is_sequential(cell):
    return not cell.pattern.startswith("rand")


def fio_command(cell, path, seconds, size_mib):
    return ["fio", "--name=cell", f"--filename={path}", f"--rw={cell.pattern}", f"--bs={cell.block}k",
            f"--iodepth={cell.depth}", f"--numjobs={cell.jobs}", "--group_reporting", "--ioengine=libaio", "--direct=1",
            f"--size={size_mib}m", "--time_based", f"--runtime={seconds * 1000:.0f}ms", "--randrepeat=0",
            "--percentile_list=50:99:99.9", "--output-format=json", *cell.options]


def parse_fio(text):
    """Requests, requests a second, and percentiles of their latency in microseconds."""
    # Warnings may stand before the document.
    job = json.loads(text[text.index("{"):])["jobs"][0]
    result = job.get("mixed") or max(job["read"], job["write"], key=lambda side: side["total_ios"])
    # Where each write waits for its fsync, that is what takes long.
    latency = job["sync"]["lat_ns"] if job.get("sync", {}).get("total_ios") else result["clat_ns"]
    sample = {"requests": result["total_ios"], "iops": result["iops"]}
    for name, key in (("p50", "50.000000"), ("p99", "99.000000"), ("p99.9", "99.900000")):
        sample[name] = latency["percentile"][key] / 1000
    return sample


def measure_file(target, path, cell, seconds, size_mib):
    before = processor.now(target.client_pids(), target.server_pids())
    output, fio = processes.run(*fio_command(cell, path, seconds, size_mib), seconds=seconds + 30)
    times = processor.between(before, processor.now(target.client_pids(), target.server_pids()))
    sample = parse_fio(output)
    sample.update(client=times.client, server=times.server, kernel=times.kernel, fio=fio,
                  others=max(0.0, times.busy - times.client - times.server - times.kernel - fio), busy=times.busy)
    return sample


def measure_sockets(program, transport, cell, seconds):
    """The same bytes between two processes that do nothing else."""
    exchange = "stream" if is_sequential(cell) else "ping_pong"
    output, _ = processes.run(program, f"--transport={transport}", f"--exchange={exchange}",
                              f"--direction={'read' if is_read(cell) else 'write'}", f"--block={cell.block * 1024}",
                              f"--seconds={seconds:.2f}", seconds=seconds + 30)
    return json.loads(output)


def fill(path, size_mib):
    """Nothing of the disk is a hole afterwards, and its backend has taken the memory it needs."""
    processes.run("fio", "--name=fill", f"--filename={path}", "--rw=write", "--bs=1m", "--iodepth=8",
                  "--ioengine=libaio", "--direct=1", f"--size={size_mib}m", "--end_fsync=1", seconds=120)
