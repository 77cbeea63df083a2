"""A task's leaderboard: the best submission of each name, those that can't be told apart tied.

Rows are in order of score. A row is tied with the row that leads its group where the 95 % interval
of their difference holds 0 (as in a comparison's winners), or where that interval is unknown; it
shares the leader's rank. Otherwise it leads the next group, and its rank counts all rows above it
(1, 1, 3). A row is compared with its group's leader only, because "can't be told apart" isn't
transitive: a chain of neighbours, each within the interval of the next, would tie first and last.

Models were scored on the same images, so the difference is paired over their half-samples where
both have them; else the two intervals are combined as if independent, which ties more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from visiondyno.measurements.half_samples import FEWEST_IMAGES, half_sample_interval
from visiondyno.measurements.measure import MEASURES, Interval
from visiondyno.measurements.percentiles import difference_interval
from visiondyno.report.differences import excludes_zero


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A completed submission as the leaderboard sees it.

    Attributes:
        group: submissions of one group are one participant's; the best of them shows.
        low, high: of the 95 % interval of the score.
        n_images: scored.
        paired: (resamples,) the score in each half-sample of the images.
    """

    submission_id: str
    group: str
    name: str
    score: float
    low: float | None
    high: float | None
    n_images: int
    submitted_at: float
    paired: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """One row.

    Attributes:
        rank: from 1; tied rows share it.
        tied_with: names of the other rows of its rank.
        submitted_at: seconds since the epoch.
    """

    rank: int
    name: str
    score: float
    low: float | None
    high: float | None
    tied_with: tuple[str, ...]
    submitted_at: float
    submission_id: str


def make_leaderboard(scored: Sequence[Scored], metric: str) -> list[LeaderboardRow]:
    """Rows in order of rank; of equal scores the earlier submission comes first.

    Args:
        scored: on the same images.
        metric: a name in `MEASURES`; it says which direction wins.
    """
    sign = -1.0 if MEASURES[metric].better == "higher" else 1.0
    ordered = sorted(scored, key=lambda one: (sign * one.score, one.submitted_at))
    shown: dict[str, Scored] = {}
    for one in ordered:
        shown.setdefault(one.group, one)
    groups: list[list[Scored]] = []
    for one in shown.values():
        if groups and is_tie(groups[-1][0], one, metric):
            groups[-1].append(one)
        else:
            groups.append([one])
    rows: list[LeaderboardRow] = []
    for group in groups:
        rank = len(rows) + 1
        rows.extend(_row(one, rank) for one in group)
        rows[rank - 1 :] = [_tied(row, rows[rank - 1 :]) for row in rows[rank - 1 :]]
    return rows


def is_tie(a: Scored, b: Scored, metric: str) -> bool:
    """Whether the difference of two scores may be chance; see the module's docstring."""
    if a.n_images != b.n_images:
        return True  # of other images: nothing can be said
    return not excludes_zero(_difference(a, b, metric))


def _difference(a: Scored, b: Scored, metric: str) -> Interval | None:
    value = a.score - b.score
    if a.paired is not None and b.paired is not None and len(a.paired) == len(b.paired):
        limit = 1.0 if MEASURES[metric].unit == "fraction" else math.inf
        gaps = a.paired.astype(np.float64) - b.paired.astype(np.float64)
        gaps = gaps[np.isfinite(gaps)]
        if a.n_images >= FEWEST_IMAGES and len(gaps) and np.ptp(gaps) == 0:
            return value, value  # every half-sample shows the same difference
        return half_sample_interval(value, gaps, a.n_images, (-limit, limit))
    return difference_interval(a.score, (a.low, a.high), b.score, (b.low, b.high))


def _row(one: Scored, rank: int) -> LeaderboardRow:
    return LeaderboardRow(
        rank=rank,
        name=one.name,
        score=one.score,
        low=one.low,
        high=one.high,
        tied_with=(),
        submitted_at=one.submitted_at,
        submission_id=one.submission_id,
    )


def _tied(row: LeaderboardRow, rows: Sequence[LeaderboardRow]) -> LeaderboardRow:
    others = (other.name for other in rows if other.submission_id != row.submission_id)
    return replace(row, tied_with=tuple(others))
