"""Targets before anything is sent to them: made ready, and reached once."""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import replace

from visiondyno.errors import Unavailable
from visiondyno.loadtest.redaction import public_url
from visiondyno.loadtest.targets import PreparedTarget, prepare_target
from visiondyno.specs.load_test import TargetSpec

_REACHED_S = 10.0


def prepared_targets(targets: Sequence[TargetSpec]) -> list[PreparedTarget]:
    """Each made ready, with a name that no other one has.

    Raises:
        SpecError: one can't be used.
    """
    found: list[PreparedTarget] = []
    for spec in targets:
        prepared = prepare_target(spec)
        taken = {one.name for one in found}
        name, number = prepared.name, 2
        while name in taken:
            name, number = f"{prepared.name} ({number})", number + 1
        found.append(replace(prepared, name=name))
    return found


async def reach(target: PreparedTarget) -> None:
    """Open a connection, as the first request will.

    Raises:
        Unavailable: there is none.
    """
    tls = ssl.create_default_context() if target.uses_tls else None
    try:
        async with asyncio.timeout(_REACHED_S):
            _, writer = await asyncio.open_connection(target.host, target.port, ssl=tls)
    except TimeoutError as error:
        raise _unreachable(target, f"no connection within {_REACHED_S:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise _unreachable(target, f"its certificate isn't trusted: {error.verify_message}") from (
            error
        )
    except OSError as error:
        raise _unreachable(target, _reason(error)) from error
    writer.close()


def _unreachable(target: PreparedTarget, reason: str) -> Unavailable:
    return Unavailable(
        f"{public_url(target.url)} can't be reached ({reason}); start it, or check host and port. "
        "Nothing was sent."
    )


def _reason(error: OSError) -> str:
    """Asyncio's own messages name calls and addresses; the system's name the reason."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return "its name has no address"
    if error.errno is not None:
        return os.strerror(error.errno).lower()
    # Each of several addresses failed, and the reasons are in the text alone.
    numbers = {int(one) for one in re.findall(r"Errno (\d+)", str(error))}
    return ", ".join(os.strerror(one).lower() for one in sorted(numbers)) or (
        str(error) or "the connection ended while it was opened"
    )
