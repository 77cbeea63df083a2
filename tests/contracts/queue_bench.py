"""What the queue's contract is tested with: a clock, and queues opened on one transport."""

import select
import threading
from collections.abc import Callable, Sequence
from typing import Any

from visiondyno.executors.queue import Bell, Claim, JobQueue, Outcome, QueuedJob, backoff_s
from visiondyno.job import JobAnswer, JobEvent, JobState, Policy

RETENTION_S = 1000.0
"""What `open_queue` is to use."""
LEASE_S = 10.0
LOW = Policy(low_priority=True)


class Clock:
    """Seconds since the epoch, moved by the tests."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


OpenQueue = Callable[[Clock], JobQueue]


class Bench:
    """One transport, and the queues that the test opened on it."""

    def __init__(self, open_queue: OpenQueue) -> None:
        self.clock = Clock()
        self._open_queue = open_queue
        self._opened: list[JobQueue] = []
        self.queue = self.another()

    def another(self) -> JobQueue:
        """The same transport as another process would open it."""
        queue = self._open_queue(self.clock)
        self._opened.append(queue)
        return queue

    def in_threads(self, count: int, work: Callable[[JobQueue], None]) -> None:
        """Do the same in several threads, each with a queue of its own."""
        failed: list[BaseException] = []

        def run() -> None:
            queue = self._open_queue(self.clock)
            try:
                work(queue)
            except BaseException as error:
                failed.append(error)
            finally:
                queue.close()

        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []

    def close(self) -> None:
        for queue in self._opened:
            queue.close()

    def put(self, *ids: str, **settings: Any) -> None:
        self.queue.put([job(job_id, **settings) for job_id in ids])

    def claim(self, worker: str = "w") -> Claim:
        (claim,) = self.queue.claim([worker], LEASE_S)
        return claim

    def claimed_ids(self, count: int = 1) -> list[str]:
        workers = [f"w{number}" for number in range(count)]
        return [claim.job_id for claim in self.queue.claim(workers, LEASE_S)]

    def states(self, job_id: str) -> list[str]:
        return [event.state.value for event in self.queue.events(job_id)]

    def answer(self, job_id: str) -> JobAnswer:
        last = self.queue.events(job_id)[-1]
        assert last.answer is not None
        assert last.answer.status == last.state
        return last.answer

    def lapse(self) -> None:
        """Let the leases lapse, and what is given back wait out its pause."""
        self.clock.advance(LEASE_S + 1)
        self.queue.sweep()
        self.clock.advance(backoff_s(100) + 1)


def job(job_id: str, *, policy: Policy | None = None, **settings: Any) -> QueuedJob:
    return QueuedJob(job_id, settings.pop("text", "{}"), policy or Policy(), **settings)


def completed(claim: Claim, output_json: str = "{}", execution_ms: int = 5) -> Any:
    return claim, Outcome(JobState.COMPLETED, execution_ms, output_json)


def rings(bell: Bell, within_s: float = 10.0) -> bool:
    readable, _, _ = select.select([bell], [], [], within_s)
    return bool(readable)


def whole_feed(queue: JobQueue, cursor: str) -> tuple[list[JobEvent], str]:
    found: list[JobEvent] = []
    while True:
        events, cursor = queue.feed(cursor)
        if not events:
            return found, cursor
        found += events


def of(events: Sequence[JobEvent], job_id: str) -> list[JobEvent]:
    return [event for event in events if event.job_id == job_id]
