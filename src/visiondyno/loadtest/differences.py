"""How targets differ from the first one, each difference with an interval.

The targets take turns, so round k of one is paired with round k of another: what changed on the
way (a neighbour, the network, the clock speed) changed for both. From three rounds on Student's t
over the paired differences holds all of that. With fewer the intervals of both values are combined
as if they were independent (MOVER, Zou and Donner 2008).
"""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from scipy import special

from visiondyno.loadtest.together import errors_together, hull
from visiondyno.measurements.measure import Interval
from visiondyno.measurements.percentiles import difference_interval
from visiondyno.measurements.repeats import FEWEST_FOR_T
from visiondyno.report.load_test import TargetDifference, TargetResult
from visiondyno.report.load_test_measures import LOAD_MEASURES

COMPARED = (
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "latency_mean_ms",
    "throughput_requests_per_s",
    "error_fraction",
)
"""The measures that are compared, in order."""


def turns(targets: int, round_number: int) -> list[int]:
    """In which order the targets take their turn in a round; every second one turns it around.

    So none always follows the same other one, and a drift over a round falls on all alike.
    """
    order = list(range(targets))
    return order if round_number % 2 else order[::-1]


def target_differences(targets: Sequence[TargetResult]) -> tuple[TargetDifference, ...]:
    """Each later target less the first one, in every measure of `COMPARED`."""
    first, *others = targets
    return tuple(_difference(first, other, name) for other in others for name in COMPARED)


def _difference(first: TargetResult, other: TargetResult, name: str) -> TargetDifference:
    value, interval = _paired(first, other, name)
    if interval is None:
        value, interval = _unpaired(first, other, name)
    return TargetDifference(
        measure=name,
        target=other.name,
        difference=value,
        unit=LOAD_MEASURES[name].unit,
        interval=interval,
        verdict=_verdict(value, interval),
    )


def _paired(
    first: TargetResult, other: TargetResult, name: str
) -> tuple[float | None, Interval | None]:
    pairs = [
        (ours.measures[name].value, theirs.measures[name].value)
        for ours, theirs in zip(first.rounds, other.rounds, strict=False)
    ]
    # A pair that lacks a value lacks it because something took too long: leaving it out would
    # make the slower target look better.
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    if len(differences) < FEWEST_FOR_T or len(differences) < len(pairs):
        return None, None
    mean = statistics.fmean(differences)
    quantile = float(special.stdtrit(len(differences) - 1, 0.975))
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    interval: Interval = (mean - half, mean + half)
    if name == "error_fraction":
        interval = hull(interval, _counted(first, other))
    return mean, interval


def _counted(first: TargetResult, other: TargetResult) -> Interval:
    """The difference of error fractions by the requests alone (Newcombe 1998, method 10).

    Rounds without an error are all alike, and Student's t of equal values has no width.
    """
    ours, theirs = (
        errors_together([one.measures["error_fraction"] for one in target.rounds])
        for target in (first, other)
    )
    return difference_interval(*theirs, *ours)


def _unpaired(
    first: TargetResult, other: TargetResult, name: str
) -> tuple[float | None, Interval | None]:
    ours, theirs = first.measures.get(name), other.measures.get(name)
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return None, None
    value = theirs.value - ours.value
    if ours.interval is None or theirs.interval is None:
        return value, None
    return value, difference_interval(theirs.value, theirs.interval, ours.value, ours.interval)


def _verdict(
    value: float | None, interval: Interval | None
) -> Literal["higher", "lower", "level", "unknown"]:
    low, high = interval or (None, None)
    if value is None or (low is None and high is None):
        return "unknown"
    if low is not None and low > 0:
        return "higher"
    if high is not None and high < 0:
        return "lower"
    return "level" if low is not None and high is not None else "unknown"
