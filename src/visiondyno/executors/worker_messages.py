"""What a worker process says, as the queue takes it."""

import json

from visiondyno.errors import TimeLimitExceeded
from visiondyno.executors.queue import Outcome
from visiondyno.job import JobError, JobState


def outcome_of(kind: str, rest: str, execution_ms: int) -> Outcome:
    """The outcome of an `R` or `E` message, `rest` being what follows its token."""
    if kind == "R":
        return Outcome(JobState.COMPLETED, execution_ms, output_json=rest)
    state, error = rest.split(" ", 1)
    return Outcome(JobState(state), execution_ms, error=JobError.model_validate_json(error))


def timed_out(execution_ms: int) -> Outcome:
    """The outcome of a job that was killed at its limit."""
    error = TimeLimitExceeded(
        "The job ran past its executionTimeout and was killed; raise the policy's limit "
        "(--time-limit), or ask for less."
    )
    return Outcome(JobState.TIMED_OUT, execution_ms, error=JobError.from_exception(error, None))


def progress_of_log(line: str) -> str:
    """A line that an operation printed, as a progress event's JSON."""
    return json.dumps({"log": line})
