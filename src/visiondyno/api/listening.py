"""What every server of ours begins with: a socket that listens, and an event loop fit for it."""

import asyncio
import contextlib
import ctypes
import errno
import gc
import os
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from visiondyno.errors import SpecError

T = TypeVar("T")

_BACKLOG = 2048
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GC_THRESHOLDS = (100_000, 50, 100)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any free one.

    To be bound before anything else is opened: a second server on the port then disturbs nothing.

    Raises:
        SpecError: the port is taken, or the address isn't this machine's.
    """
    if not 0 <= port < 65_536:
        raise SpecError(f"{port} isn't a port; give 0 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpecError(
                f"Port {port} on {host} is taken: is another server running? "
                "Stop it, or choose another port with --port."
            ) from error
        # The error's own text repeats the address.
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror
        raise SpecError(
            f"The server can't listen on {host}:{port} ({why}); give another --host or --port."
        ) from error
    # Connections inherit it; without, small answers wait 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL at which this machine reaches it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to 64 MB, rather than give it back at once.

    The body of a request is some dozens of pages. By default each is taken from the kernel anew,
    cleared, and given back when the request ends: 43 page faults a request were counted in a server
    of 84 kB images. Elsewhere than with glibc nothing is changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` as a server wants it: on uvloop where there is one, with few collections.

    Thousands of requests in flight are thousands of small objects that live on. At the default of
    700 the garbage collector walks them again and again, and half of the dispatch rate of `dyno up`
    went into that.
    """
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        from uvloop import new_event_loop
    except ImportError:  # Windows, PyPy
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)
