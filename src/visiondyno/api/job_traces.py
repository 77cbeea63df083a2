"""Spans of jobs: how long each waited and ran, as the server knows it when the job has ended."""

from visiondyno.job import JobState
from visiondyno.store.records import JobRecord, RecordedEvent
from visiondyno.telemetry.traces import Attributes, Stage, Tracing

_ERRORS = (JobState.FAILED, JobState.TIMED_OUT)


class JobTraces:
    """A span for each job that ends while this server runs, with `queue` and `run` within.

    A job's input is its operation's alone and carries no trace, so workers make no spans: the times
    are those of the job's answer.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def ended(self, job: JobRecord, recorded: RecordedEvent) -> None:
        """Record the span of a terminal event; a part whose time nobody took isn't in it."""
        answer = recorded.event.answer
        if answer is None or not self._tracing.is_on:
            return
        stages = []
        if answer.delay_time_ms is not None:
            waited_s = answer.delay_time_ms / 1000
            stages.append(Stage("queue", job.created_at, job.created_at + waited_s))
        if answer.execution_time_ms is not None:
            ran_s = answer.execution_time_ms / 1000
            worker = {"visiondyno.worker.id": answer.worker_id}
            stages.append(Stage("run", recorded.at - ran_s, recorded.at, worker))
        attributes: Attributes = {
            "visiondyno.job.id": job.id,
            "visiondyno.job.kind": str(job.kind),
            "visiondyno.job.state": str(answer.status),
            "visiondyno.job.attempts": job.attempts,
        }
        whole = Stage(f"job {job.kind}", job.created_at, recorded.at, attributes)
        self._tracing.record_job(whole, stages, is_error=answer.status in _ERRORS)
