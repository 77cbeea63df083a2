"""The fleet: which replicas there are, started, ended and replaced as they are needed.

How many is decided by the arithmetic of `executors.scaling`, the same as for the workers of
`dyno up --workers 0-3 --idle-timeout 5`. A replica that dies is replaced, at once where somebody
killed it, more and more slowly where replicas die soon after they were started.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from visiondyno.errors import ModelError, VisionDynoError
from visiondyno.executors.scaling import ScaleLimits, processes_to_start, processes_to_stop
from visiondyno.job import JobError
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.replicas import Launch, Readiness, Replica
from visiondyno.serving.wire import Answer

_log = logging.getLogger(__name__)

_QUICK_DEATH_S = 5.0
_STARTS_BEFORE_REFUSING = 3
_RESTART_PAUSES_S = (0.0, 0.5, 2.0, 5.0, 10.0)
_START_LIMIT_S = 300.0
_TICK_S = 0.1
_REPLACED = (
    "The model's file isn't the one that this server started with; put that back, or start the "
    "server again to serve the new one."
)


@dataclass(slots=True, eq=False)
class Member:
    """A replica in the fleet.

    Attributes:
        replica: the process.
        spawned_s: when.
        readiness: what it told when it was ready; None: it starts.
        stopping: it is ending, and given nothing more.
        batches: what it has, by batch id, in the order it was given; what a batch is, is the
            pool's matter.
        busy_since_s: since when it runs its first batch.
        idle_since_s: since when it has nothing.
    """

    replica: Replica
    spawned_s: float
    readiness: Readiness | None = None
    stopping: bool = False
    batches: dict[int, list[Any]] = field(default_factory=dict)
    busy_since_s: float = 0.0
    idle_since_s: float = 0.0

    @property
    def takes_batches(self) -> bool:
        """Whether it may be given one."""
        return self.readiness is not None and not self.stopping and not self.replica.is_lost


class Needs(Protocol):
    """What the fleet works for."""

    def demand(self) -> int:
        """How many replicas could have something to do now, beside those that have."""

    def on_member_ready(self, member: Member) -> None:
        """One more takes batches."""

    def on_member_answers(self, member: Member, batch_id: int, answers: list[Answer]) -> None:
        """A batch is done."""

    def on_member_gone(self, member: Member, how: str) -> None:
        """A member ended; what it had in `batches` has no answer."""

    def on_no_member(self, error: VisionDynoError) -> None:
        """A start failed, and nobody is left who is ready or may become so."""


class Fleet:
    """See the module's text. All methods on the event loop."""

    def __init__(
        self,
        scale: ScaleLimits,
        launch: Launch,
        metrics: ServingMetrics,
        hang_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`hang_s`: a member that has run one batch for so long is killed."""
        self._scale_limits = scale
        self._launch = launch
        self._metrics = metrics
        self._hang_s = hang_s
        self._clock = clock
        self._needs: Needs | None = None
        self._members: dict[Replica, Member] = {}
        self._quick_deaths = 0
        self._failed_starts = 0
        self._start_at_s = 0.0
        self._closing = False
        self._first_ready: asyncio.Future[Readiness] = asyncio.get_running_loop().create_future()
        self._ticking: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self.failure: VisionDynoError | None = None
        """Why the last start failed; None since one was ready."""

    async def start(self, needs: Needs) -> Readiness:
        """Start the least number of replicas, and at least one, and wait until one is ready.

        One even where the least is none: a model that can't be loaded must be told now.

        Raises:
            VisionDynoError: as the replica said.
        """
        self._needs = needs
        for _ in range(max(1, self._scale_limits.least)):
            self._spawn()
        self._ticking = asyncio.create_task(self._tick())
        return await asyncio.shield(self._first_ready)

    async def close(self) -> None:
        """End every replica."""
        self._closing = True
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for member in list(self._members.values()):
            self._end(member)
        while self._members:
            self._empty.clear()
            await self._empty.wait()

    @property
    def members(self) -> list[Member]:
        """All of them, oldest first."""
        return list(self._members.values())

    @property
    def able(self) -> list[Member]:
        """Those that take batches."""
        return [one for one in self._members.values() if one.takes_batches]

    @property
    def is_able(self) -> bool:
        """Whether there is one."""
        return any(one.takes_batches for one in self._members.values())

    @property
    def is_full(self) -> bool:
        """Whether there are as many as may be, those that end included."""
        return len(self._members) >= self._scale_limits.most

    @property
    def scales_to_zero(self) -> bool:
        """Whether having no replica is as it should be: not before the model was once loaded."""
        return self._scale_limits.least == 0 and self._first_ready.done()

    @property
    def next_start_in_s(self) -> float:
        """When a replica may be started again."""
        return max(0.0, self._start_at_s - self._clock())

    def states(self) -> dict[str, int]:
        """Replicas that are `starting`, `ready` and `stopping`."""
        found = {"starting": 0, "ready": 0, "stopping": 0}
        for one in self._members.values():
            state = "starting" if one.readiness is None else "ready"
            found["stopping" if one.stopping else state] += 1
        return found

    def scale(self) -> None:
        """Start what is needed and may be, end what has idled."""
        if self._closing or self._needs is None:
            return
        now = self._clock()
        limits = self._scale_limits
        staying = [one for one in self._members.values() if not one.stopping]
        demand = self._needs.demand()
        if now >= self._start_at_s:
            free = sum(one.readiness is None or not one.batches for one in staying)
            # Until one is ready, at first or after a failure, one is wanted, whatever the least:
            # requests are refused meanwhile, so that none would ask for it.
            is_known_good = self._first_ready.done() and self.failure is None
            wanted = demand if is_known_good else max(1, demand)
            missing = processes_to_start(
                limits, alive=len(staying), idle_or_starting=free, claimable=wanted
            )
            for _ in range(missing):
                self._spawn()
        if demand:
            return
        idle = [one for one in staying if one.takes_batches and not one.batches]
        idle_s = [now - one.idle_since_s for one in idle]
        for place in processes_to_stop(limits, alive=len(staying), idle_s=idle_s):
            self._end(idle[place])

    def on_ready(self, replica: Replica, readiness: Readiness) -> None:
        """See `replicas.Listener`."""
        member = self._members[replica]
        if self._is_of_another_model(readiness):
            _log.warning("replica %s isn't used: %s", replica.name, _REPLACED)
            self._pause(self._clock(), quick=True)
            self._end(member)
            self._failed_to_start(JobError(code=ModelError.code, message=_REPLACED))
            return
        member.readiness = readiness
        member.idle_since_s = self._clock()
        self.failure = None
        self._failed_starts = 0
        self._metrics.started(readiness)
        if not self._first_ready.done():
            self._first_ready.set_result(readiness)
        assert self._needs is not None
        self._needs.on_member_ready(member)

    def on_answers(self, replica: Replica, batch_id: int, answers: list[Answer]) -> None:
        """See `replicas.Listener`."""
        assert self._needs is not None
        self._quick_deaths = 0
        self._needs.on_member_answers(self._members[replica], batch_id, answers)

    def on_gone(self, replica: Replica, how: str, failure: JobError | None) -> None:
        """See `replicas.Listener`."""
        member = self._members.pop(replica)
        assert self._needs is not None
        if not member.stopping:
            self._log_death(replica, how, failure)
            self._metrics.died()
            now = self._clock()
            quick = failure is not None or now - member.spawned_s < _QUICK_DEATH_S
            self._pause(now, quick=quick)
            if member.readiness is None and self._is_a_failure(failure):
                self._failed_to_start(failure or JobError(code="child_died", message=_died(how)))
        self._needs.on_member_gone(member, how)
        self._empty.set()
        self.scale()

    def _is_of_another_model(self, readiness: Readiness) -> bool:
        """Classes, shapes and digest of the first are what the server tells of all its answers."""
        if not self._first_ready.done():
            return False
        return bool(readiness.model["digest"] != self._first_ready.result().model["digest"])

    def _log_death(self, replica: Replica, how: str, failure: JobError | None) -> None:
        if failure is None:
            _log.warning("replica %s (process %d) %s", replica.name, replica.pid, how)
        elif self._first_ready.done():  # else whoever waits for the start says it
            _log.warning("replica %s couldn't start: %s", replica.name, failure.message)

    def _is_a_failure(self, failure: JobError | None) -> bool:
        """Whether a death while it started says that the model can't be loaded (any more).

        It does where the replica said why, and where none ever was ready. Otherwise somebody may
        have killed it: only several in a row are taken for a reason to refuse requests.
        """
        self._failed_starts += 1
        said_or_first = failure is not None or not self._first_ready.done()
        return said_or_first or self._failed_starts >= _STARTS_BEFORE_REFUSING

    def _failed_to_start(self, failure: JobError) -> None:
        self.failure = failure.to_exception()
        assert self._needs is not None
        if not self._first_ready.done():
            self._closing = True
            self._first_ready.set_exception(self.failure)
            self._needs.on_no_member(self.failure)
        elif all(one.stopping for one in self._members.values()):
            self._needs.on_no_member(self.failure)

    def _pause(self, now: float, *, quick: bool) -> None:
        self._quick_deaths = self._quick_deaths + 1 if quick else 0
        self._start_at_s = now + _RESTART_PAUSES_S[min(self._quick_deaths, 4)]

    def _spawn(self) -> None:
        taken = {one.name for one in self._members}
        # The lowest free number: names are labels of metrics, and must not grow without end.
        name = next(str(n) for n in itertools.count(1) if str(n) not in taken)
        try:
            replica = self._launch(name, self)
        except OSError as error:
            _log.warning("no process for replica %s: %s", name, error)
            self._pause(self._clock(), quick=True)
            return
        self._members[replica] = Member(replica, self._clock())
        task = asyncio.get_running_loop().create_task(replica.connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _end(self, member: Member) -> None:
        member.stopping = True
        member.replica.end()

    async def _tick(self) -> None:
        """Now and then: scale, and kill what hangs."""
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._clock()
            for one in self.members:
                starts_too_long = one.readiness is None and now - one.spawned_s > _START_LIMIT_S
                hangs = bool(one.batches) and now - one.busy_since_s > self._hang_s
                if starts_too_long or hangs:
                    _log.warning("replica %s hangs, and is killed", one.replica.name)
                    one.replica.kill()
            self.scale()


def _died(how: str) -> str:
    return f"The model's process {how} while it started; the server's log has what it printed."
