"""What is told of a job beside its output: where it ran, how long, and what that cost."""

from dataclasses import dataclass
from typing import Any

from visiondyno.client.client import Client
from visiondyno.errors import NotFound, SpecError
from visiondyno.executors.cost import Cost
from visiondyno.job import JobEvent


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One job.

    Attributes:
        job_id: its id.
        where: the place's name, or the fallback's.
        worker_id: who ran it last; None where nobody told.
        delay_ms: how long it waited.
        execution_ms: how long it ran.
        cost: between which bounds; None where nothing is paid by the second, or it isn't known.
        cost_unknown: why it isn't known; None where it is, or there is none.
        fallback_reason: why it didn't run where it was asked to; None where it did.
    """

    job_id: str
    where: str
    worker_id: str | None = None
    delay_ms: int | None = None
    execution_ms: int | None = None
    cost: Cost | None = None
    cost_unknown: str | None = None
    fallback_reason: str | None = None

    def lines(self) -> list[tuple[str, str]]:
        """Name and text of each fact that there is, for people."""
        parts = []
        if self.delay_ms is not None:
            parts.append(f"waited {self.delay_ms / 1000:.1f} s")
        if self.execution_ms is not None:
            parts.append(f"ran {self.execution_ms / 1000:.1f} s")
        if self.worker_id is not None:
            parts.append(f"on worker {self.worker_id}")
        found = [("Job", f"{self.job_id} on {self.where}" + "".join(f", {one}" for one in parts))]
        if self.cost is not None:
            found.append(("Cost", str(self.cost)))
        elif self.cost_unknown is not None:
            found.append(("Cost", f"not known: {self.cost_unknown}"))
        if self.fallback_reason is not None:
            found.append(("Fallback", f"ran on {self.where} instead: {self.fallback_reason}"))
        return found

    def to_json(self) -> dict[str, Any]:
        """The same for records; what wasn't told is null."""
        return {
            "id": self.job_id,
            "executor": self.where,
            "worker_id": self.worker_id,
            "delay_ms": self.delay_ms,
            "execution_ms": self.execution_ms,
            "cost": None if self.cost is None else self.cost.to_json(),
            "cost_unknown": self.cost_unknown,
            "fallback_reason": self.fallback_reason,
        }


class JobWatch:
    """Gathers the facts of the job whose events it is told; of several, those of the last."""

    def __init__(self) -> None:
        self._last: JobEvent | None = None
        self._fell_back: dict[str, Any] = {}

    def on_event(self, event: JobEvent) -> None:
        """Any event; one of no job yet (number 0) is passed over."""
        if event.number == 0:
            return
        if self._last is None or self._last.job_id != event.job_id:
            self._fell_back = {}
        self._last = event
        if event.progress is not None and event.progress.get("stage") == "fallback":
            self._fell_back = event.progress

    def facts(self, client: Client) -> JobFacts | None:
        """What is known now; None before the first event. The client must not be closed yet."""
        if self._last is None:
            return None
        answer = self._last.answer
        cost, unknown = _cost(client, self._last.job_id)
        return JobFacts(
            job_id=self._last.job_id,
            where=str(self._fell_back.get("executor", client.place.where)),
            worker_id=None if answer is None else answer.worker_id,
            delay_ms=None if answer is None else answer.delay_time_ms,
            execution_ms=None if answer is None else answer.execution_time_ms,
            cost=cost,
            cost_unknown=unknown,
            fallback_reason=self._fell_back.get("fallback_reason"),
        )


def _cost(client: Client, job_id: str) -> tuple[Cost | None, str | None]:
    try:
        return client.cost_of(job_id), None
    except (SpecError, NotFound) as error:
        return None, error.message
