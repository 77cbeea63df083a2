"""API keys of an inference server: a file of them, and the gate that asks for one."""

import hashlib
import hmac
from pathlib import Path

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from visiondyno.api.problems import respond_to
from visiondyno.errors import SpecError, Unauthorized

_OPEN = frozenset(
    {
        *("/health", "/ready", "/ping", "/metrics", "/docs", "/docs/errors", "/openapi.json", "/"),
        *("/v2/health/live", "/v2/health/ready"),
    }
)
_SHORTEST_KEY = 16


class Keys:
    """The keys of a file: one a line, `#` begins a comment. Only their hashes are kept."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SpecError: it can't be read, holds no key, or one that is too easily guessed.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it isn't UTF-8"
            raise SpecError(f"The file of keys {path} can't be read: {why}.") from error
        self._hashes = []
        for number, line in enumerate(lines, 1):
            key = line.partition("#")[0].strip()
            if not key:
                continue
            if len(key) < _SHORTEST_KEY or not key.isascii() or " " in key:
                raise SpecError(
                    f"Line {number} of {path} is no key: {_SHORTEST_KEY} ASCII characters or more, "
                    "without spaces, make one (openssl rand -hex 24)."
                )
            self._hashes.append(_hash(key))
        if not self._hashes:
            raise SpecError(f"The file of keys {path} holds no key; put one on a line of its own.")

    def check(self, authorization: str | None) -> None:
        """Judge an `Authorization` header, in a time that doesn't depend on which key is near.

        Raises:
            Unauthorized: it holds no key, or another.
        """
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("This server wants an API key: send 'Authorization: Bearer KEY'.")
        given = _hash(key.strip())
        # Every key is compared, whichever fits.
        if not sum(hmac.compare_digest(given, known) for known in self._hashes):
            raise Unauthorized("The API key isn't one of this server's; check it.")


class KeyGate:
    """ASGI middleware: without a key only probes, metrics and the description are answered."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            try:
                self._keys.check(Headers(scope=scope).get("authorization"))
            except Unauthorized as refusal:
                await _refuse(refusal, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refuse(refusal: Unauthorized, path: str) -> Response:
    response = respond_to(refusal, path)
    if not path.startswith("/v2"):
        return response
    # The Open Inference Protocol has a form of its own for errors.
    body = to_json({"error": refusal.message})
    challenge = response.headers["www-authenticate"]
    return Response(body, 401, {"WWW-Authenticate": challenge}, "application/json")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
