"""One chaos run: jobs under attack, then the books are checked."""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chaos.attacks import Kills, at, every, kill_server, redis_attacks, reruns_s
from chaos.client import Client
from chaos.operations import checksum
from chaos.processes import Program, Server, descendants
from services import RedisInstance, redis_server
from visiondyno.executors.open_queue import open_queue
from visiondyno.job import JobState

END_S = 15.0
RERUN_LIMIT_S = 20.0


@dataclass(frozen=True)
class Plan:
    """How much, and how hard. Seconds count from the first submission."""

    jobs: int
    job_s: float
    kill_every_s: float
    slots: int = 4
    kill_server_at_s: float | None = None
    redis_attacks_at_s: tuple[float, float, float] | None = None
    limit_s: float = 600.0


@dataclass(frozen=True)
class Figures:
    """What came of it. `slowest_rerun_s`: from a worker's SIGKILL to its job's next start."""

    executor: str
    jobs: int
    completed: int
    lost: int
    recorded_twice: int
    wrong_checksums: int
    executions: int
    workers_killed: int
    jobs_interrupted: int
    slowest_rerun_s: float | None
    orphans: int
    leases_left: int
    duration_s: float

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        faults = (
            self.lost,
            self.recorded_twice,
            self.wrong_checksums,
            self.orphans,
            self.leases_left,
        )
        in_time = self.slowest_rerun_s is None or self.slowest_rerun_s < RERUN_LIMIT_S
        return not any(faults) and self.completed == self.jobs and in_time

    def line(self) -> str:
        """All figures in one line."""
        return json.dumps(asdict(self))


async def run_plan(plan: Plan, folder: Path, *, on_redis: bool) -> Figures:
    """Carry out the plan on `local` or `redis`, with everything it needs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder / "redis")) if on_redis else None
        server = Server("server", _options(plan, redis), folder)
        programs: list[Program] = [server]
        if redis is not None:
            options = {"redis": redis.url, "slots": plan.slots}
            programs.insert(0, Program("worker", options, folder))
        for program in programs:
            stack.callback(program.stop)
            program.start()
        began_s = time.monotonic()
        kills = Kills(folder)
        answers = await _jobs_under_attack(plan, folder, server, redis, kills)
        duration_s = time.monotonic() - began_s
        address = redis.url if redis is not None else str(folder / "queue.sqlite")
        leases = await _leases_left(address)
        for program in reversed(programs):
            await asyncio.to_thread(program.stop)
        orphans = await _orphans(folder)
    return _figures(plan, folder, answers, kills, (leases, orphans, duration_s), on_redis=on_redis)


def _options(plan: Plan, redis: RedisInstance | None) -> dict[str, Any]:
    options: dict[str, Any] = {"max_attempts": 50, "rate_limit_per_minute": 0, "lease_s": 5.0}
    if redis is not None:
        return {**options, "redis_url": redis.url}
    return {**options, "workers_min": plan.slots, "workers_max": plan.slots}


async def _jobs_under_attack(
    plan: Plan, folder: Path, server: Server, redis: RedisInstance | None, kills: Kills
) -> list[dict[str, Any]]:
    client = Client(server.url, plan.limit_s)
    moments = {}
    if plan.kill_server_at_s is not None:
        moments[plan.kill_server_at_s] = kill_server(server, away_s=1.0)
    if redis is not None and plan.redis_attacks_at_s is not None:
        moments.update(zip(plan.redis_attacks_at_s, redis_attacks(redis), strict=True))
    async with _background(every(plan.kill_every_s, kills.one)), _background(at(moments)) as others:
        ledger = str(folder / "ledger.jsonl")
        submits = (client.submit(number, plan.job_s, ledger) for number in range(plan.jobs))
        job_ids = await asyncio.gather(*submits)
        await client.wait_for(plan.jobs)
        await others  # an attack that came too late would be none
    answers = await client.answers(job_ids)
    await client.close()
    return answers


@contextlib.asynccontextmanager
async def _background(work: Any) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _leases_left(address: str) -> int:
    """Jobs still claimed once all have ended; a moment is given to what was just taken back."""
    queue = await asyncio.to_thread(open_queue, address)
    try:
        for _ in range(int(END_S / 0.5)):
            left = queue.counts().jobs[JobState.IN_PROGRESS]
            if not left:
                return 0
            await asyncio.sleep(0.5)
        return left
    finally:
        queue.close()


async def _orphans(folder: Path) -> int:
    for _ in range(int(END_S / 0.5)):
        left = await asyncio.to_thread(descendants, folder)
        if not left:
            return 0
        await asyncio.sleep(0.5)
    return len(left)


def _figures(
    plan: Plan,
    folder: Path,
    answers: Sequence[dict[str, Any]],
    kills: Kills,
    ended: tuple[int, int, float],
    *,
    on_redis: bool,
) -> Figures:
    ledger = folder / "ledger.jsonl"
    starts = Counter(
        line["number"]
        for line in map(json.loads, ledger.read_text().splitlines())
        if line["what"] == "start"
    )
    reruns = reruns_s(ledger, kills.done)
    right = [
        answer.get("output", {}).get("checksum") == checksum(number)
        for number, answer in enumerate(answers)
    ]
    completed = [answer["status"] == "COMPLETED" for answer in answers]
    leases, orphans, duration_s = ended
    return Figures(
        executor="redis" if on_redis else "local",
        jobs=plan.jobs,
        completed=sum(completed),
        lost=sum(not starts[number] for number in range(plan.jobs)) + completed.count(False),
        recorded_twice=_recorded_twice(folder),
        wrong_checksums=sum(done and not ok for done, ok in zip(completed, right, strict=True)),
        executions=starts.total(),
        workers_killed=len(kills.done),
        jobs_interrupted=len(reruns),
        slowest_rerun_s=round(max(reruns), 2) if reruns else None,
        orphans=orphans,
        leases_left=leases,
        duration_s=round(duration_s, 1),
    )


def _recorded_twice(folder: Path) -> int:
    """Jobs with more than one answer, or with numbers that have gaps, in the store itself."""
    with contextlib.closing(sqlite3.connect(folder / "store.sqlite")) as store:
        rows = store.execute("SELECT job_id, number, state FROM job_events ORDER BY job_id, number")
        events: dict[str, list[tuple[int, str]]] = {}
        for job_id, number, state in rows:
            events.setdefault(job_id, []).append((number, state))
    wrong = 0
    for of_job in events.values():
        terminal = sum(JobState(state).is_terminal for _, state in of_job)
        numbers = [number for number, _ in of_job]
        wrong += terminal != 1 or numbers != list(range(1, len(numbers) + 1))
    return wrong
