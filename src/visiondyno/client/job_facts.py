"""What is told of a job beside its output: where it ran, how long, and what that cost."""

from typing import Any

from visiondyno.client.client import Client
from visiondyno.errors import NotFound, SpecError
from visiondyno.executors.cost import Cost
from visiondyno.job import JobEvent
from visiondyno.report.job_run import JobCost, JobRun


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

    def facts(self, client: Client) -> JobRun | None:
        """What is known now; None before the first event. The client must not be closed yet."""
        if self._last is None:
            return None
        answer = self._last.answer
        cost, unknown = _cost(client, self._last.job_id)
        return JobRun(
            id=self._last.job_id,
            executor=str(self._fell_back.get("executor", client.place.where)),
            worker_id=None if answer is None else answer.worker_id,
            delay_ms=None if answer is None else answer.delay_time_ms,
            execution_ms=None if answer is None else answer.execution_time_ms,
            cost=None if cost is None else JobCost.model_validate(cost.to_json()),
            cost_unknown=unknown,
            fallback_reason=self._fell_back.get("fallback_reason"),
        )


def _cost(client: Client, job_id: str) -> tuple[Cost | None, str | None]:
    try:
        return client.cost_of(job_id), None
    except (SpecError, NotFound) as error:
        return None, error.message
