"""The trials of a study, read from its results for plots and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visiondyno.report.training import metric_title

COMPLETED, PRUNED, FAILED = "completed", "pruned", "failed"
MARKS = {COMPLETED: 0, PRUNED: 4, FAILED: 1}
"""Colour and marker of each state, by their place in the palette."""

_TITLES = {
    "latency_ms": "Latency in ms",
    "throughput_images_per_s": "Throughput in images/s",
    "energy_joules": "Energy in J",
    "parameters": "Parameters of the model",
}


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """One trial, as plots need it.

    Attributes:
        number: of the trial.
        state: see above, or `queued` or `running` of one that never ended.
        values: of the objectives, in their order; of one that was pruned what it last reported;
            empty where there is nothing, or something that isn't finite.
        params: by name.
        began_s, ended_s: seconds since the epoch; None where it never did.
        lane: empty where it never had one.
        curve: (step, value of the first objective) of each report that is finite.
        health: `epoch`, `val_loss`, `gradient_norm_max` … of its epochs.
        log: parameters of the study that are drawn evenly over orders of magnitude.
    """

    number: int
    state: str
    values: tuple[float, ...]
    params: Mapping[str, Any]
    began_s: float | None
    ended_s: float | None
    lane: str
    curve: Sequence[tuple[int, float]]
    health: Sequence[Mapping[str, Any]]
    log: frozenset[str] = frozenset()

    def series(self, name: str) -> list[tuple[int, float]]:
        """(epoch, value) of each epoch whose `name` is a finite number."""
        return [
            (int(epoch["epoch"]), value)
            for epoch in self.health
            if (value := finite(epoch.get(name))) is not None
        ]


def study_trials(results: Mapping[str, Any]) -> list[StudyTrial]:
    """The trials of `results.json`, by number."""
    names = [objective["name"] for objective in results["objectives"]]
    searched = results["searched"]
    log = frozenset(name for name, kind in searched.items() if kind.get("log"))
    return [_trial(found, names, log) for found in results["trials"]]


def _trial(found: Mapping[str, Any], names: Sequence[str], log: frozenset[str]) -> StudyTrial:
    reports = {int(step): told for step, told in found["reports"].items()}
    values = found["values"]
    if found["state"] == PRUNED and reports:
        values = reports[max(reports)]
    numbers = [finite(values.get(name)) for name in names]
    first = ((step, finite(reports[step].get(names[0]))) for step in sorted(reports))
    return StudyTrial(
        number=found["number"],
        state=found["state"],
        values=tuple(value for value in numbers if value is not None)
        if None not in numbers
        else (),
        params=found["params"],
        began_s=found["started_at"],
        ended_s=found["ended_at"],
        lane=found["lane"] or "",
        curve=[(step, value) for step, value in first if value is not None],
        health=found["measured"].get("health", ()),
        log=log,
    )


def finite(value: Any) -> float | None:
    """The value, if it is a finite number; results have `NaN` and the like as texts."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def is_better(value: float, than: float, direction: str) -> bool:
    """Whether it is, by an objective's direction."""
    return value < than if direction == "minimize" else value > than


def objective_title(name: str) -> str:
    """An objective's name for people."""
    part, _, metric = name.partition("_")
    if part in ("val", "train") and metric:
        whose = "Validation" if part == "val" else "Training"
        return f"{whose} {metric_title(metric)[0].lower()}{metric_title(metric)[1:]}"
    return _TITLES.get(name, name.replace("_", " "))
