"""What workers cost: every started second from start to stop, idle time and start-up included."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from visiondyno.emulator.records import Json, Worker

_ROUNDING_ERROR_S = 1e-6
"""Differences of clock readings have such errors; they must not start another second."""


@dataclass(frozen=True, slots=True)
class WorkerBill:
    """One worker's time and price; `is_running` says that both still grow."""

    worker_id: str
    started_s: float
    stopped_s: float | None
    billed_s: int
    usd: float
    jobs_done: int
    is_running: bool


@dataclass(frozen=True, slots=True)
class Bill:
    """All workers of an endpoint, in the order of their starts."""

    gpu: str
    usd_per_s: float
    billed_s: int
    usd: float
    workers: tuple[WorkerBill, ...]

    def of(self, worker_id: str) -> WorkerBill:
        """That worker's part."""
        return next(bill for bill in self.workers if bill.worker_id == worker_id)

    def to_json(self) -> Json:
        """As plain values."""
        return asdict(self)


def billed_seconds(started_s: float, stopped_s: float) -> int:
    """Whole seconds that RunPod bills for a worker: rounded up, and none for none."""
    return max(0, math.ceil(stopped_s - started_s - _ROUNDING_ERROR_S))


def make_bill(workers: Iterable[Worker], now_s: float, gpu: str, usd_per_s: float) -> Bill:
    """The bill at `now_s`; running workers are billed up to there."""
    bills = tuple(_worker_bill(worker, now_s, usd_per_s) for worker in workers)
    billed_s = sum(bill.billed_s for bill in bills)
    return Bill(gpu, usd_per_s, billed_s, billed_s * usd_per_s, bills)


def _worker_bill(worker: Worker, now_s: float, usd_per_s: float) -> WorkerBill:
    until_s = now_s if worker.stopped_s is None else worker.stopped_s
    billed_s = billed_seconds(worker.started_s, until_s)
    return WorkerBill(
        worker_id=worker.id,
        started_s=worker.started_s,
        stopped_s=worker.stopped_s,
        billed_s=billed_s,
        usd=billed_s * usd_per_s,
        jobs_done=worker.jobs_done,
        is_running=worker.stopped_s is None,
    )
