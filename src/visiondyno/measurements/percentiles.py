"""Percentiles, means and differences of samples, each with a 95 % interval; nothing is clipped.

How each interval is made, and what it assumes, is in docs/methods.md.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from visiondyno.measurements.measure import Interval

Samples = Sequence[float] | NDArray[np.float64]

FEWEST_FOR_MEAN_INTERVAL = 30
"""Under this many samples batch means say nothing about autocorrelation: no interval."""

_FEWEST_FOR_TWENTY_BATCHES = 100


def percentile(samples: Samples, q: float) -> float:
    """The q-quantile as LoadGen takes it: the ⌊n·q⌋-th smallest sample, counted from 0.

    It is always an observed value, never an interpolation. Where n·q is a whole number this is
    the larger of the two neighbours, which is on the safe side for a latency.

    Args:
        samples: at least one number, in any order and unit.
        q: in (0, 1), 0.9 for p90.

    Raises:
        ValueError: no samples, a NaN among them, or q outside (0, 1).
    """
    ordered = _sorted(samples, q)
    return float(ordered[min(int(len(ordered) * q), len(ordered) - 1)])


def percentile_interval(
    samples: Samples, q: float, confidence: float = 0.95, *, in_order: bool = True
) -> Interval:
    """A distribution-free interval for the q-quantile, between two order statistics.

    The number of samples under the true quantile is Binomial(n, q), so P(X₍ₗ₎ > quantile) and
    P(X₍ᵤ₎ < quantile) are exact binomial tails; each is kept ≤ (1 − confidence)/2, hence the
    coverage is at least `confidence` for independent samples of any continuous distribution
    (David and Nagaraja, Order Statistics, 3rd ed., section 7.1).

    Args:
        samples: in order of time, unless `in_order` is False.
        q: in (0, 1), 0.9 for p90.
        confidence: in (0, 1).
        in_order: the samples may be autocorrelated, as the latencies of one run are: both ranks
            are moved away from n·q as much as batch means of "is at most the quantile" vary more
            than independent ones would; never closer to it. False: they are independent.

    Returns:
        Low and high in the samples' unit; None where no order statistic bounds that side.

    Raises:
        ValueError: as `percentile`, or confidence outside (0, 1).
    """
    ordered = _sorted(samples, q)
    tail = _tail(confidence)
    n = len(ordered)
    ranks = np.arange(n + 1, dtype=np.float64)
    # X₍ₗ₎ (l from 1) exceeds the quantile when fewer than l samples lie under it; X₍ᵤ₎ falls
    # short when at least u do. Of the ranks that err seldom enough, take the closest to n·q.
    low_rank = int(np.searchsorted(special.bdtr(ranks, n, q), tail, side="right"))
    short = special.bdtrc(ranks[:n], n, q) <= tail
    high_rank = int(np.argmax(short)) + 1 if short.any() else n + 1
    if in_order:
        widening = _dependence(_checked(samples), percentile(samples, q), tail)
        # A rank outside the sample stays outside: widening never brings a bound back.
        low_rank = math.floor(n * q - widening * (n * q - low_rank))
        high_rank = math.ceil(n * q + widening * (high_rank - n * q))
    low = float(ordered[low_rank - 1]) if low_rank >= 1 else None
    high = float(ordered[high_rank - 1]) if high_rank <= n else None
    return low, high


def mean_interval(samples: Samples, confidence: float = 0.95) -> Interval | None:
    """An interval for the mean of a series that may be autocorrelated: batch means and Student's t.

    The series is cut, in its order, into 20 successive batches (10 under 100 samples); their
    means are nearly independent once a batch is longer than the correlation (Schmeiser 1982,
    Batch Size Effects in the Analysis of Simulation Output).

    Args:
        samples: in order of time.
        confidence: in (0, 1).

    Returns:
        Low and high in the samples' unit; None under 30 samples.

    Raises:
        ValueError: no samples, a NaN among them, or confidence outside (0, 1).
    """
    series = _checked(samples)
    tail = _tail(confidence)
    n = len(series)
    if n < FEWEST_FOR_MEAN_INTERVAL:
        return None
    means = _batch_means(series)
    count = len(means)
    half = float(special.stdtrit(count - 1, 1 - tail)) * float(means.std(ddof=1)) / math.sqrt(count)
    mean = float(series.mean())
    return mean - half, mean + half


def difference_interval(
    a_value: float, a_interval: Interval, b_value: float, b_interval: Interval
) -> Interval:
    """An interval for a − b from the interval of each, for unpaired statistics: MOVER.

    L = a − b − √((a − lₐ)² + (u_b − b)²), U = a − b + √((uₐ − a)² + (b − l_b)²); Zou and Donner
    2008, Construction of confidence limits about effect measures. The intervals need not be
    symmetric; the result has their confidence.

    Returns:
        Low and high; None on a side that a or b does not bound.
    """
    difference = a_value - b_value
    (a_low, a_high), (b_low, b_high) = a_interval, b_interval
    low = high = None
    if a_low is not None and b_high is not None:
        low = difference - math.hypot(a_value - a_low, b_high - b_value)
    if a_high is not None and b_low is not None:
        high = difference + math.hypot(a_high - a_value, b_value - b_low)
    return low, high


def proportion_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927), never outside [0, 1].

    Raises:
        ValueError: n < 1, successes outside [0, n], or confidence outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"A proportion needs 0 <= successes <= n and n >= 1, not {successes}/{n}.")
    z = float(special.ndtri(1 - _tail(confidence)))
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def _batch_means(series: NDArray[np.float64]) -> NDArray[np.float64]:
    count = 20 if len(series) >= _FEWEST_FOR_TWENTY_BATCHES else 10
    return np.array([batch.mean() for batch in np.array_split(series, count)])


def _dependence(series: NDArray[np.float64], quantile: float, tail: float) -> float:
    """How much wider an interval must be than of independent samples, at least 1.

    The standard deviation of batch means of the indicator over that of independent indicators,
    times Student's t over the normal quantile, since it is estimated from few batches.
    """
    if len(series) < FEWEST_FOR_MEAN_INTERVAL:
        return 1.0
    under = (series <= quantile).astype(np.float64)
    share = float(under.mean())
    if share == 1:
        return 1.0
    means = _batch_means(under)
    independent = math.sqrt(share * (1 - share) * len(means) / len(series))
    student = float(special.stdtrit(len(means) - 1, 1 - tail)) / float(special.ndtri(1 - tail))
    return max(1.0, student * float(means.std(ddof=1)) / independent)


def _checked(samples: Samples) -> NDArray[np.float64]:
    series = np.asarray(samples, dtype=np.float64)
    if series.ndim != 1 or not len(series):
        raise ValueError("A statistic needs at least one sample in a flat sequence.")
    if np.isnan(series).any():
        raise ValueError("A sample is not a number; take it out where it was measured.")
    return series


def _sorted(samples: Samples, q: float) -> NDArray[np.float64]:
    if not 0 < q < 1:
        raise ValueError(f"A quantile lies in (0, 1), not {q}.")
    return np.sort(_checked(samples))


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence lies in (0, 1), not {confidence}.")
    return (1 - confidence) / 2
