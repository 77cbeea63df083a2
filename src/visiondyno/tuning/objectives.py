"""What a study optimises: names, directions, and which are better together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from visiondyno.errors import SpecError
from visiondyno.training.metrics import LESS_IS_BETTER, MORE_IS_BETTER

Direction = Literal["minimize", "maximize"]

MEASURED = frozenset({"latency_ms", "energy_joules", "throughput_images_per_s"})
"""Measured on the worker after the training."""

MEASURABLE = MEASURED | {"parameters"}
"""What a worker says of a model itself, whatever it is trained on."""

_OF_EPOCHS = (*sorted(LESS_IS_BETTER | MORE_IS_BETTER), "samples_processed")

_MORE_IS_BETTER = frozenset(
    {"accuracy", "top5_accuracy", "f1", "precision", "recall", "r2", "map_50_95"}
)
_DIRECTIONS: dict[str, Direction] = {
    "latency_ms": "minimize",
    "energy_joules": "minimize",
    "throughput_images_per_s": "maximize",
    "parameters": "minimize",
}


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing to optimise.

    Attributes:
        name: `val_` or `train_` and a metric of training, one of `MEASURED`, `parameters`, or a
            name of the caller's own.
        direction: which way is better.
    """

    name: str
    direction: Direction

    @property
    def part(self) -> str | None:
        """`val_metrics` or `train_metrics` for a metric of training; None for another."""
        first, _, rest = self.name.partition("_")
        return f"{first}_metrics" if rest and first in ("val", "train") else None

    @property
    def metric(self) -> str:
        """The name without `val_` or `train_`."""
        return self.name.partition("_")[2] if self.part else self.name

    def is_better(self, value: float, than: float) -> bool:
        """Whether it is; nothing is better than itself, and NaN is better than nothing."""
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value < than if self.direction == "minimize" else value > than


def parse_objective(text: str) -> Objective:
    """An objective by its name, with `:minimize` or `:maximize` where that isn't known.

    Raises:
        SpecError: the direction is no direction, or isn't known and isn't given.
    """
    name, _, told = text.strip().partition(":")
    if told not in ("", "minimize", "maximize"):
        raise SpecError(f"'{told}' is no direction; write '{name}:minimize' or '{name}:maximize'.")
    if not name:
        raise SpecError("An objective is empty; give one such as val_accuracy or latency_ms.")
    if told:
        return Objective(name, "minimize" if told == "minimize" else "maximize")
    if name in _DIRECTIONS:
        return Objective(name, _DIRECTIONS[name])
    metric = Objective(name, "minimize").metric
    if metric in _MORE_IS_BETTER:
        return Objective(name, "maximize")
    if metric in ("loss", "mae", "mse", "rmse"):
        return Objective(name, "minimize")
    raise SpecError(
        f"Whether more of '{name}' is better isn't known; write '{name}:minimize' or "
        f"'{name}:maximize'."
    )


def parse_objectives(texts: Iterable[str]) -> tuple[Objective, ...]:
    """Several objectives, each once; errors as `parse_objective`, and for none or a doubled one."""
    found = tuple(parse_objective(text) for text in texts)
    if not found:
        raise SpecError("A study needs an objective; give one such as val_accuracy.")
    names = [objective.name for objective in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"The objective '{twice}' is given twice; name each once.")
    return found


def check_of_trainings(objectives: Iterable[Objective]) -> None:
    """Refuse what no training gives, before one has cost anything.

    Raises:
        SpecError: an objective is neither a metric of `train_` or `val_`, nor one of `MEASURABLE`.
    """
    for objective in objectives:
        if objective.name in MEASURABLE or (objective.part and objective.metric in _OF_EPOCHS):
            continue
        known = [*(f"val_{name}" for name in _OF_EPOCHS), *sorted(MEASURABLE)]
        close = get_close_matches(objective.name, known, 1, cutoff=0.7)
        meant = f" Did you mean '{close[0]}'?" if close else ""
        raise SpecError(
            f"No training gives '{objective.name}'.{meant} There are {', '.join(known)}, and "
            "train_ instead of val_."
        )


def dominates(
    objectives: Sequence[Objective], first: Sequence[float], second: Sequence[float]
) -> bool:
    """Whether `first` is better in one objective and worse in none (Pareto dominance)."""
    pairs = list(zip(objectives, first, second, strict=True))
    if any(objective.is_better(b, a) for objective, a, b in pairs):
        return False
    return any(objective.is_better(a, b) for objective, a, b in pairs)


def pareto_front(objectives: Sequence[Objective], points: Sequence[Sequence[float]]) -> list[int]:
    """Indices, ascending, of the points that no other point dominates; of points with NaN none."""
    signs = [1.0 if objective.direction == "minimize" else -1.0 for objective in objectives]
    lower_is_better = sorted(
        (tuple(sign * value for sign, value in zip(signs, point, strict=True)), index)
        for index, point in enumerate(points)
        if not any(math.isnan(value) for value in point)
    )
    front: list[tuple[tuple[float, ...], int]] = []
    for point, index in lower_is_better:
        # What dominates a point sorts before it, and is itself in the front or dominated by it.
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other, _ in front
        ):
            front.append((point, index))
    return sorted(index for _, index in front)
