"""What can be set at an emulated endpoint. Defaults are RunPod's, from its documentation.

https://docs.runpod.io/serverless/endpoints/endpoint-configurations and
https://docs.runpod.io/serverless/endpoints/operation-reference. Where neither says what RunPod
does, the docstring here says what was chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from visiondyno.errors import SpecError
from visiondyno.executors.throttle import RUNPOD_QUOTAS, Quota

LONGEST_POLICY_MS = 7 * 24 * 3600 * 1000
SHORTEST_WAIT_MS, LONGEST_WAIT_MS, DEFAULT_WAIT_MS = 1_000, 300_000, 90_000
STREAM_ITEM_BYTES = 1_000_000


class Kind(StrEnum):
    """How a job was submitted."""

    RUN = "run"
    RUNSYNC = "runsync"


PAYLOAD_BYTES = {Kind.RUN: 10_000_000, Kind.RUNSYNC: 20_000_000}
RETENTION_S = {Kind.RUN: 30 * 60.0, Kind.RUNSYNC: 60.0}


class Scaler(StrEnum):
    """When workers are added.

    `QUEUE_DELAY`: once a job has waited for more than so many seconds. `REQUEST_COUNT`: so that
    there is one worker for every so many jobs that wait or run.
    """

    QUEUE_DELAY = "queue-delay"
    REQUEST_COUNT = "request-count"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """One endpoint. Seconds are of its own clock, which may run faster than ours.

    Attributes:
        endpoint_id: its name in URLs.
        workers_min: how many workers always run ("active workers").
        workers_max: how many there ever are.
        idle_timeout_s: a worker without a job for so long is stopped.
        execution_timeout_s: of jobs whose policy has none.
        ttl_s: of jobs whose policy has none; counted from submission.
        scaler: when workers are added.
        scaler_value: its seconds, or its jobs for each worker.
        gpu: what the workers are said to have.
        usd_per_s: price of one worker.
        max_retries: how often a job whose worker died is put back before it fails. RunPod doesn't
            say; its message ("job timed out after 1 retries") tells of one.
        ping_interval_s: how often workers tell that they live.
        missed_pings: a worker that stays silent for so many intervals is killed; our choice.
        init_timeout_s: a worker that hasn't asked for a job for so long is killed (RunPod's
            RUNPOD_INIT_TIMEOUT).
        stop_grace_s: how long a worker that is to end may take before it is killed; our choice.
        shortest_execution_timeout_ms: the least that a policy may ask for.
        shortest_ttl_ms: likewise.
        quotas: by operation.
    """

    endpoint_id: str = "emulator"
    workers_min: int = 0
    workers_max: int = 3
    idle_timeout_s: float = 5.0
    execution_timeout_s: float = 600.0
    ttl_s: float = 24 * 3600.0
    scaler: Scaler = Scaler.QUEUE_DELAY
    scaler_value: float = 4.0
    gpu: str = "A4000"
    usd_per_s: float = 0.00016
    max_retries: int = 1
    ping_interval_s: float = 10.0
    missed_pings: int = 3
    init_timeout_s: float = 7 * 60.0
    stop_grace_s: float = 10.0
    shortest_execution_timeout_ms: int = 5_000
    shortest_ttl_ms: int = 10_000
    quotas: Mapping[str, Quota] = field(default_factory=lambda: RUNPOD_QUOTAS)

    def __post_init__(self) -> None:
        if not self.endpoint_id or not self.endpoint_id.replace("-", "").isalnum():
            raise SpecError(
                f"The endpoint's name '{self.endpoint_id:.40}' may have letters, digits and "
                "hyphens only; give another."
            )
        if not 0 <= self.workers_min <= self.workers_max or self.workers_max < 1:
            raise SpecError(
                f"{self.workers_min} to {self.workers_max} workers can't be; give 0 or more, and "
                "at least 1 at most."
            )
        positive = {
            "idle timeout": self.idle_timeout_s,
            "execution timeout": self.execution_timeout_s,
            "ttl": self.ttl_s,
            "scaler value": self.scaler_value,
            "ping interval": self.ping_interval_s,
        }
        for name, value in positive.items():
            if not 0 < value < float("inf"):
                raise SpecError(f"The {name} must be a number above 0; got {value}.")
