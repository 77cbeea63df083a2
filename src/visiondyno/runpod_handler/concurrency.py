"""How many jobs a worker runs at once, and whether it holds one more ready."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visiondyno.errors import SpecError
from visiondyno.probes.gpu_share import memory_fraction
from visiondyno.probes.slots import GpuMemory, suggest_cpu_slots, suggest_slots

MOST_PLACES = 6
CONCURRENCY_VARIABLE = "VISIONDYNO_CONCURRENCY"
PREFETCH_VARIABLE = "VISIONDYNO_PREFETCH"

PREFETCH_BELOW_S = 55.0
"""The SDK looks for the next job up to 1.1 s late: 2 % of jobs that take so long."""
_REMEMBERED_JOBS = 5
_MODEL_BYTES = 90_000_000
"""Places are for models of this size: ResNet-50's weights are 102 MB, most detectors' are less."""


@dataclass(frozen=True, slots=True)
class Places:
    """Jobs at once on this machine.

    Attributes:
        count: 1 to 6.
        gpu_memory_fraction: each one's share of the first GPU's memory; None where it is no GPU,
            one job alone, or set already.
        reason: why so many, in a sentence or two.
    """

    count: int
    gpu_memory_fraction: float | None
    reason: str


def choose_places(
    environ: Mapping[str, str],
    gpus: Sequence[GpuMemory],
    cpu_count: int,
    ram_available_bytes: int | None,
) -> Places:
    """As many as have room for models of 90 MB, or as `VISIONDYNO_CONCURRENCY` says.

    Args:
        environ: what overrides is looked up here.
        gpus: what the driver shows, before anything of ours is on them; jobs use the first one.
        cpu_count: of the processors that may be used.
        ram_available_bytes: main memory to be had; None where unknown.

    Raises:
        SpecError: `VISIONDYNO_CONCURRENCY` isn't 1 to 6, or a set share of the GPU isn't one.
    """
    told = environ.get(CONCURRENCY_VARIABLE, "").strip()
    if told:
        if told not in {str(count) for count in range(1, MOST_PLACES + 1)}:
            raise SpecError(
                f"{CONCURRENCY_VARIABLE} is '{told:.40}'; give how many jobs the worker may run at "
                f"once, 1 to {MOST_PLACES}, or leave it out."
            )
        count, reason = int(told), f"{CONCURRENCY_VARIABLE} says so."
    else:
        if gpus:
            found = suggest_slots(
                _MODEL_BYTES,
                gpus[0].total_bytes,
                gpus[0].free_bytes,
                ram_available_bytes=ram_available_bytes,
            )
        else:
            found = suggest_cpu_slots(_MODEL_BYTES, cpu_count, ram_available_bytes)
        count, reason = min(max(found.slots, 1), MOST_PLACES), found.reason
    fraction = None
    if gpus and count > 1 and memory_fraction(environ) is None:
        # Rounded down, so that all of them fit.
        fraction = int(10_000 * gpus[0].free_bytes / gpus[0].total_bytes / count) / 10_000
    return Places(count, fraction, reason)


class Concurrency:
    """What the SDK's `concurrency_modifier` answers: the places, and one job held ready.

    The SDK asks for the next job only up to 1.1 s after one ended, so a worker with short jobs
    holds one more than it runs. While jobs are long that gains nothing and would keep a job from
    another worker; so from a typical length of 55 s on none is held. A change costs one pause, in
    which the SDK lets all jobs end.

    Args:
        places: jobs at once.
        may_prefetch: whether one may be held at all.
    """

    def __init__(self, places: int, *, may_prefetch: bool = True) -> None:
        self._places = places
        self._may_prefetch = may_prefetch
        self._lengths_s: deque[float] = deque(maxlen=_REMEMBERED_JOBS)

    def note(self, length_s: float) -> None:
        """A job ran for so long."""
        self._lengths_s.append(length_s)

    @property
    def jobs_wanted(self) -> int:
        """How many jobs to hold, running ones counted."""
        is_long = bool(self._lengths_s) and statistics.median(self._lengths_s) >= PREFETCH_BELOW_S
        return self._places + (1 if self._may_prefetch and not is_long else 0)


def may_prefetch(environ: Mapping[str, str]) -> bool:
    """What `VISIONDYNO_PREFETCH` says, 0 or 1; 1 where it isn't set.

    Raises:
        SpecError: it says something else.
    """
    told = environ.get(PREFETCH_VARIABLE, "").strip() or "1"
    if told not in {"0", "1"}:
        raise SpecError(
            f"{PREFETCH_VARIABLE} is '{told:.40}'; give 1 to hold the next job ready while one "
            "runs, or 0 not to."
        )
    return told == "1"
