"""Which request, job and trace the code now works for: what log lines carry.

The ids belong to the task (or thread) that bound them, and to tasks that it starts afterwards.
"""

import contextlib
import itertools
import re
import secrets
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType

REQUEST_ID_HEADER = "X-Request-Id"

_IDS: ContextVar[Mapping[str, str]] = ContextVar("visiondyno_ids", default=MappingProxyType({}))
_OF_THIS_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count(secrets.randbits(32))
"""An id need only be nobody else's: random bits for each would be a call of the kernel for each."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def bind(*, job_id: str) -> None:
    """From here on log lines of this task carry the job's id."""
    _IDS.set({**_IDS.get(), "job_id": job_id})


@contextlib.contextmanager
def bound(
    *, request_id: str | None = None, job_id: str | None = None, trace_id: str | None = None
) -> Iterator[None]:
    """Within, log lines of this task carry these ids too; None leaves an id as it is.

    Afterwards all ids are as they were, whatever was bound within.
    """
    ids = {"request_id": request_id, "job_id": job_id, "trace_id": trace_id}
    given = {name: value for name, value in ids.items() if value is not None}
    token = _IDS.set({**_IDS.get(), **given})
    try:
        yield
    finally:
        _IDS.reset(token)


def bound_ids() -> Mapping[str, str]:
    """The ids by name: `request_id`, `job_id`, `trace_id`, as far as they are bound."""
    return _IDS.get()


def request_id_of(given: str | None) -> str:
    """The id of a request: what the client gave, if it is fit for logs and headers, or a new one.

    Fit are 1 to 128 printable ASCII characters without spaces: a line break would forge log lines.
    """
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_OF_THIS_PROCESS}{next(_NUMBERS):016x}"
