"""Who asks: the API key of a request, and what its scope allows."""

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import Scope

from visiondyno.errors import Forbidden, Unauthorized
from visiondyno.service.keys import PREFIX, KeyService
from visiondyno.store.records import ApiKeyRecord, KeyScope

_GATE = "visiondyno.key"  # set in the scope by the gate (gate.py), to None where no key came
_BEARER = Security(
    HTTPBearer(auto_error=False, scheme_name="ApiKey", description="A key of `dyno keys create`.")
)


async def identify(keys: KeyService, headers: Headers, required: bool) -> ApiKeyRecord | None:
    """The record of the request's key; None where none came and none is needed.

    Raises:
        Unauthorized: a key is needed and none came, or the one that came isn't valid.
    """
    given = headers.get("authorization")
    if given is None:
        if required:
            raise Unauthorized(
                "This server wants an API key: send 'Authorization: Bearer KEY' with a key "
                "made by `dyno keys create NAME`."
            )
        return None
    scheme, _, key = given.strip().partition(" ")
    if scheme.startswith(PREFIX) and not key:
        key = scheme  # RunPod's clients may send the bare key
    elif scheme.lower() != "bearer":
        raise Unauthorized("The Authorization header must be 'Bearer KEY'.")
    return await keys.check(key.strip())


def authorise(key: ApiKeyRecord | None, path: str) -> None:
    """Let a key reach what its scope allows.

    Raises:
        Forbidden: the key may only hand in models.
    """
    if key is not None and key.scope is KeyScope.SUBMIT and path.split("/")[1] != "submit":
        raise Forbidden(
            f"The API key '{key.name}' has the scope 'submit': it may use /submit and nothing "
            "else. Make one with `dyno keys create NAME --scope all`."
        )


def pass_gate(scope: Scope, key: ApiKeyRecord | None) -> None:
    """Note that the request was let in."""
    scope[_GATE] = key


async def key_of(request: Request, _: Annotated[Any, _BEARER]) -> ApiKeyRecord | None:
    """The key that the gate found, before the body was read."""
    key: ApiKeyRecord | None = request.scope[_GATE]  # KeyError: a route that no gate guards
    return key


Key = Annotated[ApiKeyRecord | None, Depends(key_of)]


async def owner_of(key: Key) -> str | None:
    """The id of the key that the gate found; None where no key was needed."""
    return None if key is None else key.id


Owner = Annotated[str | None, Depends(owner_of)]
GUARDED = Depends(key_of)
