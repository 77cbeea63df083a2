"""Several runs of one model: how its measures moved, and whether the runs agree.

Two runs agree in a measure where their 95 % intervals overlap. Where they don't, what was recorded
of both runs is searched for a reason: a machine that was not quiet, another model file, other
packages or settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from visiondyno.measurements.measure import MEASURES
from visiondyno.report.comparison import ModelReport, Origin
from visiondyno.report.differences import READING_TOLERANCE, READINGS
from visiondyno.report.format import listed, plural, title
from visiondyno.report.origins import ON_ANY_MACHINE, dates_of, place_text, series_of

_SETTINGS = ("duration_s", "repeat", "scenarios", "rate_per_s", "latency_limit_ms", "engine")
"""Those of a request that can move a time."""

MOST_RUNS = 8
"""Columns of a history's table: the newest ones. Whether they agree is said of all runs."""

NO_REASON = (
    "neither run's verdict names a reason, and file, card, packages and settings are the same: "
    "processes differ by more than one process's interval shows (--repeat 3 takes that in)"
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether the runs of one model agree in one measure.

    Attributes:
        verdict: `overlap`; `apart`; `unknown` where a run has no interval.
        reasons: what may have set them apart; of `apart` alone, then never empty.
    """

    measure: str
    verdict: Literal["overlap", "apart", "unknown"]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """The runs of one model on one machine, device and number of threads.

    Attributes:
        runs: at least two, oldest first.
        agreements: of every measure that two runs have a value of.
    """

    runs: tuple[ModelReport, ...]
    agreements: tuple[Agreement, ...]

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Of `runs`, in their order."""
        return tuple(run.origin for run in self.runs if run.origin is not None)

    @property
    def name(self) -> str:
        """The model's name, without its run."""
        return self.origins[-1].name

    @property
    def dates(self) -> tuple[str, ...]:
        """Of `runs`, in their order."""
        texts = dates_of(self.origins)
        return tuple(texts[origin.created_at] for origin in self.origins)

    @property
    def place(self) -> str:
        """Machine, device and threads of the runs, in words."""
        return place_text(self.origins[-1])

    def sentence(self) -> str:
        """Whether the runs agree, for people."""
        judged = [found for found in self.agreements if found.verdict != "unknown"]
        out = [found for found in judged if found.verdict == "apart"]
        dates = self.dates
        runs = f"{self.name}, {len(self.runs)} runs from {dates[0]} to {dates[-1]}"
        if not judged:
            return f"{runs}: no measure has intervals that could be compared."
        if not out:
            of = f"all {plural(len(judged), 'measure')}" if len(judged) > 1 else "the one measure"
            return f"{runs}: the intervals overlap on {of} that can be judged.{self._unjudged()}"
        parts = [
            f"apart on {listed([title(name) for name in names])}: {'; '.join(reasons)}"
            for reasons, names in _by_reasons(out).items()
        ]
        overlapping = len(judged) - len(out)
        return (
            f"{runs}: the intervals overlap on {overlapping} of {plural(len(judged), 'measure')}, "
            f"and are {'. They are '.join(parts)}.{self._unjudged()}"
        )

    def _unjudged(self) -> str:
        count = sum(found.verdict == "unknown" for found in self.agreements)
        if not count:
            return ""
        verb = "has" if count == 1 else "have"
        return f" {plural(count, 'other')} {verb} no measured interval in every run."


def histories(models: Sequence[ModelReport]) -> tuple[History, ...]:
    """The history of each model of a merged comparison that has two runs at least."""
    series: dict[tuple[str, str, str, int | None], list[ModelReport]] = {}
    for model in models:
        if model.origin is not None:
            series.setdefault(series_of(model), []).append(model)
    return tuple(_history(runs) for runs in series.values() if len(runs) > 1)


def _history(runs: Sequence[ModelReport]) -> History:
    ordered = tuple(sorted(runs, key=lambda run: run.origin.created_at if run.origin else ""))
    found = (_agreement(measure, ordered) for measure in MEASURES)
    return History(ordered, tuple(agreement for agreement in found if agreement is not None))


def _agreement(measure: str, runs: Sequence[ModelReport]) -> Agreement | None:
    able = [
        run for run in runs if measure in run.measures and run.measures[measure].value is not None
    ]
    if len(able) < 2:
        return None
    ranges = [_range(measure, run) for run in able]
    if None in ranges:
        return Agreement(measure, "unknown")
    spans = [span for span in ranges if span is not None]
    # Intervals on a line all share a point when each two of them do.
    lowest_end = min(range(len(spans)), key=lambda index: spans[index][1])
    highest_start = max(range(len(spans)), key=lambda index: spans[index][0])
    if spans[highest_start][0] <= spans[lowest_end][1]:
        return Agreement(measure, "overlap")
    pair = sorted((lowest_end, highest_start))
    return Agreement(measure, "apart", _reasons(measure, *(able[index] for index in pair)))


def _range(measure: str, run: ModelReport) -> tuple[float, float] | None:
    """The interval, without end on a side that the sample couldn't bound; None if unknown."""
    found = run.measures[measure]
    if found.value is None or found.estimated:
        return None
    if found.interval is None:
        if measure not in READINGS:
            return None
        # Half of the tolerance each: two that touch are about as far apart as a tie may be.
        half = abs(found.value) * READING_TOLERANCE / 2
        return found.value - half, found.value + half
    low, high = found.interval
    if low is None and high is None:
        return None
    return float("-inf") if low is None else low, float("inf") if high is None else high


def _reasons(measure: str, older: ModelReport, newer: ModelReport) -> tuple[str, ...]:
    assert older.origin is not None
    assert newer.origin is not None
    reasons = _changes(older, newer)
    if measure not in ON_ANY_MACHINE:
        dates = dates_of((older.origin, newer.origin))
        unquiet = [
            _unquiet(origin, dates[origin.created_at])
            for origin in (older.origin, newer.origin)
            if not origin.verdict.quiet
        ]
        reasons = [*unquiet, *reasons]
        if older.origin.environment.hostname_hash != newer.origin.environment.hostname_hash:
            reasons.append("another host of the same kind")
        reasons += [
            f"{name} {_shown(before)} → {_shown(after)}"
            for name in _SETTINGS
            if (before := getattr(older.origin.spec, name))
            != (after := getattr(newer.origin.spec, name))
        ]
    return tuple(reasons) or (NO_REASON,)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _unquiet(origin: Origin, date: str) -> str:
    seen = ", ".join(reason.rstrip(".") for reason in origin.verdict.reasons) or "no detail given"
    return f"the machine was not quiet on {date} ({seen})"


def _changes(older: ModelReport, newer: ModelReport) -> list[str]:
    """What differs between two runs of the same reference that can move an accuracy too."""
    assert older.origin is not None
    assert newer.origin is not None
    changes = [
        text
        for key, text in (("digest", "another model file"), ("card", "another model card"))
        if older.description.get(key) != newer.description.get(key)
    ]
    if older.origin.visiondyno != newer.origin.visiondyno:
        changes.append(f"VisionDyno {older.origin.visiondyno} → {newer.origin.visiondyno}")
    before, after = older.origin.environment.packages, newer.origin.environment.packages
    changes += [
        f"{name} {version} → {after.get(name, 'absent')}"
        for name, version in before.items()
        if after.get(name) != version
    ]
    return changes


def _by_reasons(found: Sequence[Agreement]) -> dict[tuple[str, ...], list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for agreement in found:
        groups.setdefault(agreement.reasons, []).append(agreement.measure)
    return groups
