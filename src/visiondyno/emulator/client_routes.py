"""The job API of an emulated endpoint: `/v2/{endpoint}/run` and its like."""

from starlette.requests import Request
from starlette.responses import Response

from visiondyno.emulator.answers import json_answer, read_body
from visiondyno.emulator.config import (
    DEFAULT_WAIT_MS,
    LONGEST_WAIT_MS,
    PAYLOAD_BYTES,
    SHORTEST_WAIT_MS,
    Kind,
)
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.records import Job
from visiondyno.emulator.submission import read_json
from visiondyno.errors import SpecError


async def run(emulator: Emulator, request: Request) -> Response:
    """POST run: queue a job."""
    job = await _submit(emulator, request, Kind.RUN)
    return json_answer({"id": job.id, "status": "IN_QUEUE"})


async def runsync(emulator: Emulator, request: Request) -> Response:
    """POST runsync: queue a job and wait for its end, for `?wait=` ms at most."""
    wait_ms = _wait_ms(request)
    job = await _submit(emulator, request, Kind.RUNSYNC)
    until_s = emulator.clock() + wait_ms / 1000
    while not (job.state.is_terminal or emulator.is_closing):
        rest_s = emulator.clock.real_s(until_s - emulator.clock())
        if rest_s <= 0:
            break
        await emulator.news(rest_s)
    return json_answer(job.status())


async def status(emulator: Emulator, request: Request) -> Response:
    """GET status: how a job stands, and what came of it."""
    return json_answer(_job(emulator, request).status())


async def stream(emulator: Emulator, request: Request) -> Response:
    """GET stream: what a job yielded since this was last asked."""
    job = _job(emulator, request)
    items = emulator.endpoint.jobs.read_stream(job)
    return json_answer({"status": str(job.state), "stream": [{"output": item} for item in items]})


async def cancel(emulator: Emulator, request: Request) -> Response:
    """POST cancel: end a job; one that has ended stays as it is."""
    job = emulator.endpoint.cancel(request.path_params["job_id"], emulator.clock())
    emulator.changed()
    return json_answer({"id": job.id, "status": str(job.state)})


async def retry(emulator: Emulator, request: Request) -> Response:
    """POST retry: queue a FAILED or TIMED_OUT job again."""
    job = _job(emulator, request)
    emulator.endpoint.jobs.retry(job, emulator.clock())
    emulator.changed()
    return json_answer({"id": job.id, "status": "IN_QUEUE"})


async def purge_queue(emulator: Emulator, request: Request) -> Response:  # noqa: ARG001 - a route's
    """POST purge-queue: cancel what waits."""
    removed = emulator.endpoint.jobs.purge(emulator.clock())
    emulator.changed()
    return json_answer({"removed": removed, "status": "completed"})


async def health(emulator: Emulator, request: Request) -> Response:  # noqa: ARG001 - a route's
    """GET health: jobs and workers in numbers."""
    return json_answer(emulator.endpoint.health())


async def _submit(emulator: Emulator, request: Request, kind: Kind) -> Job:
    body = read_json(await read_body(request, PAYLOAD_BYTES[kind]))
    job = emulator.endpoint.submit(body, kind, emulator.clock())
    emulator.changed()
    return job


def _job(emulator: Emulator, request: Request) -> Job:
    return emulator.endpoint.jobs.find(request.path_params["job_id"])


def _wait_ms(request: Request) -> int:
    given = request.query_params.get("wait", str(DEFAULT_WAIT_MS))
    if given.isdecimal() and SHORTEST_WAIT_MS <= int(given) <= LONGEST_WAIT_MS:
        return int(given)
    raise SpecError(f'"wait" must be {SHORTEST_WAIT_MS} to {LONGEST_WAIT_MS} milliseconds.')
