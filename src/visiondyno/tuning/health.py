"""How trainings went, epoch by epoch: losses, gradients, numbers that aren't finite."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_EPOCHS = 1000
"""Of a trial; those after are left out."""


@dataclass(frozen=True, slots=True)
class EpochHealth:
    """One epoch of a trial. What wasn't told is None.

    Attributes:
        epoch: from 1 on.
        train_loss, val_loss: means over the epoch's samples.
        gradient_norm_mean, gradient_norm_max: over the epoch's steps, before clipping.
        nonfinite_steps: steps whose gradient wasn't finite.
    """

    epoch: int
    train_loss: float | None = None
    val_loss: float | None = None
    gradient_norm_mean: float | None = None
    gradient_norm_max: float | None = None
    nonfinite_steps: int | None = None

    @property
    def is_finite(self) -> bool:
        """Whether nothing that was told is NaN or infinite."""
        told = (self.train_loss, self.val_loss, self.gradient_norm_mean, self.gradient_norm_max)
        return not self.nonfinite_steps and all(
            value is None or math.isfinite(value) for value in told
        )


class HealthHistory:
    """The epochs of one trial. An epoch that is done again replaces the earlier one."""

    def __init__(self) -> None:
        self._epochs: dict[int, EpochHealth] = {}

    def add(self, record: Mapping[str, Any]) -> EpochHealth | None:
        """Take an epoch's event as `train` tells it; None where it tells of no epoch."""
        epoch = record.get("epoch")
        if not isinstance(epoch, int) or (
            epoch not in self._epochs and len(self._epochs) >= MOST_EPOCHS
        ):
            return None
        health = _mapping(record, "health")
        steps = health.get("nonfinite_steps")
        found = self._epochs[epoch] = EpochHealth(
            epoch,
            number(_mapping(record, "train_metrics").get("loss")),
            number(_mapping(record, "val_metrics").get("loss")),
            number(health.get("gradient_norm_mean")),
            number(health.get("gradient_norm_max")),
            steps if isinstance(steps, int) else None,
        )
        return found

    @property
    def epochs(self) -> tuple[EpochHealth, ...]:
        """By epoch."""
        return tuple(self._epochs[epoch] for epoch in sorted(self._epochs))


def number(value: object) -> float | None:
    """What a worker told, if it is a number."""
    return float(value) if isinstance(value, int | float) else None


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}
