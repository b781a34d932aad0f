"""Who has used the processors, in seconds since the start of each.

The time of the two programs is their processes', with every thread that io_uring has made for them. The kernel's own
part is what its threads took: loop devices, writeback and deferred network work run there. It is summed over these
threads, not found as the rest of /proc/stat, because that rest is also whatever else the machine was doing. What is
left of /proc/stat then is reported as "others": a measurement beside which others took much is not worth much.

Work of the kernel that a program waits for, or that an interrupt does in its name, counts as the program's: that is
where the kernel books it. So a packet on loopback is charged to its sender. A kernel thread that has ended meanwhile
takes its share with it to "others".
"""

import collections
import os

TICKS = os.sysconf("SC_CLK_TCK")
KERNEL_THREADS = 2  # the process number of their parent

Times = collections.namedtuple("Times", "client server kernel busy")


def parse_stat(text):
    """The parent, and the seconds in user and system mode, of a process in /proc/PID/stat."""
    # The name before may hold anything, brackets and spaces included.
    fields = text[text.rindex(")") + 2:].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS


def parse_machine(text):
    """Seconds that the processors were busy, of /proc/stat: all but idle and waiting for disks."""
    # user nice system idle iowait irq softirq steal; what guests took is part of user.
    fields = [int(field) for field in text.split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def read_stat(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return parse_stat(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0.0


def family(pid):
    """A process and all that it has started."""
    members = [pid]
    for member in members:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{task}/children", encoding="ascii") as file:
                    members.extend(int(child) for child in file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return members


def now(clients, servers):
    """Times since the start; those of the kernel's threads thread by thread, as {number: seconds}."""
    def of(pids):
        return sum(read_stat(member)[1] for pid in pids for member in family(pid))

    kernel = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent, seconds = read_stat(entry)
            if parent == KERNEL_THREADS:
                kernel[int(entry)] = seconds
    with open("/proc/stat", encoding="ascii") as file:
        busy = parse_machine(file.read())
    return Times(of(clients), of(servers), kernel, busy)


def between(before, after):
    # One that has ended is in the first only, with all the time that it ever had.
    kernel = sum(max(0.0, seconds - before.kernel.get(number, 0.0)) for number, seconds in after.kernel.items())
    return Times(after.client - before.client, after.server - before.server, kernel, after.busy - before.busy)
