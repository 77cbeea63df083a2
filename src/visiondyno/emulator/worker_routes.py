"""What the `runpod` package's workers speak: taking jobs, telling of them, living.

Learned from the package itself (1.12): the paths come from its environment, `job-take-batch` and
`job-stop` are derived from `job-take`.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from visiondyno.emulator.answers import json_answer, read_body
from visiondyno.emulator.config import PAYLOAD_BYTES, Kind
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.records import Json
from visiondyno.emulator.submission import read_json
from visiondyno.errors import SpecError

T = TypeVar("T")

_POLL_S = 20.0
"""How long a poll is held open, in our time; workers give up after 90 s."""
_MOST_JOBS = 100
_ENVELOPE_BYTES = 10_000


async def job_take(emulator: Emulator, request: Request) -> Response:
    """GET job-take: one job, or 204."""
    jobs = await _take(emulator, request, 1)
    return json_answer(jobs[0]) if jobs else Response(status_code=204)


async def job_take_batch(emulator: Emulator, request: Request) -> Response:
    """GET job-take-batch: up to `batch_size` jobs, or 204."""
    given = request.query_params.get("batch_size", "1")
    if not (given.isdecimal() and 1 <= int(given) <= _MOST_JOBS):
        raise SpecError(f'"batch_size" must be 1 to {_MOST_JOBS}.')
    jobs = await _take(emulator, request, int(given))
    return json_answer(jobs) if jobs else Response(status_code=204)


async def job_stop(emulator: Emulator, request: Request) -> Response:
    """GET job-stop: ids of jobs to stop, or 204."""
    worker_id = request.path_params["worker_id"]
    told = await _poll(emulator, request, lambda: emulator.endpoint.jobs_to_stop(worker_id))
    return json_answer({"jobsToStop": told}) if told else Response(status_code=204)


async def job_done(emulator: Emulator, request: Request) -> Response:
    """POST job-done: a job's progress (`status` IN_PROGRESS) or its end."""
    worker_id, job_id = request.path_params["worker_id"], request.path_params["job_id"]
    body = await read_body(request, PAYLOAD_BYTES[Kind.RUNSYNC] + _ENVELOPE_BYTES)
    said = _object(body)
    if said.get("status") == "IN_PROGRESS":
        emulator.endpoint.tell_progress(worker_id, job_id, said.get("output"))
    else:
        emulator.endpoint.finish(worker_id, job_id, said, len(body), emulator.clock())
    emulator.changed()
    return json_answer({})


async def job_stream(emulator: Emulator, request: Request) -> Response:
    """POST job-stream: what a job yields."""
    worker_id, job_id = request.path_params["worker_id"], request.path_params["job_id"]
    body = await read_body(request, PAYLOAD_BYTES[Kind.RUNSYNC] + _ENVELOPE_BYTES)
    item = _object(body).get("output")
    size = max(0, len(body) - len(b'{"output": }'))
    emulator.endpoint.tell_stream(worker_id, job_id, item, size)
    emulator.changed()
    return json_answer({})


async def ping(emulator: Emulator, request: Request) -> Response:
    """GET ping: a worker lives and has these jobs."""
    job_ids = request.query_params.get("job_id", "").split(",")
    emulator.endpoint.heard_ping(request.path_params["worker_id"], job_ids, emulator.clock())
    emulator.changed()
    return json_answer({})


async def _take(emulator: Emulator, request: Request, most: int) -> list[Json]:
    worker_id = request.path_params["worker_id"]
    # It says so when it begins to ask: what it has been given since doesn't change it.
    says_busy = request.query_params.get("job_in_progress") == "1"
    is_first = True

    def take() -> list[Json]:
        nonlocal is_first
        now_s = emulator.clock()
        jobs = emulator.endpoint.take(worker_id, most, now_s, says_busy=says_busy or not is_first)
        if jobs or is_first:  # being asked for the first time says that the worker is ready
            emulator.changed()
        is_first = False
        return jobs

    return await _poll(emulator, request, take)


async def _poll(emulator: Emulator, request: Request, ask: Callable[[], list[T]]) -> list[T]:
    """What `ask` gives, as soon as it gives something and somebody is there to get it."""
    worker_id = request.path_params["worker_id"]
    until_s = time.monotonic() + _POLL_S
    while True:
        if await request.is_disconnected() or emulator.is_closing:
            return []
        if emulator.endpoint.has_ended(worker_id):
            return []
        found = ask()
        rest_s = until_s - time.monotonic()
        if found or rest_s <= 0:
            return found
        await emulator.news(rest_s)


def _object(body: bytes) -> Json:
    value = read_json(body)
    if not isinstance(value, dict):
        raise SpecError("The body must be an object.")
    return value
