"""An emulated endpoint as a state machine: jobs, workers and time, without any input or output."""

import math
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from visiondyno.emulator.billing import Bill
from visiondyno.emulator.config import PAYLOAD_BYTES, EndpointConfig, Kind, Scaler
from visiondyno.emulator.fleet import Fleet, WorkerOrder
from visiondyno.emulator.job_board import JobBoard
from visiondyno.emulator.records import Job, Json, Worker
from visiondyno.errors import NotFound, TooLarge
from visiondyno.job import JobState


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Tell of a job's end, and its webhook if it has one."""

    status: Json
    webhook: str | None


Order = WorkerOrder | JobEnded


def new_worker_id() -> str:
    """A pod's id: fourteen letters and digits, as RunPod's are."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(alphabet) for _ in range(14))


class Endpoint:
    """What a RunPod serverless endpoint does, driven from outside.

    Every method takes the endpoint's time in seconds, which never goes back. After each of them,
    and whenever `next_deadline_s` is reached, `advance` gives what is to be done in the world;
    `worker_left` must follow once a started worker's process has ended, however it did.

    Promises: nothing leaves a terminal state but by `retry`; a job gets one output for each
    attempt, from a worker that it was delivered to; a job that runs is delivered to no other worker
    (unless that is asked for, by `deliver_again`); there are never more workers than `workers_max`;
    the bill is the sum over workers of their time from start to end, rounded up.

    Args:
        config: how it is set up.
        new_id: names workers.
    """

    def __init__(self, config: EndpointConfig, new_id: Callable[[], str] = new_worker_id) -> None:
        self.config = config
        self.jobs = JobBoard(config)
        self.fleet = Fleet(config, new_id)
        self._results_to_drop = 0
        self._jobs_to_deliver_again = 0
        self._orders: list[Order] = []

    # ---- clients

    def submit(self, body: Any, kind: Kind, now_s: float) -> Job:
        """Queue a job.

        Raises:
            SpecError: the body asks for none.
        """
        return self.jobs.submit(body, kind, now_s)

    def cancel(self, job_id: str, now_s: float) -> Job:
        """End a job, unless it has ended; whoever runs it is told to stop.

        Raises:
            NotFound: no such job.
        """
        job = self.jobs.find(job_id)
        if job.state is JobState.IN_PROGRESS:
            self.fleet.stop_job(job_id, now_s)
        self.jobs.cancel(job, now_s)
        return job

    def health(self) -> Json:
        """What `/health` answers."""
        return {"jobs": self.jobs.health(), "workers": self.fleet.health()}

    def bill(self, now_s: float) -> Bill:
        """What all workers cost until now."""
        return self.fleet.bill(now_s)

    # ---- workers

    def take(self, worker_id: str, most: int, now_s: float, *, says_busy: bool) -> list[Json]:
        """Jobs for a worker that asks for up to `most`, as it gets them.

        Raises:
            NotFound: no such worker is there.
        """
        worker = self._worker(worker_id)
        if not self.fleet.asks_for_jobs(worker, now_s, says_busy=says_busy):
            return []
        jobs = self.jobs.take(worker_id, most, now_s)
        self.fleet.give(worker, [job.id for job in jobs])
        again = [job.id for job in jobs][: self._jobs_to_deliver_again]
        self._jobs_to_deliver_again -= len(again)
        self.jobs.to_deliver_again += again
        return [{"id": job.id, **job.given} for job in jobs]

    def jobs_to_stop(self, worker_id: str) -> list[str]:
        """Ids of jobs that the worker is to stop, each told once.

        Raises:
            NotFound: no such worker is there.
        """
        return self.fleet.jobs_to_stop(self._worker(worker_id))

    def has_ended(self, worker_id: str) -> bool:
        """Whether the worker is to end, or has: it needn't wait for anything."""
        worker = self.fleet.find(worker_id)
        return worker is None or worker.kill_at_s < math.inf or worker.is_killed

    def heard_ping(self, worker_id: str, job_ids: Collection[str], now_s: float) -> None:
        """A worker lives and has these jobs.

        Raises:
            NotFound: no such worker is there.
        """
        self.fleet.heard_ping(self._worker(worker_id), job_ids, now_s)

    def tell_progress(self, worker_id: str, job_id: str, progress: Any) -> bool:
        """A worker tells of its job; whether that counted. After the end it doesn't."""
        counts = self.jobs.is_held(job_id, worker_id)
        if counts:
            self.jobs.tell_progress(job_id, progress)
        return counts

    def tell_stream(self, worker_id: str, job_id: str, item: Any, item_bytes: int) -> bool:
        """A worker's job yields; whether that counted.

        Raises:
            TooLarge: the item has more than 1 MB and is no text.
        """
        counts = self.jobs.is_held(job_id, worker_id)
        if counts:
            self.jobs.tell_stream(job_id, item, item_bytes)
        return counts

    def finish(
        self, worker_id: str, job_id: str, said: Json, said_bytes: int, now_s: float
    ) -> bool:
        """A worker answers a job; whether that counted: only the first answer does.

        An answer that is too large is refused, and the job goes on until its time is up: so it is
        on RunPod (https://github.com/runpod-workers/worker-comfyui/issues/129).

        Raises:
            TooLarge: above what the job's kind may have.
        """
        counts = self.jobs.is_held(job_id, worker_id)
        if counts and said_bytes > (most := PAYLOAD_BYTES[self.jobs.find(job_id).kind]):
            raise TooLarge(f"A result may have {most / 1e6:g} MB; this has {said_bytes / 1e6:.1f}.")
        worker = self.fleet.find(worker_id)
        if worker is not None:
            self.fleet.let_go(worker, job_id, now_s)
        if counts and self._results_to_drop:
            self._results_to_drop -= 1
            counts = False
        elif counts:
            self.jobs.finish(job_id, worker_id, said, now_s)
            if worker is not None:
                worker.jobs_done += 1
        if worker is not None and said.get("stopPod"):
            self._orders += self.fleet.retire(worker, now_s, "its handler asked for that")
        return counts

    def worker_left(self, worker_id: str, now_s: float) -> None:
        """A worker's process has ended; what it had waits again, or fails."""
        worker = self.fleet.find(worker_id)
        if worker is not None:
            self.fleet.left(worker, now_s)
            self.jobs.lose_worker(worker_id, now_s)

    # ---- faults

    def drop_results(self, count: int) -> None:
        """Forget the next so many answers of workers."""
        self._results_to_drop += count

    def deliver_again(self, count: int) -> None:
        """Deliver each of the next so many jobs a second time, to whoever asks next."""
        self._jobs_to_deliver_again += count

    # ---- time

    def advance(self, now_s: float) -> list[Order]:
        """What is to be done now."""
        for job in self.jobs.advance(now_s):
            self.fleet.stop_job(job.id, now_s)
        orders, self._orders = self._orders, []
        orders += self.fleet.advance(self._claimable(now_s), now_s)
        orders += [JobEnded(job.status(), job.webhook) for job in self.jobs.ended]
        self.jobs.ended.clear()
        return orders

    def next_deadline_s(self, now_s: float) -> float:
        """When `advance` has something to do although nothing happens; infinity: never.

        What was due by now is done by the `advance` of now.
        """
        times = [self.jobs.next_deadline_s, *self.fleet.deadlines_s()]
        if self.config.scaler is Scaler.QUEUE_DELAY:
            delay_s = self.config.scaler_value
            since_s = self.jobs.waiting_since_s(self.config.workers_max)
            times += [submitted_s + delay_s for submitted_s in since_s]
        return min((at_s for at_s in times if at_s > now_s), default=math.inf)

    # ---- within

    def _claimable(self, now_s: float) -> int:
        config = self.config
        if config.scaler is Scaler.REQUEST_COUNT:
            wanted = math.ceil(self.jobs.open_count / config.scaler_value)
            return max(0, wanted - self.fleet.busy_count)
        since_s = self.jobs.waiting_since_s(config.workers_max)
        late = sum(at_s + config.scaler_value <= now_s for at_s in since_s)
        if late or self.fleet.alive():
            return late
        return min(1, len(since_s))  # the first one waits for no delay

    def _worker(self, worker_id: str) -> Worker:
        worker = self.fleet.find(worker_id)
        if worker is None:
            raise NotFound(f"No worker '{worker_id:.40}' is there; it ended or never was.")
        return worker
