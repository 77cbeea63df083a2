"""A running trial as far as it has told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from visiondyno.tuning.eta import Begun
from visiondyno.tuning.health import number
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.trial import TrialRecord


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """What a running trial is doing. Times are seconds since the epoch.

    Attributes:
        number: of the trial.
        params: what it tries.
        lane: where it runs.
        attempt: 1 for the first.
        started_at: when a worker took it.
        stage: what it said last that it is doing; None before.
        epoch: the last that has ended; 0 before.
        epochs: that it is to have; None where it hasn't told.
        done: which part of it is done, from 0 to 1.
        done_before: the part that an earlier attempt had done.
        told_at: when it told of `done`; None before.
        values: the objectives after the last epoch, by name, as far as it told.
    """

    number: int
    params: Mapping[str, Any]
    lane: str | None
    attempt: int
    started_at: float
    stage: str | None = None
    epoch: int = 0
    epochs: int | None = None
    done: float = 0.0
    done_before: float = 0.0
    told_at: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def begun(cls, record: TrialRecord, at: float) -> Self:
        """One that a worker has just taken."""
        started_at = at if record.started_at is None else record.started_at
        return cls(record.number, record.params, record.lane, record.attempts, started_at)

    def after(self, said: Mapping[str, Any], at: float, objectives: Sequence[Objective]) -> Self:
        """The same after its job said this."""
        stage = said.get("stage")
        known = replace(self, stage=stage if isinstance(stage, str) else self.stage)
        epoch, epochs = said.get("epoch"), said.get("epochs")
        if not isinstance(epoch, int) or not isinstance(epochs, int) or not 0 < epoch <= epochs:
            return known
        known = replace(known, epochs=epochs)
        if stage == "resumed":
            part = epoch / epochs
            return replace(known, epoch=epoch, done=part, done_before=part, told_at=at)
        if stage == "epoch":
            values = {**known.values, **_values(said, objectives)}
            return replace(known, epoch=epoch, done=epoch / epochs, told_at=at, values=values)
        batches = _share(said)
        if stage != "training" or batches is None:
            return known
        return replace(known, epoch=epoch - 1, done=(epoch - 1 + batches) / epochs, told_at=at)

    def as_begun(self, at: float) -> Begun:
        """The same for an estimate at this time."""
        told_s = None if self.told_at is None else max(0.0, self.told_at - self.started_at)
        return Begun(max(0.0, at - self.started_at), self.done, told_s, self.done_before)


def _values(said: Mapping[str, Any], objectives: Sequence[Objective]) -> dict[str, float]:
    values = {}
    for objective in objectives:
        metrics = said.get(objective.part) if objective.part else None
        value = number(metrics.get(objective.metric)) if isinstance(metrics, Mapping) else None
        if value is not None:
            values[objective.name] = value
    return values


def _share(said: Mapping[str, Any]) -> float | None:
    done, total = number(said.get("done")), number(said.get("total"))
    if done is None or not total or not 0 <= done <= total:
        return None
    return done / total
