"""One trial of a study: what it is asked, how it stands, and what became of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


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
    def from_json(cls, kept: Mapping[str, Any]) -> "TrialRecord":
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it isn't that.
        """
        given = dict(kept)
        return cls(
            **given
            | {
                "state": State(given["state"]),
                "values": tuple(given["values"]),
                "reports": {int(step): tuple(one) for step, one in given["reports"].items()},
                "failures": tuple(Failure(**one) for one in given["failures"]),
            }
        )


def trial_seed(study_seed: int, number: int) -> int:
    """A trial's own seed, from 0 to 2^31 - 1.

    SHA-256 of both numbers: neighbouring trials have nothing in common, and neither the number of
    workers nor a restart changes it.
    """
    digest = hashlib.sha256(f"visiondyno trial {study_seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
