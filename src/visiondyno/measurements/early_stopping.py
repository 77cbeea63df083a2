"""LoadGen's early-stopping bound: a percentile estimate that is too low at most 1 time in 100.

A percentile of few queries is uncertain. MLPerf's LoadGen therefore reports a larger order
statistic. With n queries of which t are at least as slow as the estimate, it asks that
P(Binomial(n, 1 − q) ≤ t) < 0.01: were a share of 1 − q or more of all queries slower, so few slow
ones would be seen less than once in a hundred runs. The largest such t gives the estimate: the
t-th largest latency, with t − 1 queries discarded. Tolerance d is 0, as in LoadGen (MLPerf
Inference rules, appendix "Early Stopping Criterion"; loadgen/early_stopping.cc and results.cc).
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from visiondyno.measurements.measure import Measure, measured, not_measured
from visiondyno.measurements.percentiles import Samples

CONFIDENCE = 0.99
"""LoadGen's, fixed by MLPerf's rules."""


@dataclass(frozen=True, slots=True)
class EarlyStoppingEstimate:
    """LoadGen's early-stopping estimate of one percentile.

    Attributes:
        q: the percentile as a fraction, 0.9 for p90.
        n: queries seen.
        needed: the fewest queries that allow an estimate.
        discarded: how many of the slowest queries were left out; None under `needed`.
        value: the estimate in the samples' unit; None under `needed`.
    """

    q: float
    n: int
    needed: int
    discarded: int | None
    value: float | None

    @property
    def reason(self) -> str | None:
        """Why there is no estimate."""
        if self.value is not None:
            return None
        return (
            f"{self.n} queries are too few for LoadGen's bound on p{self.q * 100:g}: "
            f"it needs {self.needed}. Measure for longer."
        )

    def as_measure(self, name: str) -> Measure:
        """As the measure `name` (a latency percentile), or not measured with the reason."""
        if self.value is None:
            return not_measured(name, self.reason or "")
        method = (
            f"LoadGen's early-stopping estimate: binomial, tolerance 0, confidence {CONFIDENCE}; "
            f"the {self.discarded} slowest of {self.n} queries discarded"
        )
        return measured(name, self.value, method, n=self.n)


def minimum_queries(q: float) -> int:
    """The fewest queries for which LoadGen gives an estimate: 64 for p90, 662 for p99.

    Raises:
        ValueError: q outside (0, 1).
    """
    if not 0 < q < 1:
        raise ValueError(f"A quantile lies in (0, 1), not {q}.")
    high = 2
    while not _passes(high, 1, q):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _passes(middle, 1, q) else (middle, high)
    return high


def discarded_queries(n: int, q: float) -> int | None:
    """How many of the slowest of `n` queries LoadGen would discard; None for too few queries.

    Raises:
        ValueError: q outside (0, 1).
    """
    if n < minimum_queries(q):
        return None
    low, high = 1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _passes(n, middle, q) else (low, middle)
    return low - 1


def early_stopping_estimate(samples: Samples, q: float) -> EarlyStoppingEstimate:
    """LoadGen's early-stopping estimate of the q-quantile.

    Args:
        samples: all latencies, in any order and unit.
        q: in (0, 1), 0.9 for p90.

    Raises:
        ValueError: q outside (0, 1).
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    discarded = discarded_queries(n, q)
    value = None if discarded is None else float(ordered[n - 1 - discarded])
    return EarlyStoppingEstimate(q, n, minimum_queries(q), discarded, value)


def _passes(n: int, slow: int, q: float) -> bool:
    """Whether P(Binomial(n, 1 − q) ≤ slow) < 1 − confidence, by the incomplete beta function."""
    if slow >= n:
        return False
    return float(special.betainc(n - slow, slow + 1, q)) < 1 - CONFIDENCE
