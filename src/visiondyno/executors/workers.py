"""What is known of a worker, and what it can be told."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class WorkerState(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"  # finishes its job and claims no other
    DRAINED = "drained"
    BACKING_OFF = "backing-off"  # died soon after its start; is started again after a pause


class WorkerCommand(StrEnum):
    """What a worker can be told."""

    DRAIN = "drain"
    RESUME = "resume"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker, as its supervisor last told.

    Attributes:
        name: `HOST-PID-SLOT`; stays when the supervisor replaces a dead process.
        state: what it is doing.
        seen_at: when it was told, seconds since the epoch.
        host: the machine's name.
        pid: the process now in this slot; None while there is none.
        job_id: the job it runs (the transport's id), or None.
        gpu: the GPU's name, or None where the worker uses none.
        gpu_memory_fraction: the share of the GPU's memory it may take, or None without a limit.
        gpu_memory_used_bytes: of the whole GPU; None where it can't be measured.
        rss_bytes: resident memory of the process; None where it can't be measured.
        jobs_done: jobs this slot ended since its supervisor started.
        restarts: processes this slot lost and replaced.
        machine: digest of what results depend on (processor, GPU, packages); equal on machines
            whose measurements may stand for each other.
        version: visiondyno's.
    """

    name: str
    state: WorkerState
    seen_at: float
    host: str
    pid: int | None = None
    job_id: str | None = None
    gpu: str | None = None
    gpu_memory_fraction: float | None = None
    gpu_memory_used_bytes: int | None = None
    rss_bytes: int | None = None
    jobs_done: int = 0
    restarts: int = 0
    machine: str | None = None
    version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a transport."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "WorkerInfo":
        """What `to_json` gave; keys that this version doesn't know are dropped."""
        known = {key: value for key, value in values.items() if key in cls.__slots__}
        return cls(**{**known, "state": WorkerState(known["state"])})
