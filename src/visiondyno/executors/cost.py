"""What jobs cost where workers are paid for by the second."""

from dataclasses import dataclass
from typing import Any, Literal

from visiondyno.probes.cost import Price


@dataclass(frozen=True, slots=True)
class Cost:
    """What workers cost, between two bounds.

    RunPod bills a worker from its start to its stop, in whole seconds, and doesn't tell a client of
    either; so this is never a reading.

    Attributes:
        kind: always `estimated`.
        worker_s_at_least: seconds in which jobs ran on workers, overlapping ones counted once.
        worker_s_at_most: with start before, idle time and stop after each of them.
        usd_at_least: USD of `worker_s_at_least`.
        usd_at_most: USD of `worker_s_at_most`.
        price: by which.
    """

    worker_s_at_least: int
    worker_s_at_most: int
    price: Price
    kind: Literal["estimated"] = "estimated"

    @property
    def usd_at_least(self) -> float:
        return self.worker_s_at_least * self.price.usd_per_hour / 3600

    @property
    def usd_at_most(self) -> float:
        return self.worker_s_at_most * self.price.usd_per_hour / 3600

    def __str__(self) -> str:
        return (
            f"{self.usd_at_least:.4f} to {self.usd_at_most:.4f} USD (estimated: "
            f"{self.worker_s_at_least} to {self.worker_s_at_most} s of worker time at "
            f"{self.price.usd_per_hour:.4g} USD an hour, {self.price.source})"
        )

    def to_json(self) -> dict[str, Any]:
        """The same for records: numbers, their kind, and by which price."""
        return {
            "kind": self.kind,
            "worker_s_at_least": self.worker_s_at_least,
            "worker_s_at_most": self.worker_s_at_most,
            "usd_at_least": self.usd_at_least,
            "usd_at_most": self.usd_at_most,
            "usd_per_hour": self.price.usd_per_hour,
            "gpu": self.price.gpu,
            "price_source": self.price.source,
        }
