"""Whose failure it is: the trial's, or the place's, where another attempt may do better."""

import re

from visiondyno.errors import (
    ChildDied,
    Forbidden,
    OperationFailed,
    RateLimited,
    TransportDown,
    Unauthorized,
    VisionDynoError,
)
from visiondyno.executors.base import JobLost

_OF_THE_PLACE = (TransportDown, RateLimited, ChildDied, JobLost)
_LOCKED = (Unauthorized, Forbidden)
_WORKERS_GONE = re.compile(r"job timed out after \d+ retries")
"""All that RunPod says of a job whose workers died, one after another."""


def locks_out(error: VisionDynoError) -> bool:
    """Whether the place lets nobody in with this key."""
    return isinstance(error, _LOCKED)


def is_of_the_place(error: VisionDynoError) -> bool:
    """Whether the place failed the trial, for once: out of reach, its workers died, too busy."""
    if type(error) is OperationFailed and _WORKERS_GONE.search(error.message):
        return True
    return isinstance(error, _OF_THE_PLACE)
