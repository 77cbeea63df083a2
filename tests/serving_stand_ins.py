"""Replicas without a process: a test makes each ready, answers for it, and has it die."""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from visiondyno.executors.scaling import ScaleLimits
from visiondyno.job import JobError
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool, PoolLimits, Predicted
from visiondyno.serving.replicas import Listener, Readiness
from visiondyno.serving.wire import Answer, Item, Kind, Media

MODEL = {
    "batch_size": None,
    "device": "cpu",
    "digest": "d",
    "runtime": "fake",
    "precision": "fp32",
}
READINESS = Readiness(100.0, 20.0, 3.0, 123.0, MODEL)


class FakeReplica:
    """What `serving.replicas.Replica` is to the fleet.

    Attributes:
        given: batches that it was given and hasn't answered, by id.
        seen: payloads of all that it was ever given, batch by batch.
    """

    def __init__(self, name: str, to: Listener, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.given: dict[int, list[bytes]] = {}
        self.seen: list[list[bytes]] = []
        self.is_gone = False
        self.was_killed = False
        self.is_lost = False
        self._to: Any = to

    async def connect(self) -> None:
        """Nothing to connect to."""

    def send(self, batch_id: int, items: list[Item]) -> None:
        assert not self.is_gone
        self.given[batch_id] = [bytes(one.payload) for one in items]
        self.seen.append(self.given[batch_id])

    def kill(self) -> None:
        self.was_killed = True
        self._soon("was killed by SIGKILL")

    def end(self) -> None:
        self._soon("ended with exit code 0")

    def ready(self, model: dict[str, Any] = MODEL) -> None:
        self._to.on_ready(self, Readiness(100.0, 20.0, 3.0, 123.0, model))

    def answer(self) -> list[bytes]:
        """Answer the oldest batch, each payload by itself in capitals; what it was."""
        batch_id = next(iter(self.given))
        payloads = self.given.pop(batch_id)
        answers = [Answer(200, Media.JSON, one.upper(), rows=1) for one in payloads]
        self._to.on_answers(self, batch_id, answers)
        return payloads

    def die(self, how: str = "was killed by SIGKILL", failure: JobError | None = None) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._to.on_gone(self, how, failure)

    def _soon(self, how: str) -> None:
        asyncio.get_running_loop().call_soon(self.die, how)


class Launcher:
    """Launches such replicas.

    Attributes:
        all: ever launched, oldest first.
        refuses: whether the machine has no process to give.
    """

    def __init__(self) -> None:
        self.all: list[FakeReplica] = []
        self.refuses = False

    def __call__(self, name: str, to: Listener) -> Any:
        if self.refuses:
            raise OSError("no process")
        self.all.append(FakeReplica(name, to, 100 + len(self.all)))
        return self.all[-1]

    @property
    def alive(self) -> list[FakeReplica]:
        """Those that haven't ended."""
        return [one for one in self.all if not one.is_gone]


def new_pool(launcher: Launcher, least: int = 1, most: int = 1, **limits: Any) -> Pool:
    """A pool of such replicas, on the running loop's clock."""
    scale = ScaleLimits(least, most, limits.pop("idle_timeout_s", 60.0))
    return Pool(PoolLimits(scale, **limits), launcher, new_metrics())


def new_metrics() -> ServingMetrics:
    return ServingMetrics(CollectorRegistry(), "m")


async def started_pool(launcher: Launcher, least: int = 1, most: int = 1, **limits: Any) -> Pool:
    """Such a pool with `least` (and at least one) replicas ready."""
    pool = new_pool(launcher, least, max(least, most), **limits)
    starting = asyncio.create_task(pool.start())
    await settle()
    for one in list(launcher.all):
        one.ready()
    await starting
    return pool


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def ask(pool: Pool, *payloads: str, kind: Kind = Kind.IMAGE) -> "asyncio.Task[list[Predicted]]":
    """A request for these images."""
    return asyncio.create_task(pool.predict([Item(kind, one.encode()) for one in payloads]))


def told(predicted: list[Predicted]) -> list[str]:
    """The answers' texts."""
    return [one.answer.body.decode() for one in predicted]
