"""How long a study still takes, from what its trials have shown up to now."""

import heapq
import itertools
import math
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_ROUNDS = 3
"""Rounds of trials that are laid out one by one; those before them are counted together."""

_LEAST_PART = 1e-6
"""Of a trial, that says something of its pace; by less a duration becomes too large a number."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Begun:
    """A trial that runs.

    Attributes:
        elapsed_s: since it started.
        done: which part of a whole trial is done, from 0 to 1.
        told_s: after how many seconds it told so; None where it hasn't told of anything done.
        done_before: the part that an earlier attempt did, which this one goes on from.
    """

    elapsed_s: float
    done: float = 0.0
    told_s: float | None = None
    done_before: float = 0.0

    @property
    def part(self) -> float:
        """What it did itself, as far as it told."""
        return 0.0 if self.told_s is None else max(0.0, self.done - self.done_before)


@dataclass(slots=True)
class _Durations:
    n: int = 0
    total_s: float = 0.0
    squares: float = 0.0

    def add(self, seconds: float) -> None:
        self.n += 1
        self.total_s += seconds
        self.squares += seconds * seconds

    @property
    def mean_s(self) -> float:
        return self.total_s / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds until the study ends.

    Attributes:
        remaining_s: expected, at least 0.
        interval_s: where it lies with 95 %, if trials go on to differ as they did and few take many
            times as long as most; None while fewer than three have ended.
    """

    remaining_s: float
    interval_s: tuple[float, float] | None


@dataclass(slots=True)
class DurationModel:
    """What is known of the trials' durations; times are seconds.

    A *whole* trial takes `S`: all seconds of completed, running and pruned trials that told how far
    they came, by the sum of the parts that they did. So partial trials count with the part that
    they have shown, and a few long epochs don't weigh more than a completed trial.

    A trial that hasn't begun takes `D = (1-q) ((1-p) S + p m_p) + q m_f`: `p` is the share of
    pruned among completed and pruned trials, `q` that of failed among all; both are shrunk towards
    0 by one trial more that completed, and running ones that are past the mean pruned trial count
    as survivors with the part that they did. `m_p`, `m_f` are the means of pruned and failed ones.

    A running trial that had done the part `f` after `e` seconds needs `(k e/f + S) / (k + 1)` for a
    whole, its own pace shrunk towards the others' as if it were `k = 4 f` trials; one that hasn't
    told needs `S`. Its rest is what it lacks at this pace, weighted with `p` for the chance that it
    is pruned at `m_p` while it is younger than that.

    What is left is laid out on as many places as trials run at once: each trial goes to the place
    that is free first, and the end of the last one is the estimate. Trials of the last rounds take
    what ended ones took, each quantile in its turn, scaled to the mean `D`: where trials differ,
    the end waits for a long one.

    The interval adds up the uncertainty of the mean, which all trials share, and the chance of
    those that are left.
    """

    completed: _Durations = field(default_factory=_Durations)
    pruned: _Durations = field(default_factory=_Durations)
    failed: _Durations = field(default_factory=_Durations)
    _parts: float = 0.0
    _parts_s: float = 0.0
    _pruned_parts: _Durations = field(default_factory=_Durations)
    _sorted_s: list[float] = field(default_factory=list)

    def add_completed(self, seconds: float, done_before: float = 0.0) -> None:
        """A trial ran to its end; an earlier attempt had done a part of it."""
        self.completed.add(seconds)
        insort(self._sorted_s, seconds)
        self._add_part(seconds, 1.0 - done_before)

    def add_pruned(self, seconds: float, done: float | None, done_before: float = 0.0) -> None:
        """A trial was pruned after this part of it; None: not told."""
        self.pruned.add(seconds)
        insort(self._sorted_s, seconds)
        if done:
            self._pruned_parts.add(done)
            self._add_part(seconds, done - done_before)

    def add_failed(self, seconds: float) -> None:
        """A trial failed for good."""
        self.failed.add(seconds)
        insort(self._sorted_s, seconds)

    def estimate(self, running: Sequence[Begun], left: int, places: int) -> Estimate | None:
        """The time until all have ended; None while nothing is known of how long trials take.

        Args:
            running: trials that run.
            left: how many haven't begun.
            places: how many run at once, at least 1.
        """
        if not running and not left:
            return Estimate(0.0, (0.0, 0.0))
        whole_s = self._whole_s(running)
        pruned_share = self._pruned_share(running)
        next_s = self._next_s(whole_s, pruned_share)
        if next_s is None:
            return None
        whole_s = next_s if whole_s is None else whole_s
        rests = [self._rest_s(one, whole_s, pruned_share) for one in running]
        remaining_s = _laid_out(
            rests, left, places, next_s, lambda count: self._turns(next_s, count)
        )
        return Estimate(remaining_s, self._interval(remaining_s, left + len(running), places))

    def _add_part(self, seconds: float, part: float) -> None:
        if part >= _LEAST_PART:
            self._parts += part
            self._parts_s += seconds

    def _whole_s(self, running: Sequence[Begun]) -> float | None:
        parts, parts_s = self._parts, self._parts_s
        for one in running:
            if one.told_s is not None and one.part >= _LEAST_PART:
                parts += one.part
                parts_s += one.told_s
        return parts_s / parts if parts > 0 else None

    def _pruned_share(self, running: Sequence[Begun]) -> float:
        threshold = self._pruned_parts.mean_s
        survivors = sum(one.done for one in running if one.done > threshold)
        return self.pruned.n / (self.pruned.n + self.completed.n + survivors + 1)

    def _next_s(self, whole_s: float | None, p: float) -> float | None:
        ended = self.completed.n + self.pruned.n + self.failed.n
        if whole_s is None:
            # None has said how far it came: those that ended early are all there is to go by.
            early = self.pruned.n + self.failed.n
            return (self.pruned.total_s + self.failed.total_s) / early if early else None
        q = self.failed.n / (ended + 1)
        return (1 - q) * ((1 - p) * whole_s + p * self.pruned.mean_s) + q * self.failed.mean_s

    def _rest_s(self, one: Begun, whole_s: float, p: float) -> float:
        pace_s = whole_s
        since_s = one.elapsed_s
        if one.told_s is not None:
            since_s = max(0.0, one.elapsed_s - one.told_s)
            if one.part >= _LEAST_PART:
                weight = 4 * one.part
                pace_s = (weight * one.told_s / one.part + whole_s) / (weight + 1)
        rest_s = max(0.0, pace_s * (1 - one.done) - since_s)
        if one.done >= self._pruned_parts.mean_s:
            return rest_s
        return (1 - p) * rest_s + p * min(rest_s, max(0.0, self.pruned.mean_s - one.elapsed_s))

    def _turns(self, mean_s: float, count: int) -> Iterator[float]:
        """Durations with this mean, spread like those of the trials that have ended."""
        ended_s = self._sorted_s
        total_s = sum(kind.total_s for kind in (self.completed, self.pruned, self.failed))
        ended_mean_s = total_s / len(ended_s) if ended_s else 0.0
        if ended_mean_s <= 0:
            yield from itertools.repeat(mean_s, count)
            return
        for turn in range(count):
            # The golden ratio's multiples fill [0, 1) evenly, however many are taken.
            ended = ended_s[int(turn * _GOLDEN % 1 * len(ended_s))]
            # By the mean first: 0 s times the inverse of a tiny sum would be no number.
            yield ended / ended_mean_s * mean_s

    def _interval(
        self, remaining_s: float, open_trials: int, places: int
    ) -> tuple[float, float] | None:
        kinds = (self.completed, self.pruned, self.failed)
        n = sum(kind.n for kind in kinds)
        if n < 3:
            return None
        mean_s = sum(kind.total_s for kind in kinds) / n
        variance = max(0.0, sum(kind.squares for kind in kinds) / n - mean_s**2) * n / (n - 1)
        of_chance = open_trials * variance / places**2
        of_mean = (open_trials / places) ** 2 * variance / n
        # The last trials don't end together: up to one more than the mean, on one place.
        of_end = variance if places > 1 else 0.0
        half_s = 1.96 * math.sqrt(of_chance + of_mean + of_end)
        return max(0.0, remaining_s - half_s), remaining_s + half_s


def _laid_out(
    rests: Sequence[float],
    left: int,
    places: int,
    mean_s: float,
    turns: Callable[[int], Iterable[float]],
) -> float:
    """When the last trial ends, in seconds: each goes to the place that is free first."""
    free = [*rests, *([0.0] * max(0, places - len(rests)))]
    if len(rests) > places:  # places were given up: what runs there ends, and nothing follows
        free = sorted(rests)[:places]
    end_s = max(rests, default=0.0)
    rounds = max(0, left // len(free) - _ROUNDS)
    heapq.heapify(free)
    for seconds in turns(left - rounds * len(free)):
        at_s = heapq.heappop(free) + seconds
        end_s = max(end_s, at_s)
        heapq.heappush(free, at_s)
    return end_s + rounds * mean_s
