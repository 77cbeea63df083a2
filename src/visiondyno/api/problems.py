"""Every error of the API as a problem document (RFC 9457)."""

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from visiondyno.errors import (
    InputError,
    NotReady,
    RateLimited,
    TransportDown,
    Unauthorized,
    VisionDynoError,
    error_classes,
)

MEDIA_TYPE = "application/problem+json"
ERRORS_PAGE = "/docs/errors"
_TRANSPORT_RETRY_S = 5

_DEFECT = "A defect of visiondyno itself. The server's log has the traceback; please report it."

_log = logging.getLogger(__name__)

# What has no class in our tree: said by the HTTP layer alone.
_HTTP_CODES = {
    400: ("malformed", "The request isn't well-formed: its body can't be read as what it says."),
    404: ("not_found", "Nothing is at this address."),
    405: ("method_not_allowed", "The address doesn't know this method."),
    413: ("too_large", "More bytes than are taken."),
    415: ("unsupported_media_type", "The body is of another kind than the address takes."),
}


class FieldProblem(BaseModel):
    """One wrong field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457).

    Attributes:
        type: a page about this kind of problem.
        title: the kind in words; the same for every occurrence.
        status: the HTTP status.
        detail: what went wrong here, and the next step.
        instance: the address that was asked.
        code: the kind for programs; it doesn't change between versions.
        errors: each wrong field of a request that isn't valid.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": f"{ERRORS_PAGE}#not_found",
                "title": "Not found",
                "status": 404,
                "detail": "No job has the id '4f7c'; ids are what run answered.",
                "instance": "/v2/default/status/4f7c",
                "code": "not_found",
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldProblem] | None = None


class BadBody(HTTPException):
    """The body can't be read at all: 400, where one that can be read but is wrong is a 422."""

    def __init__(self, detail: str) -> None:
        super().__init__(status_code=400, detail=detail)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with problems of these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def problem_response(
    path: str,
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document as a response."""
    problem = Problem(
        type=f"{ERRORS_PAGE}#{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        instance=path,
        code=code,
        errors=errors,
    )
    return Response(
        problem.model_dump_json(exclude_none=True).encode(),
        status_code=status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def respond_to(error: Exception, path: str) -> Response:
    """The problem that tells of `error`; what isn't the caller's doing is logged."""
    if isinstance(error, VisionDynoError):
        return _of_ours(error, path)
    if isinstance(error, RequestValidationError):
        return _of_validation(error, path)
    if isinstance(error, HTTPException):
        return _of_http(error, path)
    _log.error("A defect of visiondyno itself, at %r", path, exc_info=error)
    return problem_response(
        path,
        500,
        VisionDynoError.code,
        _DEFECT,
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Answer with problem documents, whatever is raised."""

    async def handle(request: Request, error: Exception) -> Response:
        return respond_to(error, request.url.path)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it: the client hung up

    for kind in (VisionDynoError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(ClientDisconnect, gone)


def error_catalogue() -> list[tuple[str, int, str]]:
    """Code, status and meaning of every problem, sorted by code."""
    ours = {
        code: (kind.http_status, (kind.__doc__ or "").strip().split("\n")[0])
        for code, kind in error_classes().items()
        if kind.http_status >= 400
    }
    ours[VisionDynoError.code] = (500, _DEFECT)
    http = {code: (status, meaning) for status, (code, meaning) in _HTTP_CODES.items()}
    return sorted((code, status, meaning) for code, (status, meaning) in (http | ours).items())


def _of_ours(error: VisionDynoError, path: str) -> Response:
    status = error.http_status if error.http_status >= 400 else 500
    headers: dict[str, str] = {}
    if isinstance(error, RateLimited | NotReady) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, TransportDown):
        headers["Retry-After"] = str(_TRANSPORT_RETRY_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="visiondyno"'
    # That a server isn't ready is an answer, asked for again and again by whoever waits for it.
    if not isinstance(error, InputError | NotReady):
        _log.warning("%r: %s (%s)", path, error.message, error.code)
    return problem_response(path, status, error.code, error.message, headers=headers)


def _of_validation(error: RequestValidationError, path: str) -> Response:
    found = error.errors()
    if found[0]["loc"] == ("body",) and isinstance(found[0]["input"], bytes):
        # FastAPI leaves a body unread that isn't said to be JSON.
        detail = "The body isn't said to be JSON; send the header 'Content-Type: application/json'."
        return problem_response(path, 422, "bad_spec", detail)
    wrong = [
        FieldProblem(
            field=".".join(str(part) for part in item["loc"]) or "request", message=item["msg"]
        )
        for item in found
    ]
    first = wrong[0]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    detail = f"'{first.field}': {first.message}{more}. /docs has what this address takes."
    return problem_response(path, 422, "bad_spec", detail, errors=wrong)


def _of_http(error: HTTPException, path: str) -> Response:
    status = error.status_code
    headers = dict(error.headers) if error.headers else None
    if status == 404:
        detail = f"Nothing is at {path}. /docs lists the addresses."
        return problem_response(path, 404, "not_found", detail, headers=headers)
    if status == 405:
        allowed = (headers or {}).get("allow", (headers or {}).get("Allow", "another method"))
        detail = f"{path} takes {allowed}. /docs lists the addresses."
        return problem_response(path, 405, "method_not_allowed", detail, headers=headers)
    code, meaning = _HTTP_CODES.get(status, ("bad_input", HTTPStatus(status).phrase))
    given = error.detail if isinstance(error.detail, str) and error.detail else meaning
    return problem_response(path, status, code, given, headers=headers)
