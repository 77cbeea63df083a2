"""Repeats in fresh processes: how much of a number belongs to the one process it was taken in.

Memory layout, thread placement and clock speed are drawn anew with each process and stay for its
life, so samples of one process are alike and their interval misses that part. With several
processes the process is the unit: its value is one sample, and Student's t over those values holds
both parts (Kalibera and Jones 2013, Rigorous Benchmarking in Reasonable Time, section 5).
"""

import math
import statistics
from collections.abc import Sequence

from scipy import special

from visiondyno.measurements.measure import Interval, Measure, Measures

FEWEST_FOR_T = 3
"""With two processes t has one degree of freedom and says nothing; there the two intervals' hull
stands in."""


def merge_repeats(runs: Sequence[Measures], of: str = "fresh processes") -> Measures:
    """The same measures of several processes as one.

    The value is the mean of the processes' values and `n` the sum of their samples. From three
    processes on the interval is Student's t over the values, 95 %; of two it is the hull of both
    intervals. One run is returned as it is.

    Args:
        runs: at least one; all with the same names.
        of: what was repeated, for the measures' methods.
    """
    if len(runs) == 1:
        return dict(runs[0])
    return {name: _merge([run[name] for run in runs], of) for name in runs[0]}


def _merge(each: Sequence[Measure], of: str) -> Measure:
    missing = next((measure for measure in each if measure.value is None), None)
    if missing is not None:
        return missing
    values = [measure.value for measure in each if measure.value is not None]
    counts = [measure.n for measure in each if measure.n is not None]
    how = "Student's t over them" if len(values) >= FEWEST_FOR_T else "the hull of both intervals"
    return each[0].model_copy(
        update={
            "value": statistics.fmean(values),
            "interval": _interval(values, [measure.interval for measure in each]),
            "n": sum(counts) if counts else None,
            "method": f"{each[0].method}; mean of {len(values)} {of}, interval: {how}",
            "estimated": any(measure.estimated for measure in each),
        }
    )


def _interval(values: Sequence[float], intervals: Sequence[Interval | None]) -> Interval | None:
    if len(values) >= FEWEST_FOR_T:
        quantile = float(special.stdtrit(len(values) - 1, 0.975))
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        mean = statistics.fmean(values)
        return mean - half, mean + half
    # A reading without an interval counts as itself.
    known = [
        (value, value) if interval is None else interval
        for value, interval in zip(values, intervals, strict=True)
    ]
    lows, highs = [low for low, _ in known], [high for _, high in known]
    return (
        None if None in lows else min(low for low in lows if low is not None),
        None if None in highs else max(high for high in highs if high is not None),
    )
