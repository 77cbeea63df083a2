"""One trial of a study: what it is asked, how it stands, and what became of it."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Json = dict[str, Any]

_YEAR_5000_S = 95_617_584_000.0


class State(StrEnum):
    """Where a trial stands. QUEUED: asked for, and no place has taken it yet."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether nothing follows."""
        return self in _ENDED


_ENDED = frozenset({State.COMPLETED, State.PRUNED, State.FAILED})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial, or one attempt at it, failed.

    Attributes:
        code: of the error, for programs.
        message: of the error, for people.
        where: the lane that it ran on.
    """

    code: str
    message: str
    where: str

    @property
    def cause(self) -> str:
        """What failures of the same cause have in common: code and message without their numbers.

        Two trials fail alike though their learning rates, epochs or job ids differ.
        """
        words = ["#" if any(char.isdigit() for char in word) else word for word in
                 self.message.split()]  # fmt: skip
        return f"{self.code}: {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """Everything known of a trial. Times are seconds since the epoch.

    Attributes:
        number: 0, 1, 2 … in the order in which they were asked for.
        seed: of its weights, order and dropout; a function of the study's seed and its number.
        params: what the sampler suggested.
        state: where it stands.
        values: of the objectives, in their order; empty unless COMPLETED.
        asked_at: when it was asked for.
        started_at: when its last attempt was given to a lane; None before.
        ended_at: when it ended; None before.
        reports: what it told while it ran: step to values.
        attempts: how often it was given to a lane.
        lane: the last lane's name.
        job_id, worker_id, delay_ms, execution_ms: of its last job.
        cost: as `executors.cost.Cost.to_json`; None where nothing is paid, or it isn't known.
        measured: beside the values: metrics of the last epoch, measurements, what a reader must
            know.
        failures: of its attempts, in order; the last one is the trial's where it is FAILED.
        sampler_notes: what the sampler must know of it in a later run, such as its generation.
        distributions: of parameters that were suggested while it ran: what each was drawn from, as
            Optuna's JSON. Empty where the study's space says so.
    """

    number: int
    seed: int
    params: Mapping[str, Any]
    state: State = State.QUEUED
    values: tuple[float, ...] = ()
    asked_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    reports: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    attempts: int = 0
    lane: str | None = None
    job_id: str | None = None
    worker_id: str | None = None
    delay_ms: int | None = None
    execution_ms: int | None = None
    cost: Json | None = None
    measured: Json = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    sampler_notes: Json = field(default_factory=dict)
    distributions: Mapping[str, str] = field(default_factory=dict)

    @property
    def duration_s(self) -> float | None:
        """Seconds from its last start to its end; None before either."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at

    def with_(self, **changes: Any) -> "TrialRecord":
        """The same with other fields."""
        return replace(self, **changes)

    def to_json(self) -> Json:
        """As it is kept."""
        return asdict(self) | {
            "params": dict(self.params),
            "distributions": dict(self.distributions),
            "reports": {str(step): list(values) for step, values in self.reports.items()},
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError: it isn't that.
        """
        from pydantic import ValidationError

        try:
            record = cast("Self", _kept_trials().validate_python(kept))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{where or 'a trial'}: {first['msg']}") from error
        times_s = [record.asked_at, record.started_at or 0.0, record.ended_at or 0.0]
        if not all(0 <= seconds < _YEAR_5000_S for seconds in times_s):
            raise ValueError(f"trial {record.number} has a time that none can be")
        if record.cost is not None and not _is_cost(record.cost):
            raise ValueError(f"the cost of trial {record.number} is none")
        return record


@cache
def _kept_trials() -> "TypeAdapter[TrialRecord]":
    from pydantic import TypeAdapter

    return TypeAdapter(TrialRecord)


def _is_cost(kept: Json) -> bool:
    bounds = [kept.get("usd_at_least"), kept.get("usd_at_most")]
    return all(isinstance(usd, int | float) and math.isfinite(usd) for usd in bounds)


def trial_seed(study_seed: int, number: int) -> int:
    """A trial's own seed, from 0 to 2^31 - 1.

    SHA-256 of both numbers: neighbouring trials have nothing in common, and neither the number of
    workers nor a restart changes it.
    """
    digest = hashlib.sha256(f"visiondyno trial {study_seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
