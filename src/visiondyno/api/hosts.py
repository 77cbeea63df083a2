"""What a server without keys refuses: other names than this machine's, and other sites' pages."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from visiondyno.api.problems import respond_to
from visiondyno.errors import Forbidden

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class LoopbackOnly:
    """ASGI middleware for a server that trusts whoever can reach it, which any web page can.

    - Its owner lets the page's own name point to 127.0.0.1 (DNS rebinding), and the browser takes
      the server for the page's own: such requests carry that name in `Host`. Only this machine's
      loopback names are answered.
    - It sends a form, which no browser asks leave for: such requests carry the page's site in
      `Origin`. What changes something is taken only from the server's own pages, from the origins
      that CORS names, and from programs, which send no `Origin`.
    """

    def __init__(
        self, app: ASGIApp, origins: Collection[str] = (), keys_option: str = "--keys"
    ) -> None:
        """`origins` may call from elsewhere; `*` is all of them.

        `keys_option` is what the server is started with to ask for keys.
        """
        self._app = app
        self._keys_option = keys_option
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is not None:
            await respond_to(Forbidden(refusal), scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not is_loopback_name(host):
            return (
                "This server needs no key, so it answers only to localhost and 127.0.0.1. Behind "
                f"another name, start it with {self._keys_option}."
            )
        origin = headers.get("origin")
        if scope["method"] in _READING or origin is None or self._allows(origin, host):
            return None
        return (
            "This server needs no key, so nothing was done for the page of another site. Name that "
            f"site with --cors-origin, or start the server with {self._keys_option}."
        )

    def _allows(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        try:
            return urlsplit(origin).netloc == host
        except ValueError:
            return False


def is_loopback_name(host: str) -> bool:
    """Whether a `Host` header, with its port or without, names this machine to itself."""
    return _name(host) in _LOOPBACK


def _name(host: str) -> str:
    """Without the port, which follows the last colon but is absent from `[::1]`."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host
