"""Keeps the network from libraries of models while they make one: none of them needs it.

They have many ways to begin a download (weights of a backbone by default, a repository as the name
of an architecture, kernels of an attention), and each version adds some.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from visiondyno.errors import SpecError

_FORBIDDEN = frozenset({"socket.connect", "socket.getaddrinfo", "socket.sendto"})

_here = threading.local()


@contextmanager
def offline() -> Iterator[None]:
    """This thread opens no connection to another machine meanwhile, by any library of Python.

    Raises:
        SpecError: inside, from where it is tried.
    """
    _watch()
    before = getattr(_here, "is_offline", False)
    _here.is_offline = True
    try:
        yield
    finally:
        _here.is_offline = before


@cache
def _watch() -> None:
    # Python has no way to take such a hook away again; it costs nothing where it does nothing.
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN and getattr(_here, "is_offline", False):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[-1]
        raise SpecError(
            f"it would be fetched from {str(host)[:100]}, and nothing is downloaded for a model: "
            "give 'model_state' to begin with weights of your own"
        )
