"""What the routers of all guarded routes have in common."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request

from visiondyno.api.auth import GUARDED
from visiondyno.api.bodies import StrictJsonRoute
from visiondyno.api.problems import problems
from visiondyno.service import Service


def guarded_router(tag: str) -> APIRouter:
    """A router whose routes need the gate's leave and read JSON strictly."""
    return APIRouter(
        tags=[tag],
        dependencies=[GUARDED],
        route_class=StrictJsonRoute,
        responses=problems(401, 403, 413, 422, 429, 500, 503),
    )


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Api = Annotated[Service, Depends(_service_of)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same request answers with what it made the first time.",
    ),
]

JobId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_.-]{1,128}$", description="The id that submitting answered.")
]
