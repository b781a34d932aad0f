"""What the samples of a cell say, and when they say nothing."""

import collections
import statistics

# ratio: of the medians. called: whether that is a difference, or inside the noise.
Comparison = collections.namedtuple("Comparison", "ratio least most called")


def median(samples, key="iops"):
    return statistics.median(sample[key] for sample in samples)


def spread(samples, key="iops"):
    """Half the distance between the quartiles, or of the extremes where there are too few for quartiles, as a part of
    the median."""
    values = [sample[key] for sample in samples]
    middle = statistics.median(values)
    if middle == 0:
        return 0.0
    low, high = min(values), max(values)
    if len(values) >= 4:
        low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def compare(samples, others, key="iops"):
    """Round by round, since what else the machine did in a round has met both. A difference is called only if it is the
    same way round in every one of three rounds and more, and larger than the spreads together."""
    rounds = [mine[key] / other[key] for mine, other in zip(samples, others) if other[key]]
    base = median(others, key)
    if not rounds or base == 0:
        return Comparison(float("nan"), float("nan"), float("nan"), False)
    ratio = median(samples, key) / base
    one_way = len(rounds) >= 3 and (min(rounds) > 1 or max(rounds) < 1)
    noise = spread(samples, key) + spread(others, key)
    return Comparison(ratio, min(rounds), max(rounds), one_way and abs(ratio - 1) > noise)


def seconds_per_100k(samples, *keys):
    """Of processor, over all rounds together: one round has too few ticks of the clock."""
    requests = sum(sample["requests"] for sample in samples)
    return 1e5 * sum(sample[key] for sample in samples for key in keys) / requests if requests else float("nan")
