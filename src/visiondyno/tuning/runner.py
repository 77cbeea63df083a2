"""Runs a study: asks for trials, gives them to lanes, and keeps what becomes of each."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from visiondyno.errors import BudgetSpent, Diverged, SpecError, TimeLimitExceeded, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.tuning.attempt import Attempt
from visiondyno.tuning.blame import is_of_the_place, locks_out
from visiondyno.tuning.body import Body, Pruned, Result
from visiondyno.tuning.book import Book
from visiondyno.tuning.endings import end_all
from visiondyno.tuning.lanes import Lane, Lanes, NoLanes
from visiondyno.tuning.trial import Failure, State, TrialRecord

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger("visiondyno")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a study ends, and how long a trial may take.

    Attributes:
        trials: in all, those of earlier runs included.
        timeout_s: no trial is asked for later, and those that run are stopped; None: no limit.
        trial_timeout_s: of one attempt, from its start on a worker; None: no limit.
        max_attempts: at one trial, where the lane failed it.
        same_cause: so many failed trials in a row by the same cause end the study.
        grace_s: how much longer than `trial_timeout_s` an attempt may take until its job, which
            is killed at that limit where it runs, has told so.
    """

    trials: int
    timeout_s: float | None = None
    trial_timeout_s: float | None = None
    max_attempts: int = 4
    same_cause: int = 3
    grace_s: float = 30.0


class Watcher(Protocol):
    """Is told of a study while it runs, on its event loop: it must be quick, and must not raise."""

    def on_trial(self, record: TrialRecord) -> None:
        """A trial's state has changed."""

    def on_event(self, number: int, event: JobEvent) -> None:
        """A running trial's job said something."""


class StudyRunner:
    """Keeps as many trials running as the lanes take, until the study ends.

    Trials are asked for a little ahead, so that no worker waits for the sampler, except where one
    runs at a time: there each is asked for after the end of the one before, and the same seed gives
    the same study.

    A trial whose lane fails it (unreachable, worker died, too many requests) is tried again, on
    another lane where there is one; the trial's own errors end it. It is told once. One that runs
    past its limit is killed. A study that ends early leaves open trials unfinished in the journal.

    Args:
        book: the study.
        body: what a trial does.
        lanes: where.
        limits: when it ends.
        watchers: are told of it.
        now: seconds since the epoch.
        clock: seconds, for limits.
    """

    def __init__(
        self,
        book: Book,
        body: Body,
        lanes: Lanes,
        limits: Limits,
        watchers: Sequence[Watcher] = (),
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._body = body
        self._lanes = lanes
        self._limits = limits
        self._watchers = tuple(watchers)
        self._now = now
        self._clock = clock
        self._changed = asyncio.Event()
        self._open = 0
        self._attempts = 0
        self._attempt_ended = asyncio.Event()
        self._too_dear: set[int] = set()
        self._defect: BaseException | None = None
        self._last_cause: str | None = None
        self._causes_in_a_row = 0
        self.stopped: str | None = None
        """Why the study ended before its last trial, in a sentence; None if it didn't."""

    async def run(self) -> None:
        """Run the study to its end; what became of it is in the book and in `stopped`.

        Raises:
            VisionDynoError: the journal can't be written, or another defect of the study itself.
        """
        asking = ThreadPoolExecutor(1, thread_name_prefix="ask")
        try:
            async with asyncio.timeout(self._limits.timeout_s) as limit:
                await self._run(asking)
        except TimeoutError:
            if not limit.expired():
                raise
            over = f"Its time limit of {self._limits.timeout_s:g} s was over."
            self.stopped = self.stopped or over
        finally:
            asking.shutdown(wait=True)
            await self._lanes.close()

    async def _run(self, asking: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        try:
            while await self._may_ask():
                record = await loop.run_in_executor(asking, self._book.ask)
                self._open += 1
                self._tell(record)
                task = asyncio.create_task(self._trial(record))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(self._one_has_ended)
            while tasks and self.stopped is None:
                await self._change()
        finally:
            left = tuple(tasks)
            await end_all(left)
        defects = [self._defect, *(task.exception() for task in left if not task.cancelled())]
        for defect in defects:
            if defect is not None:
                raise defect

    # ---- when to ask

    async def _may_ask(self) -> bool:
        """Wait until another trial is wanted; False once none will be."""
        while True:
            if self.stopped is not None or len(self._book.records) >= self._limits.trials:
                return False
            if self._book.is_exhausted:  # as by a grid's sampler
                return False
            if self._open < self._wanted():
                return True
            await self._change()

    def _wanted(self) -> int:
        width = self._lanes.width
        return width if width <= 1 else width + math.ceil(width / 8)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _one_has_ended(self, task: "asyncio.Task[None]") -> None:
        self._open -= 1
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._defect = self._defect or error  # `_run` raises it
            self.stopped = self.stopped or "It can't go on."
        self._changed.set()

    # ---- one trial

    async def _trial(self, record: TrialRecord) -> None:
        failures: list[Failure] = []
        while True:
            try:
                avoid = frozenset(failure.where for failure in failures)
                lane = await self._lanes.take(0 if failures else 1, avoid)
            except NoLanes as error:
                self.stopped = self.stopped or error.message
                self._changed.set()
                return
            self._attempts += 1
            try:
                again = await self._attempt(record, lane, failures)
            finally:
                self._attempts -= 1
                if record.number not in self._too_dear:  # what was refused sets no money free
                    self._attempt_ended.set()
                self._lanes.give_back(lane)
            if not again:
                return
            if record.number in self._too_dear:
                self._too_dear.discard(record.number)
                self._attempt_ended.clear()
                await self._attempt_ended.wait()
            record = self._book.records[record.number]

    async def _attempt(self, record: TrialRecord, lane: Lane, failures: list[Failure]) -> bool:
        """One attempt; whether another one is to follow."""
        record = record.with_(attempts=record.attempts + 1, lane=lane.name)
        told = Attempt(self, record)
        try:
            result = await self._limited(record, lane, told)
        except asyncio.CancelledError:
            self._put_back(told.record)  # the study ends before it does
            raise
        except Pruned as pruned:
            lane.succeeded()
            self._worker_did_well(record.number, lane)
            self._end(told.record, State.PRUNED, measured={"pruned": str(pruned)})
        except VisionDynoError as error:
            failure = Failure(error.code, error.message, lane.name)
            if not isinstance(error, Diverged | SpecError):  # which no worker can help
                await self._worker_failed(record.number, lane)
            return self._failed(told.record, lane, failure, error, failures)
        else:
            lane.succeeded()
            self._worker_did_well(record.number, lane)
            self._end(told.record, State.COMPLETED, result)
        return False

    async def _limited(self, record: TrialRecord, lane: Lane, told: Attempt) -> Result:
        """The attempt, whose limit counts from its start on a worker."""
        limit_s = self._limits.trial_timeout_s
        work = asyncio.create_task(self._on_lane(record, lane, told))
        begun = asyncio.create_task(told.begun.wait())
        try:
            if limit_s is not None:
                await asyncio.wait({work, begun}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait({work}, timeout=limit_s + self._limits.grace_s)
                if not work.done():
                    raise TimeLimitExceeded(
                        f"The trial ran for more than its limit of {limit_s:g} s, and its job "
                        "didn't stop by itself; it was cancelled."
                    )
            return await work
        finally:
            await end_all((work, begun))

    async def _on_lane(self, record: TrialRecord, lane: Lane, told: Attempt) -> Result:
        async with lane.session.opened() as client:
            return await self._body.run(record, client, told)

    def _failed(
        self,
        record: TrialRecord,
        lane: Lane,
        failure: Failure,
        error: VisionDynoError,
        failures: list[Failure],
    ) -> bool:
        if isinstance(error, BudgetSpent) and record.state is not State.RUNNING:
            return self._refused(record.with_(attempts=record.attempts - 1), error)
        failures.append(failure)
        if isinstance(error, BudgetSpent):
            return self._refused(record.with_(failures=tuple(failures)), error)
        locked, of_the_place = locks_out(error), is_of_the_place(error)
        if locked or of_the_place:
            lane.failed(error)
        else:
            lane.succeeded()
        if locked:
            self._lanes.close_lane(lane, error.message)
        may_try = record.attempts < self._limits.max_attempts
        if locked or (of_the_place and may_try):  # there are only so many locked ones
            self._put_back(record.with_(failures=tuple(failures)))
            return True
        self._end(record, State.FAILED, failures=tuple(failures))
        return False

    def _refused(self, record: TrialRecord, error: BudgetSpent) -> bool:
        """The limit of cost leaves too little; whether it may leave more when others have ended.

        What running trials could cost at most is set aside, and most of it comes back.
        """
        self._put_back(record)
        if self._attempts > 1:
            self._too_dear.add(record.number)
            return True
        self.stopped = self.stopped or error.message
        self._changed.set()
        return False

    # ---- workers

    def _worker_did_well(self, number: int, lane: Lane) -> None:
        worker = self._body.result_so_far(number).worker_id
        if worker is not None:
            lane.workers.succeeded(worker)

    async def _worker_failed(self, number: int, lane: Lane) -> None:
        worker = self._body.result_so_far(number).worker_id
        if worker is None or not lane.workers.failed(worker):
            return
        try:
            await lane.session.quarantine(worker)
        except VisionDynoError as error:
            _log.warning("Worker %s fails trial after trial: %s", worker, error.message)
        else:
            _log.warning("Worker %s failed trial after trial and gets no more jobs.", worker)

    # ---- what is told

    def _put_back(self, record: TrialRecord) -> None:
        self._tell(self._book.note(record.with_(state=State.QUEUED)))

    def _end(
        self,
        record: TrialRecord,
        state: State,
        result: Result | None = None,
        *,
        measured: dict[str, object] | None = None,
        failures: tuple[Failure, ...] | None = None,
    ) -> None:
        known = result or self._body.result_so_far(record.number)
        record = record.with_(
            state=state,
            values=known.values if state is State.COMPLETED else (),
            measured={**known.measured, **(measured or {})},
            job_id=known.job_id,
            worker_id=known.worker_id,
            delay_ms=known.delay_ms,
            execution_ms=known.execution_ms,
            cost=known.cost,
            failures=record.failures if failures is None else failures,
        )
        record = self._book.tell(record)
        self._count_cause(record)
        self._tell(record)

    def _count_cause(self, record: TrialRecord) -> None:
        if record.state is not State.FAILED:
            self._last_cause, self._causes_in_a_row = None, 0
            return
        failure = record.failures[-1]
        if failure.code == Diverged.code:
            return  # what a search of learning rates finds out, and no defect
        same = failure.cause == self._last_cause
        self._causes_in_a_row = self._causes_in_a_row + 1 if same else 1
        self._last_cause = failure.cause
        if self._causes_in_a_row >= self._limits.same_cause and self.stopped is None:
            self.stopped = (
                f"{self._causes_in_a_row} trials in a row failed by the same cause: "
                f"{failure.message}"
            )
            self._changed.set()

    def _tell(self, record: TrialRecord) -> None:
        for watcher in self._watchers:
            watcher.on_trial(record)

    def started(self, record: TrialRecord) -> TrialRecord:
        """A worker has the trial."""
        record = record.with_(state=State.RUNNING, started_at=self._now())
        record = self._book.note(record)
        self._tell(record)
        return record

    def suggest(self, number: int, name: str, draw: "Callable[[optuna.Trial], Any]") -> Any:
        """A parameter that a running trial asks for."""
        return self._book.suggest(number, name, draw)

    def told_params(self, number: int) -> None:
        """A running trial has parameters that it hadn't."""
        record = self._book.records[number]
        if record.state is State.RUNNING:
            self._tell(record)

    def note_job(self, record: TrialRecord, job_id: str) -> TrialRecord:
        """A trial has this job: should this process be killed, the next one can stop it."""
        return self._book.note(record.with_(job_id=job_id))

    def told_event(self, number: int, event: JobEvent) -> None:
        """The trial's job said something."""
        for watcher in self._watchers:
            watcher.on_event(number, event)

    def report(self, number: int, step: int, values: Sequence[float]) -> str | None:
        """The trial reports; why it should stop, or None."""
        return self._book.report(number, step, values)
