"""JSON bodies, read strictly: what can't be stored and given back unchanged is refused."""

import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute

from visiondyno.api.problems import BadBody

# Only numbers with such an exponent can overflow to infinity; others need no look at each value.
_MAY_OVERFLOW = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{300}")


def read_json(body: bytes) -> Any:
    """The JSON value in `body`.

    Raises:
        BadBody: it isn't JSON in UTF-8, is nested deeper than 200 levels, or has a NaN, an
            infinity, a lone surrogate or an integer of more than 4,300 digits.
    """
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadBody(f"The body isn't JSON that can be read: {error}.") from error
    if _MAY_OVERFLOW.search(body) and not _finite(value):
        raise BadBody("The body has a number that is too large for a float; send a smaller one.")
    return value


class StrictJsonRequest(Request):
    """A request whose `json()` is strict."""

    async def json(self) -> Any:
        """The body's value; raises `BadBody`."""
        return read_json(await self.body())


class StrictJsonRoute(APIRoute):
    """A route whose JSON bodies are read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given the strict request."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return strict


def _finite(value: Any) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return False
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return True
