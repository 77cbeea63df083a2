"""Holds a job to the memory that there is: torch then says that it is full, and the worker goes on.

Without it the kernel ends some process when the machine's memory is gone, and a model that asks for
too much would take its worker along, three times over.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from visiondyno.probes.kernel_files import ROOT, read_fields
from visiondyno.probes.slots import host_memory

_SHARE = 0.9
_LEAST_BYTES = 500_000_000


@contextmanager
def within_memory() -> Iterator[None]:
    """This process may take nine tenths of what is free now, and what it has; then as before.

    It holds for private memory (`RLIMIT_DATA`), of all threads together. Where Linux doesn't tell
    what is free, nothing is limited.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _limit_bytes()
    if limit is None or (before != resource.RLIM_INFINITY and before <= limit):
        yield
        return
    with suppress(ValueError):  # the hard limit is lower
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _limit_bytes() -> int | None:
    own = read_fields(ROOT / "proc/self/status").get("VmData")
    free = host_memory().available_bytes
    if own is None or free is None:
        return None
    return own * 1024 + max(int(free * _SHARE), _LEAST_BYTES)
