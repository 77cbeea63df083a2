"""Whether the server lives, and whether it can do its work."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from visiondyno import __version__
from visiondyno.service import Service

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """That the server answers."""

    status: str
    version: str


class Ready(BaseModel):
    """Whether work is taken and done; each check is `ok` or a sentence with the next step."""

    ready: bool
    checks: dict[str, str]


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("/health", operation_id="health")
async def health() -> Alive:
    """The server answers. Needs no key."""
    return Alive(status="ok", version=__version__)


@router.get(
    "/ready",
    operation_id="ready",
    responses={503: {"model": Ready, "description": "Something is missing; the checks say what."}},
)
async def ready(response: Response, service: Annotated[Service, Depends(_service_of)]) -> Ready:
    """The store, the queue, the workers and the disk are as they should be. Needs no key."""
    found = await service.readiness()
    response.status_code = 200 if found.ready else 503
    return Ready(ready=found.ready, checks=found.checks)
