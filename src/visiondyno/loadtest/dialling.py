"""New connections to a target: its name is looked up once, certificates are always checked."""

import asyncio
import socket
import ssl
from typing import Any

from visiondyno.loadtest.connection import Connection
from visiondyno.loadtest.targets import PreparedTarget


class NoConnection(Exception):
    """There is no connection; the message says why."""


class Dialler:
    """Opens connections to one target, past any proxy that the environment names.

    Args:
        target: whose host and port.
        loop: the running loop.
    """

    def __init__(self, target: PreparedTarget, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop
        self._addresses: list[str] = []
        self._why_none = ""
        self._tls: ssl.SSLContext | None = None

    async def look_up(self) -> None:
        """Resolve the name, once; that it has no address is told by every `dial`."""
        if self._target.uses_tls:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        try:
            found = await self._loop.getaddrinfo(
                self._target.host, self._target.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            self._why_none = f"no address of {self._target.host}: {error.strerror or error}"
            return
        self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def dial(self, connection: Connection) -> None:
        """Open it, at the first address that answers; that one is asked first from then on.

        Raises:
            NoConnection: refused, unreachable, no such name, no descriptor left, a TLS failure.
        """
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls, "server_hostname": self._target.host}
        why = self._why_none
        for address in tuple(self._addresses):
            try:
                await self._loop.create_connection(
                    lambda: connection, address, self._target.port, **options
                )
            except ssl.SSLError as error:
                why = f"TLS with {self._target.host}: {_tls_reason(error)}"
            except OSError as error:
                why = f"{error.strerror or error or type(error).__name__} ({self._shown(address)})"
            else:
                if self._addresses[0] != address:
                    self._addresses.remove(address)
                    self._addresses.insert(0, address)
                return
        raise NoConnection(why)

    def _shown(self, address: str) -> str:
        port = self._target.port
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate isn't trusted: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
