"""How a server's HTTP API is read and written: its address, jobs, problem documents, events."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from visiondyno.errors import (
    RateLimited,
    SpecError,
    TransportDown,
    Unavailable,
    VisionDynoError,
    error_classes,
)
from visiondyno.executors.base import ExecutorHealth
from visiondyno.job import JobAnswer, JobError, JobEvent, JobRequest, JobState, new_job_id

DEFAULT_URL = "http://127.0.0.1:8000"

_HEADER_TOKEN = re.compile(r"[\x21-\x7e]{1,255}")

Json = dict[str, Any]


def checked_url(url: str) -> str:
    """The server's URL without a slash at its end; `http://` is added where no scheme is given.

    Raises:
        SpecError: it can't be one, or holds what may be a secret: messages and logs name the URL.
    """
    full = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx.URL(full)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.userinfo or parsed.query or "@" in full:
        raise SpecError(
            "The server's URL holds a user name, a password or a query; take it out, and give the "
            "API key apart."
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SpecError(f"'{url}' isn't a server's URL; give one such as {DEFAULT_URL}.")
    return full.rstrip("/")


def checked_key(api_key: str | None) -> str | None:
    """The API key without white space around it; None where none is left.

    Raises:
        SpecError: no header takes it.
    """
    key = (api_key or "").strip()
    # httpx would refuse it too, and quote it.
    if not (key.isascii() and key.isprintable()):
        raise SpecError("The API key has characters that no key has; copy it once more.")
    return key or None


def key_headers(api_key: str | None) -> dict[str, str]:
    """The header that carries the API key; none without a key.

    Raises:
        SpecError: no header takes the key.
    """
    key = checked_key(api_key)
    return {"Authorization": f"Bearer {key}"} if key else {}


def path_part(text: str) -> str:
    """`text` as one part of a path."""
    return quote(text, safe="", errors="replace")


def idempotency_key(job_id: str | None) -> str:
    """The key that makes a submission under `job_id` one job, however often it is made."""
    if job_id is None:
        return new_job_id()
    if _HEADER_TOKEN.fullmatch(job_id):
        return job_id
    return hashlib.sha256(job_id.encode(errors="surrogatepass")).hexdigest()


def request_body(request: JobRequest) -> bytes:
    """The job as the body of `run`.

    Raises:
        SpecError: its input isn't what JSON can hold.
    """
    policy = request.policy.model_dump(by_alias=True, exclude_defaults=True)
    body: Json = {"input": request.input}
    if policy:
        body["policy"] = policy
    if request.webhook is not None:
        body["webhook"] = request.webhook
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            f"The job's input can't be sent as JSON: {error}. Give finite numbers, texts, lists "
            "and objects."
        ) from error


def job_id_of(accepted: Json, url: str) -> str:
    """The id in the answer to `run` of the server at `url`.

    Raises:
        Unavailable: there is none.
    """
    found = accepted.get("id")
    if not isinstance(found, str) or not found:
        raise Unavailable(f"{url} took the job and answered without an id; check the address.")
    return found


def connection_error(url: str, error: httpx.RequestError, if_silent: str) -> TransportDown:
    """What a failed connection means; `if_silent` is the next step where nothing listens."""
    if isinstance(error, httpx.ConnectError):
        return TransportDown(f"No server answers at {url}; {if_silent}.")
    what = (
        "didn't answer in time"
        if isinstance(error, httpx.TimeoutException)
        else "broke the connection off"
    )
    return TransportDown(f"The server at {url} {what}; look at its log and try again.")


def refusal(response: httpx.Response) -> VisionDynoError:
    """The error that the server's problem document (RFC 9457) tells of, as it was there."""
    return problem_error(response) or foreign_error(response)


def problem_error(response: httpx.Response) -> VisionDynoError | None:
    """The error of a problem document; None where the answer is none of VisionDyno's."""
    try:
        problem = response.json()
        code, message = problem["code"], problem.get("detail") or problem["title"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    if code not in error_classes():
        code = "bad_input" if response.is_client_error else "internal"
    error = JobError(code=code, message=message).to_exception()
    if isinstance(error, RateLimited):
        error.retry_after_s = retry_after_s(response)
    return error


def foreign_error(response: httpx.Response) -> Unavailable:
    """Something else than VisionDyno's server answered."""
    url = response.request.url
    if response.has_redirect_location:
        return Unavailable(
            f"{url} sends on to another address, and nothing of yours was sent there; give the "
            "server's final address."
        )
    return Unavailable(
        f"{url} answered {response.status_code} with something that isn't VisionDyno's; check the "
        "server's address, and what stands between here and there."
    )


def retry_after_s(response: httpx.Response) -> float | None:
    """The seconds of `Retry-After`; None where it has none (a date counts as none)."""
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdecimal() else None


def endpoint_health(found: Json, oldest_waiting_s: float | None = None) -> ExecutorHealth:
    """An endpoint's health in RunPod's shape, as ours.

    `jobs` has no CANCELLED, which isn't told, and its FAILED counts those that ran out of time.

    Raises:
        KeyError, TypeError, ValueError: it has another shape.
    """
    jobs, workers = found["jobs"], found["workers"]
    return ExecutorHealth(
        jobs={
            str(JobState.IN_QUEUE): int(jobs["inQueue"]),
            str(JobState.IN_PROGRESS): int(jobs["inProgress"]),
            str(JobState.COMPLETED): int(jobs["completed"]),
            str(JobState.FAILED): int(jobs["failed"]),
        },
        workers_ready=int(workers["idle"]),
        workers_busy=int(workers["running"]),
        oldest_waiting_s=oldest_waiting_s,
    )


class EventReader:
    """The `data` of server-sent events (WHATWG HTML, 9.2.6), out of pieces of any length.

    Lines end with line feeds only: JSON may hold the other separators that text lines end with.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._data: list[str] = []

    def read(self, chunk: bytes) -> Iterator[str]:
        """The events that `chunk` completes."""
        first, *rest = chunk.split(b"\n")
        self._pieces.append(first)
        for following in rest:
            line = b"".join(self._pieces).decode(errors="replace").removesuffix("\r")
            self._pieces = [following]
            if line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif not line and self._data:
                data, self._data = "\n".join(self._data), []
                yield data


def job_event(job_id: str, data: str) -> JobEvent:
    """One event of a job, from an event's data; `job_id` is what the job is called here.

    Raises:
        Unavailable: it isn't such an event.
    """
    try:
        found = json.loads(data)
        answer = found.get("answer")
        return JobEvent(
            job_id=job_id,
            number=found["number"],
            state=JobState(found["state"]),
            progress=found.get("progress"),
            answer=None if answer is None else JobAnswer.model_validate({**answer, "id": job_id}),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(
            f"What came as an event of {job_id} isn't one; check that the server's version is that "
            "of this client."
        ) from error
