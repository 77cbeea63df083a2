"""Where a comparison's job ran, how long, and what that cost."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobCost(_Value):
    """What a job's workers cost, between two bounds; see `visiondyno.executors.cost.Cost`."""

    kind: str
    worker_s_at_least: int
    worker_s_at_most: int
    usd_at_least: float
    usd_at_most: float
    usd_per_hour: float
    gpu: str | None
    price_source: str

    def __str__(self) -> str:
        return (
            f"{self.usd_at_least:.4f} to {self.usd_at_most:.4f} USD ({self.kind}: "
            f"{self.worker_s_at_least} to {self.worker_s_at_most} s of worker time at "
            f"{self.usd_per_hour:.4g} USD an hour, {self.price_source})"
        )


class JobRun(_Value):
    """One job that ran on an executor.

    Attributes:
        id: the job's.
        executor: the place's name, or the fallback's.
        worker_id: who ran it last; None where nobody told.
        delay_ms: how long it waited.
        execution_ms: how long it ran.
        cost: None where nothing is paid by the second, or it isn't known.
        cost_unknown: why it isn't known; None where it is, or there is none.
        fallback_reason: why it didn't run where it was asked to; None where it did.
    """

    id: str
    executor: str
    worker_id: str | None = None
    delay_ms: int | None = None
    execution_ms: int | None = None
    cost: JobCost | None = None
    cost_unknown: str | None = None
    fallback_reason: str | None = None

    @property
    def is_told(self) -> bool:
        """Whether people are told of it: not where it ran in this process, as it was asked to."""
        return self.executor != "inline" or self.fallback_reason is not None

    def lines(self) -> list[tuple[str, str]]:
        """Name and text of each fact that there is, for people."""
        parts = []
        if self.delay_ms is not None:
            parts.append(f"waited {self.delay_ms / 1000:.1f} s")
        if self.execution_ms is not None:
            parts.append(f"ran {self.execution_ms / 1000:.1f} s")
        if self.worker_id is not None:
            parts.append(f"on worker {self.worker_id}")
        found = [("Job", f"{self.id} on {self.executor}" + "".join(f", {one}" for one in parts))]
        if self.cost is not None:
            found.append(("Cost", str(self.cost)))
        elif self.cost_unknown is not None:
            found.append(("Cost", f"not known: {self.cost_unknown}"))
        if self.fallback_reason is not None:
            found.append(("Fallback", f"ran on {self.executor} instead: {self.fallback_reason}"))
        return found

    def to_json(self) -> dict[str, Any]:
        """For records; what wasn't told is null."""
        return self.model_dump(mode="json")
