"""RunPod's shapes as ours: statuses, answers, errors in their forms, and refusals.

From https://docs.runpod.io/serverless/endpoints/operation-reference, and from what the `runpod`
package's worker sends.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import httpx
from httpx import codes

from visiondyno.errors import (
    Cancelled,
    Forbidden,
    NotFound,
    OperationFailed,
    SpecError,
    TimeLimitExceeded,
    TooLarge,
    Unauthorized,
    Unavailable,
    VisionDynoError,
)
from visiondyno.executors.server_wire import Json, foreign_error, problem_error
from visiondyno.job import JobAnswer, JobError, JobState

_QUOTED_CHARACTERS = 300
_BEFORE_TRACE = " \ntraceback: "
"""In the text of what a handler raised that yields."""
_SENTENCES = ("error", "detail", "message", "title")
_REFUSED: dict[int, tuple[type[VisionDynoError], str]] = {
    400: (SpecError, "Correct the job's input, policy or webhook."),
    401: (Unauthorized, "Check the API key: RUNPOD_API_KEY, or --api-key, which goes before it."),
    403: (Forbidden, "Check what the API key may do."),
    404: (NotFound, "Check the endpoint's URL."),
    413: (TooLarge, "Put large data into the blob store and refer to it."),
    422: (SpecError, "Correct the job's input, policy or webhook."),
}

_NO_KEY = (
    "No API key was sent: give it with --api-key. RUNPOD_API_KEY goes to RunPod, and with "
    "--on runpod to an endpoint on this machine."
)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What `/status` says of a job.

    Attributes:
        state: where it stands.
        has_run: whether a worker had it, in the end.
        found: the answer itself.
    """

    state: JobState
    has_run: bool
    found: Json

    @classmethod
    def of(cls, found: Json) -> "JobStatus":
        """Read the answer of `/status`.

        Raises:
            Unavailable: it has no status that RunPod's jobs have.
        """
        try:
            state = JobState(found["status"])
        except (KeyError, ValueError) as error:
            told = str(found.get("status"))
            raise Unavailable(
                f"The endpoint says that a job's status is '{told:.40}', which RunPod's jobs don't "
                "have; check the endpoint's URL."
            ) from error
        # Jobs that never ran may be told to have run for 0 ms.
        ran_ms = found.get("executionTime")
        has_run = state is JobState.COMPLETED or (ran_ms is not None and ran_ms != 0)
        return cls(state, has_run or (state is JobState.FAILED and ran_ms is not None), found)

    @property
    def delay_ms(self) -> int | None:
        """From the job's arrival to its start; None where it isn't told."""
        return _milliseconds(self.found.get("delayTime"))

    @property
    def execution_ms(self) -> int | None:
        """For how long it ran; None where it isn't told."""
        return _milliseconds(self.found.get("executionTime"))

    @property
    def worker_id(self) -> str | None:
        """Which worker has it, or had it; None where it isn't told."""
        return _text(self.found.get("workerId"))

    def because(self, error: VisionDynoError) -> "JobStatus":
        """The same, with why it ended in place of what the endpoint tells of that."""
        told = JobError.from_exception(error, None).model_dump(exclude_none=True)
        return replace(self, found={**self.found, "error": told})

    def answer(self, job_id: str, told: list[Json]) -> JobAnswer:
        """The answer of a job that has ended; `told` is what its stream gave, in order.

        A handler that yields has no output of its own: its last item is the output. An output that
        isn't an object is kept under the key `output`.
        """
        output, error = None, None
        if self.state is JobState.COMPLETED:
            output = self.found.get("output")
            if isinstance(output, list) and output and output == told[-len(output) :]:
                output = output[-1]
            if output is None:
                output = told[-1] if told else None
            if not isinstance(output, dict):
                output = {"output": output}
        else:
            error = self._error()
        return JobAnswer(
            id=job_id,
            status=self.state,
            delay_time_ms=self.delay_ms,
            execution_time_ms=self.execution_ms,
            worker_id=self.worker_id,
            output=output,
            error=error,
        )

    def _error(self) -> JobError:
        given = self.found.get("error")
        if given not in (None, "", {}):
            found = job_error(given)
            is_bare = self.state is JobState.TIMED_OUT and found.code == OperationFailed.code
            return found if not is_bare else _timed_out(found.message)
        match self.state:
            case JobState.CANCELLED:
                silent: VisionDynoError = Cancelled("The job was cancelled.")
            case JobState.TIMED_OUT:
                silent = TimeLimitExceeded(
                    "The job ran past its policy's executionTimeout, or waited past its ttl; the "
                    "endpoint doesn't say which."
                )
            case _:
                silent = OperationFailed(
                    "The job failed and the endpoint doesn't say why; look at the worker's log."
                )
        return JobError.from_exception(silent, None)


def _timed_out(said: str) -> JobError:
    error = TimeLimitExceeded(
        f"The job was stopped by its time limit ({said.rstrip('.')}); give it a longer one, or a "
        "higher --max-cost where that set it."
    )
    return JobError.from_exception(error, None)


def read_stream(found: Json) -> tuple[bool, list[Json]]:
    """Whether the job has ended by what `/stream` says, and the items that it gave.

    An item that isn't an object is kept under the key `output`.
    """
    try:
        is_over = JobState(found.get("status", "")).is_terminal
    except ValueError:
        is_over = False
    given = found.get("stream")
    items = [item["output"] for item in given if "output" in item] if given else []
    return is_over, [item if isinstance(item, dict) else {"output": item} for item in items]


def job_error(given: Any) -> JobError:
    """A job's error, which may be ours, the `runpod` package's, text, or either of them as text."""
    found = given
    if isinstance(given, str):
        try:
            found = json.loads(given)
        except ValueError:
            found = None
    if isinstance(found, dict):
        code, message = found.get("code"), found.get("message")
        if isinstance(code, str) and isinstance(message, str):
            stage, trace = _text(found.get("stage")), _text(found.get("traceback"))
            return JobError(code=code, message=message, stage=stage, traceback=trace)
        raised = found.get("error_message")
        if isinstance(raised, str):
            return _raised(raised, found)
    text = given if isinstance(given, str) else json.dumps(given)
    message, is_split, trace = text.partition(_BEFORE_TRACE)
    return JobError(
        code=OperationFailed.code, message=message, traceback=trace if is_split else None
    )


def refusal(response: httpx.Response) -> VisionDynoError:
    """The error of an answer that is no success."""
    ours = problem_error(response)
    if ours is not None:
        return ours
    kind, next_step = _REFUSED.get(response.status_code, (None, ""))
    if kind is None:
        return foreign_error(response)
    request = response.request
    if response.status_code == codes.UNAUTHORIZED and "Authorization" not in request.headers:
        next_step = _NO_KEY
    said = _said(response).rstrip(".")
    url = request.url
    return kind(f"{url} answered {response.status_code}{f' ({said})' if said else ''}. {next_step}")


def _said(response: httpx.Response) -> str:
    text = response.text
    try:
        found = response.json()
    except ValueError:
        found = None
    if isinstance(found, dict):
        texts = [found[key] for key in _SENTENCES if isinstance(found.get(key), str)]
        text = texts[0] if texts else text
    return " ".join(text.split())[:_QUOTED_CHARACTERS]


def _raised(raised: str, found: Json) -> JobError:
    """What the handler raised, as the `runpod` package tells of it."""
    inner = job_error(raised) if raised.lstrip().startswith("{") else None
    if inner is not None and inner.code != OperationFailed.code:
        return inner
    kind = (_text(found.get("error_type")) or "").removeprefix("<class '").removesuffix("'>")
    message = f"{kind}: {raised}" if kind else raised
    trace = _text(found.get("error_traceback"))
    return JobError(code=OperationFailed.code, message=message, traceback=trace)


def _milliseconds(given: Any) -> int | None:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return round(given) if is_number else None


def _text(given: Any) -> str | None:
    return given if isinstance(given, str) else None
