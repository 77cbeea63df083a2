"""The emulator's HTTP application: who may ask, what goes wrong on request, and the routes."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from visiondyno.emulator import client_routes, worker_routes
from visiondyno.emulator.answers import CutResponse, json_answer, read_body
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.faults import (
    AnswerStatus,
    CutAnswer,
    DelayRequest,
    DeliverTwice,
    DropResult,
    Fault,
    KillWorkers,
    RequestFault,
    StallAnswer,
)
from visiondyno.emulator.submission import read_json
from visiondyno.errors import (
    NotFound,
    RateLimited,
    SpecError,
    Unauthorized,
    VisionDynoError,
)

Handle = Callable[[Emulator, Request], Awaitable[Response]]
Guard = Callable[[Emulator, Request], None]

_FAULT: TypeAdapter[Fault] = TypeAdapter(Fault)
_FAULT_BYTES = 10_000
_STATUS: dict[type[VisionDynoError], int] = {NotFound: 404, Unauthorized: 401, RateLimited: 429}
"""Any other error is 400: RunPod's reference names these four, and 500."""

_CLIENT: tuple[tuple[str, str, str, Handle], ...] = (
    ("POST", "run", "", client_routes.run),
    ("POST", "runsync", "", client_routes.runsync),
    ("GET", "status", "/{job_id}", client_routes.status),
    ("GET", "stream", "/{job_id}", client_routes.stream),
    ("POST", "cancel", "/{job_id}", client_routes.cancel),
    ("POST", "retry", "/{job_id}", client_routes.retry),
    ("POST", "purge-queue", "", client_routes.purge_queue),
    ("GET", "health", "", client_routes.health),
)
_WORKER: tuple[tuple[str, str, str, Handle], ...] = (
    ("GET", "job-take", "/{worker_id}", worker_routes.job_take),
    ("GET", "job-take-batch", "/{worker_id}", worker_routes.job_take_batch),
    ("GET", "job-stop", "/{worker_id}", worker_routes.job_stop),
    ("POST", "job-done", "/{worker_id}/{job_id}", worker_routes.job_done),
    ("POST", "job-stream", "/{worker_id}/{job_id}", worker_routes.job_stream),
    ("GET", "ping", "/{worker_id}", worker_routes.ping),
)


def make_app(emulator: Emulator) -> Starlette:
    """The application. It neither starts nor closes the emulator."""
    routes = [
        Route(
            f"/v2/{{endpoint}}/{name}{rest}", _client_route(emulator, name, handle), methods=[how]
        )
        for how, name, rest, handle in _CLIENT
    ]
    routes += [
        Route(
            f"/v2/{{endpoint}}/{name}{rest}",
            _route(emulator, name, handle, _check_worker_key),
            methods=[how],
        )
        for how, name, rest, handle in _WORKER
    ]
    routes += [
        Route("/emulator/billing", _plain(emulator, _billing), methods=["GET"]),
        Route("/emulator/requests", _plain(emulator, _requests), methods=["GET"]),
        Route("/emulator/faults", _plain(emulator, _list_faults), methods=["GET"]),
        Route("/emulator/faults", _plain(emulator, _arm_fault), methods=["POST"]),
        Route("/emulator/faults", _plain(emulator, _clear_faults), methods=["DELETE"]),
    ]
    return Starlette(routes=routes, exception_handlers={404: _no_such_path, 405: _no_such_path})


def _client_route(
    emulator: Emulator, name: str, handle: Handle
) -> Callable[[Request], Awaitable[Response]]:
    async def within_quota(emulator: Emulator, request: Request) -> Response:
        if not emulator.quotas.enter(name, emulator.clock()):
            raise RateLimited(f"Too many requests to '{name}'; wait and try again.")
        try:
            return await handle(emulator, request)
        finally:
            emulator.quotas.leave(name)

    return _route(emulator, name, within_quota, _check_key)


def _route(
    emulator: Emulator, name: str, handle: Handle, guard: Guard
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            guard(emulator, request)
            _check_endpoint(emulator, request)
            return await handle(emulator, request)
        except VisionDynoError as error:
            return _refusal(error)

    async def serve(request: Request) -> Response:
        came_s = emulator.clock()
        fault = emulator.faults.meet(name)
        match fault:
            case AnswerStatus():
                found = _fault_answer(fault)
            case DelayRequest():
                await request.body()  # kept with the request for who handles it later
                emulator.faults.later(fault.seconds, lambda: answer(request))
                found = json_answer({})
            case _:
                found = await answer(request)
        emulator.requests.note(came_s, name, found.status_code)
        return await _spoil(found, fault)

    return serve


def _plain(emulator: Emulator, handle: Handle) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        try:
            _check_key(emulator, request)
            return await handle(emulator, request)
        except VisionDynoError as error:
            return _refusal(error)

    return serve


# ---- who may ask


def _check_key(emulator: Emulator, request: Request) -> None:
    if emulator.api_key is None:
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not hmac.compare_digest(given.encode(), emulator.api_key.encode()):
        raise Unauthorized("The API key is missing or wrong; send 'Authorization: Bearer KEY'.")


def _check_worker_key(emulator: Emulator, request: Request) -> None:
    # Not the header: the package sends the key of ~/.runpod/config.toml there, if there is one.
    given = request.query_params.get("key", "")
    if not hmac.compare_digest(given.encode(), emulator.worker_key.encode()):
        raise Unauthorized("Only the emulator's own workers may ask for this.")


def _check_endpoint(emulator: Emulator, request: Request) -> None:
    endpoint = request.path_params["endpoint"]
    if endpoint != emulator.config.endpoint_id:
        raise NotFound(
            f"No endpoint '{endpoint:.40}' is here; it is '{emulator.config.endpoint_id}'."
        )


async def _no_such_path(request: Request, error: Exception) -> Response:
    known = ", ".join(name for _, name, _, _ in _CLIENT)
    message = f"{request.method} {request.url.path:.100} is nothing here; under /v2/ENDPOINT are: "
    return json_answer({"error": f"{message}{known}."}, getattr(error, "status_code", 404))


# ---- what goes wrong


def _refusal(error: VisionDynoError) -> Response:
    return json_answer({"error": error.message}, _STATUS.get(type(error), 400))


def _fault_answer(fault: AnswerStatus) -> Response:
    headers = {}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = f"{fault.retry_after_s:g}"
    return json_answer({"error": "a fault on request"}, fault.status, headers)


async def _spoil(answer: Response, fault: RequestFault | None) -> Response:
    match fault:
        case CutAnswer():
            return CutResponse(answer)
        case StallAnswer():
            await asyncio.sleep(fault.seconds)
    return answer


# ---- the emulator's own routes


async def _billing(emulator: Emulator, request: Request) -> Response:  # noqa: ARG001 - a route's
    now_s = emulator.clock()
    return json_answer({"now_s": now_s, **emulator.endpoint.bill(now_s).to_json()})


async def _requests(emulator: Emulator, request: Request) -> Response:  # noqa: ARG001 - a route's
    return json_answer(emulator.requests.to_json())


async def _list_faults(emulator: Emulator, request: Request) -> Response:  # noqa: ARG001 - a route's
    return json_answer({"faults": [fault.model_dump() for fault in emulator.faults.armed()]})


async def _clear_faults(emulator: Emulator, request: Request) -> Response:  # noqa: ARG001 - a route's
    emulator.faults.clear()
    return json_answer({"faults": []})


async def _arm_fault(emulator: Emulator, request: Request) -> Response:
    given = read_json(await read_body(request, _FAULT_BYTES))
    try:
        fault = _FAULT.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise SpecError(f"The fault can't be read: {where}: {first['msg']}.") from error
    done = 0
    match fault:
        case DropResult():
            emulator.endpoint.drop_results(fault.count)
        case DeliverTwice():
            emulator.endpoint.deliver_again(fault.count)
        case KillWorkers():
            done = emulator.kill_busy_workers(fault)
            if not done:
                raise SpecError("No worker runs a job just now; ask again when one does.")
        case _:
            emulator.faults.arm(fault)
    return json_answer({"fault": fault.model_dump(), "done": done})
