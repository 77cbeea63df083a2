"""Which names a server without keys answers to."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from visiondyno.api.problems import respond_to
from visiondyno.errors import Forbidden

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class LoopbackOnly:
    """ASGI middleware that answers only requests addressed to this machine by a loopback name.

    A server that needs no key trusts whoever can reach it. A web page can: its owner lets the
    page's own name point to 127.0.0.1 (DNS rebinding), and the browser then takes the server for
    the page's own. Its requests carry that name in `Host`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _name(Headers(scope=scope).get("host", "")) not in _LOOPBACK:
            refused = Forbidden(
                "This server needs no key, so it answers only to localhost and 127.0.0.1. Behind "
                "another name, start it with --keys."
            )
            await respond_to(refused, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """Without the port, which follows the last colon but is absent from `[::1]`."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host
