"""Which ended jobs an executor without a store remembers: a process may run jobs for weeks."""

from collections.abc import Callable
from typing import Any

KEPT_S = 30 * 60.0
"""How long after somebody was told of its end a job is remembered; RunPod's retention."""
KEPT_BYTES = 64_000_000
"""Of jobs whose end was told, for those who ask again."""
MOST_BYTES = 1_000_000_000
"""Of ended jobs, told or not."""


class EndedJobs:
    """The ended jobs that are remembered.

    One whose end nobody was told yet stays until then: somebody may still come for its result.
    After that it stays for half an hour, as long as it is among the last 64 MB. Over 1 GB together
    the oldest go, whatever they are. The job that ended last stays in any case.

    For one thread.
    """

    def __init__(self, forget: Callable[[str], object], clock: Callable[[], float]) -> None:
        """`forget` is called with the id of each job that goes; `clock` gives seconds."""
        self._forget = forget
        self._clock = clock
        self._bytes: dict[str, int] = {}
        self._told_s: dict[str, float] = {}
        self._all_bytes = self._told_bytes = 0

    def keep(self, job_id: str, size_bytes: int) -> None:
        """A job has ended; what is remembered of it takes so many bytes. Once is enough."""
        if job_id in self._bytes:
            return
        self._bytes[job_id] = size_bytes
        self._all_bytes += size_bytes
        self._trim()

    def note_told(self, job_id: str) -> None:
        """Somebody is told of the end of a job that is kept."""
        if job_id in self._bytes and job_id not in self._told_s:
            self._told_s[job_id] = self._clock()
            self._told_bytes += self._bytes[job_id]
        self._trim()

    def _trim(self) -> None:
        now_s = self._clock()
        for job_id, told_s in list(self._told_s.items()):
            if self._told_bytes <= KEPT_BYTES and now_s - told_s <= KEPT_S:
                break
            self._drop(job_id)
        for job_id in list(self._bytes):
            if self._all_bytes <= MOST_BYTES:
                break
            self._drop(job_id)

    def _drop(self, job_id: str) -> None:
        if job_id not in self._bytes or job_id == next(reversed(self._bytes)):
            return
        length = self._bytes.pop(job_id)
        self._all_bytes -= length
        if self._told_s.pop(job_id, None) is not None:
            self._told_bytes -= length
        self._forget(job_id)


def size_bytes(value: Any) -> int:
    """About how much memory a value of JSON takes; long texts count exactly."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + size_bytes(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return 8 * len(value) + sum(size_bytes(inner) for inner in value)
    return 8
