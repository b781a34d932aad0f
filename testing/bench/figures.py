"""The figures that rnbd is to reach, each a ratio within one run, and whether a run reaches them."""

import collections

import load
import statistic

Figure = collections.namedtuple("Figure", "what wanted measured verdict")

REACHED = "reached"
MISSED = "missed"
UNDECIDED = "undecided"
NOT_MEASURED = "not measured"


def cells(pattern, **fields):
    return [cell for cell in load.CELLS if cell.pattern in pattern and
            all(getattr(cell, name) == value for name, value in fields.items())]


SMALL = ("randread", "randwrite")
DEEP = cells(SMALL, block=4, depth=32, jobs=1)
SINGLE = [cell for cell in cells(SMALL, block=4, depth=1) if cell.group == "common"]
STREAMS = cells(("read", "write"))
FSYNC = [cell for cell in load.CELLS if cell.group == "fsync"]


class Wanted:
    """value(mine, other) of two targets' samples, and the bound on it."""

    def __init__(self, bound, at_least, value):
        self.bound = bound
        self.at_least = at_least
        self.value = value

    def text(self):
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}×"

    def holds(self, value):
        return value >= self.bound if self.at_least else value <= self.bound


def iops_at_least(bound):
    return Wanted(bound, True, lambda mine, other: statistic.compare(mine, other).ratio)


def latency_at_most(bound):
    return Wanted(bound, False, lambda mine, other: statistic.compare(mine, other, "p50").ratio)


def processor_at_most(bound, mine_of, other_of):
    return Wanted(bound, False, lambda mine, other: (statistic.seconds_per_100k(mine, *mine_of) /
                                                     statistic.seconds_per_100k(other, *other_of)))


def best_peer(results, name, cell, place, program=""):
    spec = next((spec for spec in results.specs(cell, place) if spec.name == name), None)
    if spec is None:
        return None
    names = [peer for peer in results.peers(spec, cell, place) if peer.startswith(program)]
    return max(names, key=lambda peer: statistic.median(results.of(cell, place)[peer]), default=None)


# what, whose cells, place, mine, other (a name, or what chooses it), wanted
def rows():
    def peer(program=""):
        return lambda results, name, cell, place: best_peer(results, name, cell, place, program)

    everything = ("client", "server", "kernel")
    for place, name, deep, single in ((load.FILE, "mounted file", ((0.8, "null"), (4, peer()), (6, peer("nbdfuse"))),
                                       ((1.7, "null"), (0.55, peer()), (0.5, peer("nbdfuse")))),
                                      (load.LOOP, "loop", ((0.85, "null"), (3, peer()), (4.5, peer("nbdfuse"))),
                                       ((1.4, "null"), (0.8, peer())))):
        for cell in DEEP:
            for bound, other in deep:
                yield f"{cell.name}, {name}, TCP", cell, place, "tcp", other, iops_at_least(bound)
        for cell in SINGLE:
            for bound, other in single:
                yield f"{cell.name}, {name}, TCP: median latency", cell, place, "tcp", other, latency_at_most(bound)
    for cell in STREAMS:
        yield f"{cell.name}, TCP", cell, load.FILE, "tcp", "sockets-tcp", iops_at_least(0.9)
        yield f"{cell.name}, TCP", cell, load.FILE, "tcp", peer(), iops_at_least(1.5)
        yield f"{cell.name}, Unix", cell, load.FILE, "unix", "tcp", iops_at_least(1)
        yield f"{cell.name}, Unix", cell, load.FILE, "unix", peer(), iops_at_least(1.5)
    for cell in FSYNC:
        yield f"{cell.name}, TCP, direct I/O", cell, load.FILE, "tcp-direct", "image", iops_at_least(0.9)
        yield f"{cell.name}, TCP, direct I/O", cell, load.FILE, "tcp-direct", peer(), iops_at_least(1.2)
    for cell in DEEP:
        yield (f"{cell.name}, TCP: processor of the client", cell, load.FILE, "tcp", "null",
               processor_at_most(1.1, ("client",), ("client",)))
        yield (f"{cell.name}, TCP: processor of the server, to the null file's", cell, load.FILE, "tcp", "null",
               processor_at_most(0.5, ("server",), ("client",)))
        yield (f"{cell.name}, TCP: processor of all", cell, load.FILE, "tcp", peer(),
               processor_at_most(0.25, everything, everything))


def verdict(wanted, mine, other):
    """Only what every round agrees on is decided."""
    holds = {wanted.holds(wanted.value([one], [another])) for one, another in zip(mine, other)}
    holds.add(wanted.holds(wanted.value(mine, other)))
    return UNDECIDED if len(holds) > 1 else REACHED if holds.pop() else MISSED


def evaluate(results):
    for what, cell, place, mine, other, wanted in rows():
        name = other if isinstance(other, str) else other(results, mine, cell, place)
        samples = results.of(cell, place)
        beside = name or "the best peer"
        if mine not in samples or name not in samples:
            yield Figure(what, f"{wanted.text()} {beside}", "–", NOT_MEASURED)
            continue
        value = wanted.value(samples[mine], samples[name])
        yield Figure(what, f"{wanted.text()} {beside}", f"{value:.2f}×", verdict(wanted, samples[mine], samples[name]))


def behind(results):
    """Where a target of ours is behind the best peer in every round and by more than the noise, one line each."""
    for cell, place in results.cells():
        measured = results.of(cell, place)
        for spec in results.specs(cell, place):
            peer = results.best_peer(spec, cell, place) if spec.kind == "ours" else None
            if peer is None:
                continue
            comparison = statistic.compare(measured[spec.name], measured[peer])
            if comparison.called and comparison.ratio < 1:
                yield (f"{cell.name}, {place}: {spec.name} has {comparison.ratio:.2f}× of {peer} "
                       f"({comparison.least:.2f} to {comparison.most:.2f} in the rounds)")
