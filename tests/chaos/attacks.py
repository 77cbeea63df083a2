"""What is done to the processes while jobs run, each at its time."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.processes import Server, worker_pids
from services import RedisInstance

Attack = Callable[[], Awaitable[None]]


@dataclass
class Kills:
    """Workers that were SIGKILLed: `(process, when)`."""

    folder: Path
    seed: int = 0
    done: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def one(self) -> None:
        """Kill one of the workers."""
        pids = await asyncio.to_thread(worker_pids, self.folder)
        if not pids:
            return
        pid = self._random.choice(pids)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.done.append((pid, time.time()))


async def every(period_s: float, attack: Attack) -> None:
    """The attack again and again, until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        await attack()


async def at(moments_s: dict[float, Attack]) -> None:
    """Attacks at their moments, seconds from now."""
    began_s = time.monotonic()
    for moment_s, attack in sorted(moments_s.items()):
        await asyncio.sleep(max(0.0, began_s + moment_s - time.monotonic()))
        await attack()


def kill_server(server: Server, away_s: float) -> Attack:
    """SIGKILL the API's process and start it again."""

    async def attack() -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(server.start)

    return attack


def redis_attacks(redis: RedisInstance) -> list[Attack]:
    """Restart in good order, SIGKILL and start, flush."""

    async def restart() -> None:
        await asyncio.to_thread(redis.restart)

    async def kill() -> None:
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(redis.start)

    async def flush() -> None:
        await asyncio.to_thread(redis.flush)

    return [restart, kill, flush]


def reruns_s(ledger: Path, kills: list[tuple[int, float]]) -> list[float]:
    """For each killed worker that ran a job: seconds until that job started again."""
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    found = []
    for pid, killed_at in kills:
        before = [line for line in lines if line["pid"] == pid and line["at"] <= killed_at]
        if not before or before[-1]["what"] == "end":
            continue  # it was idle, or its answer was on the way
        number = before[-1]["number"]
        starts = [
            line["at"]
            for line in lines
            if line["number"] == number and line["what"] == "start" and line["at"] > killed_at
        ]
        found.append(min(starts) - killed_at if starts else float("inf"))
    return found
