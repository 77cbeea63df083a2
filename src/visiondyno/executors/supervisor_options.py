"""What a supervisor is told when it starts."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from visiondyno.executors.queue import DEFAULT_LEASE_S
from visiondyno.executors.scaling import ScaleLimits

DEFAULT_ENTRY = "visiondyno.worker:run"


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """What `dyno up` and `dyno worker` decide.

    Attributes:
        name: prefix of the workers' names.
        entry: `package.module:function` that runs a job's input.
        scale: how many processes.
        lease_s: how long a claim holds without renewal.
        gpu_memory_fraction: each worker's share of the GPU's memory, or None.
        environ: of the workers.
        patient: whether a queue that is set up wrong is waited for, as one that is away is.
    """

    scale: ScaleLimits
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    entry: str = DEFAULT_ENTRY
    lease_s: float = DEFAULT_LEASE_S
    gpu_memory_fraction: float | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    patient: bool = False
