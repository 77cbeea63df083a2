"""Whether SAQ keeps the job contract: kill, stale worker, cancel, time limit, events, one result.

Real worker processes on a real Redis, with the settings that served long jobs best: heartbeat 8 s,
3 attempts, a sweep every 2 s, `job.update()` twice a second. An operation appends a line to a
ledger at its start, ten times a second while it runs, and at its end: what it really did is read
there, and what SAQ says of it from SAQ. Three ways to run an operation that blocks:

- `plain`: a `def`, which SAQ runs in its thread pool.
- `beside`: an `async def` that runs it in a thread and updates the job meanwhile (the only way to
  have a heartbeat).
- `in_loop`: an `async def` that blocks the worker's main thread.

Writes facts, not ratios. Nothing here judges speed, so it needs no quiet machine.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saq import Job, Queue, Status, Worker
from saq.job import TERMINAL_STATUSES

from broker import own_redis
from record import record_facts
from visiondyno.probes.quiet import QuietMonitor

TUNED = {"timeout": 3600, "heartbeat": 8, "retries": 3}
SWEEP_S, BEAT_S, TICK_S = 2, 0.5, 0.1
FORMS = ("plain", "beside", "in_loop")
EVENTS = 50
STARTS = 8


def operate(ledger: str, key: str, duration_s: float) -> str:
    """Block for `duration_s` of this process' own time; who ran it is the result."""
    note(ledger, key, "start")
    for _ in range(round(duration_s / TICK_S)):
        time.sleep(TICK_S)
        note(ledger, key, "tick")
    note(ledger, key, "end")
    return f"by {os.getpid()}"


def note(ledger: str, key: str, what: str) -> None:
    """Append a line, in one write."""
    line = json.dumps({"key": key, "what": what, "pid": os.getpid(), "at": time.time()})
    with Path(ledger).open("a") as file:
        file.write(line + "\n")


def plain(context: dict[str, Any], *, ledger: str, duration_s: float) -> str:
    """SAQ runs it in a thread; it can't update its job from there."""
    return operate(ledger, context["job"].key, duration_s)


async def beside(context: dict[str, Any], *, ledger: str, duration_s: float) -> str:
    """The operation in a thread, heartbeats beside it."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await context["job"].update()

    beats = asyncio.create_task(beat())
    try:
        return await asyncio.to_thread(operate, ledger, context["job"].key, duration_s)
    finally:
        beats.cancel()


async def in_loop(context: dict[str, Any], *, ledger: str, duration_s: float) -> str:
    """The operation in the worker's main thread."""
    return operate(ledger, context["job"].key, duration_s)


async def tell(context: dict[str, Any]) -> None:
    """Say how far it is, 50 times."""
    for number in range(1, EVENTS + 1):
        await context["job"].update(progress=number / EVENTS)


async def work(url: str, name: str) -> None:
    """A worker process: one job at a time."""
    logging.basicConfig(level=logging.INFO)
    queue = Queue.from_url(url, name=name)
    functions: Any = [plain, beside, in_loop, tell]
    timers: Any = {"sweep": SWEEP_S}
    worker: Worker[Any] = Worker(queue, functions, concurrency=1, timers=timers)
    await worker.start()


@dataclass
class Bench:
    """A queue of its own, its worker processes, and the ledger of what they did."""

    url: str
    name: str
    folder: Path

    def __post_init__(self) -> None:
        self.queue = Queue.from_url(self.url, name=self.name)
        self.ledger = self.folder / f"{self.name}.jsonl"
        self.ledger.touch()
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start one more."""
        command = [sys.executable, __file__, "worker", self.url, self.name]
        with (self.folder / f"{self.name}.log").open("a") as log:
            worker = subprocess.Popen(command, stderr=log, start_new_session=True)
        self.workers.append(worker)
        return worker

    async def start_settled_worker(self) -> subprocess.Popen[bytes]:
        """Start one, and return between its first two sweeps."""
        worker = self.start_worker()

        async def known() -> bool:
            return bool((await self.queue.info())["workers"])

        await self.until(known, 20)
        await asyncio.sleep(SWEEP_S / 2)
        return worker

    async def submit(self, form: str, duration_s: float, **settings: Any) -> Job:
        """Enqueue one operation."""
        job = await self.queue.enqueue(
            form, ledger=str(self.ledger), duration_s=duration_s, **{**TUNED, **settings}
        )
        assert job is not None, "a new key is always accepted"
        return job

    def lines(self, what: str, pid: int | None = None) -> list[dict[str, Any]]:
        """The ledger's lines of one kind, of one worker."""
        lines = [json.loads(line) for line in self.ledger.read_text().splitlines()]
        return [
            line for line in lines if line["what"] == what and (pid is None or line["pid"] == pid)
        ]

    async def until(self, condition: Callable[[], Awaitable[bool]], limit_s: float) -> bool:
        """Whether it came true within the limit."""
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            if await condition():
                return True
            await asyncio.sleep(0.05)
        return False

    async def until_started(self, times: int = 1, limit_s: float = 40) -> bool:
        """Whether an operation started so often."""

        async def enough() -> bool:
            return len(self.lines("start")) >= times

        return await self.until(enough, limit_s)

    async def until_ended(self, job: Job, limit_s: float) -> Job:
        """The job as SAQ has it, when it ended or the limit is over."""

        async def ended() -> bool:
            return bool((await self.stored(job)).status in TERMINAL_STATUSES)

        await self.until(ended, limit_s)
        return await self.stored(job)

    async def stored(self, job: Job) -> Job:
        """The job as SAQ has it now."""
        found = await self.queue.job(job.key)
        assert found is not None, "results are kept for ten minutes"
        return found

    async def close(self) -> None:
        """End the workers and the connection."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
        await self.queue.disconnect()


async def killed_worker(bench: Bench) -> dict[str, Any]:
    """SIGKILL 3 s into a 10 s job; another worker starts at once."""
    await bench.start_settled_worker()
    return await kill_and_wait(bench, await bench.submit("beside", 10))


async def killed_at_start(bench: Bench) -> dict[str, Any]:
    """The same, but the job waited when its worker started.

    A starting worker claims and sweeps at once. A sweep takes a job that is claimed and not yet
    marked active for a stuck one: then it is in no list, and no later sweep finds it.
    """
    job = await bench.submit("beside", 10)
    bench.start_worker()
    return await kill_and_wait(bench, job)


async def kill_and_wait(bench: Bench, job: Job) -> dict[str, Any]:
    """Kill the only worker 3 s in, start another, and see what becomes of the job."""
    await bench.until_started()
    await asyncio.sleep(3)
    bench.workers[0].kill()
    killed_at = time.time()
    bench.start_worker()
    again = await bench.until_started(2)
    ended = await bench.until_ended(job, 25 if again else 0.1)
    waits_or_runs = [await bench.queue.count(kind) for kind in ("queued", "active", "incomplete")]
    return {
        "ran_again": again,
        "ran_again_after_s": round(bench.lines("start")[1]["at"] - killed_at, 1) if again else None,
        "status": ended.status.value,
        "is_in_no_list": not again and not any(waits_or_runs),
        "keeps_the_contract": again and ended.status == Status.COMPLETE,
    }


async def stale_worker(bench: Bench) -> dict[str, Any]:
    """SIGSTOP past the heartbeat, another worker answers, then SIGCONT: is the answer rewritten?"""
    first = await bench.start_settled_worker()
    job = await bench.submit("beside", 6)
    await bench.until_started()
    second = bench.start_worker()
    await asyncio.sleep(1)
    first.send_signal(signal.SIGSTOP)
    again = await bench.until_started(2)
    answered = await bench.until_ended(job, 25)
    by_second, completed = answered.result, answered.completed
    first.send_signal(signal.SIGCONT)

    async def stale_one_ended() -> bool:
        return bool(bench.lines("end", first.pid))

    lost_answer = False

    async def overwritten() -> bool:
        nonlocal lost_answer
        now = await bench.stored(job)
        lost_answer = lost_answer or now.result is None
        return now.result not in {by_second, None}

    rewritten = await bench.until(overwritten, 15)
    final = await bench.stored(job)
    return {
        "ran_again": again,
        "answered_by_the_second": by_second == f"by {second.pid}",
        "stale_worker_ran_to_its_end": await stale_one_ended(),
        "answer_was_empty_meanwhile": lost_answer,
        "stale_worker_overwrote_the_answer": rewritten and final.result == f"by {first.pid}",
        "completed_ms_changed": final.completed != completed,
        "keeps_the_contract": again and not rewritten and not lost_answer,
    }


async def cancelled(bench: Bench, form: str) -> dict[str, Any]:
    """Abort a blocking job 2 s in, of 12 s: when does SAQ say so, when does the operation stop?"""
    await bench.start_settled_worker()
    job = await bench.submit(form, 12)
    await bench.until_started()
    await asyncio.sleep(2)
    asked_at = time.time()
    await (await bench.stored(job)).abort("the user's wish")
    ended = await bench.until_ended(job, 16)
    return await ending(bench, ended, asked_at, Status.ABORTED)


async def timed_out(bench: Bench, form: str) -> dict[str, Any]:
    """A time limit of 2 s on a blocking job of 12 s."""
    await bench.start_settled_worker()
    job = await bench.submit(form, 12, timeout=2, retries=1)
    await bench.until_started()
    due_at = bench.lines("start")[0]["at"] + 2
    ended = await bench.until_ended(job, 18)
    return await ending(bench, ended, due_at, Status.FAILED, Status.ABORTED)


async def ending(bench: Bench, ended: Job, due_at: float, *wanted: Status) -> dict[str, Any]:
    """When the job was said to have ended and when its operation really stopped."""
    said_at = ended.completed / 1000

    async def at_rest() -> bool:
        return bool(time.time() - bench.lines("tick")[-1]["at"] > 1)

    await bench.until(at_rest, 14)
    stopped_at = bench.lines("tick")[-1]["at"]
    stopped = not bench.lines("end") and stopped_at - due_at < 5
    return {
        "status": ended.status.value,
        "said_after_s": round(said_at - due_at, 1) if ended.completed else None,
        "operation_stopped_after_s": round(stopped_at - due_at, 1),
        "operation_ran_to_its_end": bool(bench.lines("end")),
        "operation_started": len(bench.lines("start")),
        "keeps_the_contract": stopped and ended.status in wanted,
    }


async def events(bench: Bench) -> dict[str, Any]:
    """50 steps of progress: how many does a watcher see, and one that comes late?"""
    job = Job("tell", queue=bench.queue, **TUNED)
    seen: set[float] = set()

    async def look(*_: Any) -> bool:
        now = await bench.queue.job(job.key)
        seen.update({now.progress} if now else ())
        return bool(now and now.status in TERMINAL_STATUSES)

    watching = asyncio.create_task(bench.queue.listen([job.key], look, timeout=30))
    await asyncio.sleep(0.2)
    await bench.queue.enqueue(job)
    bench.start_worker()
    await watching
    wanted = {number / EVENTS for number in range(1, EVENTS + 1)}
    by_watcher = len(seen & wanted)
    seen.clear()
    await look()
    late = len(seen & wanted)
    return {
        "steps": EVENTS,
        "seen_by_a_watcher": by_watcher,
        "seen_by_one_that_comes_late": late,
        "keeps_the_contract": by_watcher == late == EVENTS,
    }


async def duplicate(bench: Bench) -> dict[str, Any]:
    """Enqueue a key again after its job completed."""
    bench.start_worker()
    job = await bench.submit("plain", 0.1, key="once")
    await bench.until_ended(job, 20)
    again = await bench.queue.enqueue(
        "plain", key="once", ledger=str(bench.ledger), duration_s=0.1, **TUNED
    )
    ran_twice = await bench.until_started(2, limit_s=5)
    return {
        "accepted_again": again is not None,
        "ran_again": ran_twice,
        "keeps_the_contract": not ran_twice,
    }


def cases() -> dict[str, Callable[[Bench], Coroutine[Any, Any, dict[str, Any]]]]:
    """Every experiment by name."""
    found: dict[str, Callable[[Bench], Coroutine[Any, Any, dict[str, Any]]]] = {
        "killed_worker": killed_worker,
        "stale_worker": stale_worker,
        "events": events,
        "duplicate_after_completion": duplicate,
    }
    for number in range(1, STARTS + 1):
        found[f"killed_at_start_{number}"] = killed_at_start
    for form in FORMS:
        found[f"cancel_{form}"] = lambda bench, form=form: cancelled(bench, form)  # type: ignore[misc]
        found[f"time_limit_{form}"] = lambda bench, form=form: timed_out(bench, form)  # type: ignore[misc]
    return found


async def experiment() -> dict[str, dict[str, Any]]:
    """All cases at once, each with a queue and workers of its own: they sleep most of the time."""
    with own_redis() as url, tempfile.TemporaryDirectory() as folder:

        async def run(name: str) -> tuple[str, dict[str, Any]]:
            bench = Bench(url, name, Path(folder))
            try:
                return name, await cases()[name](bench)
            finally:
                await bench.close()

        return dict(await asyncio.gather(*(run(name) for name in cases())))


def main() -> None:
    """Run all, print and record."""
    monitor = QuietMonitor()
    monitor.start()
    facts = asyncio.run(experiment())
    settings = {**TUNED, "sweep_s": SWEEP_S, "update_every_s": BEAT_S, "peer": "SAQ on Redis"}
    record_facts("saq-contract", facts, settings, monitor)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        asyncio.run(work(sys.argv[2], sys.argv[3]))
    else:
        main()
