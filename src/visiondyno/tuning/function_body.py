"""A trial that is a call of an objective function of one's own, in a thread of its own."""

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visiondyno.client.async_client import AsyncClient
from visiondyno.client.borrowed_loop import BorrowedLoop
from visiondyno.errors import NotFound, OperationFailed, SpecError, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.tuning.body import Body, Pruned, Result, Told
from visiondyno.tuning.function_trial import FunctionTrial, TrialClient, as_numbers
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.trial import Json, TrialRecord

ObjectiveFunction = Callable[[Any], float | Sequence[float]]
"""Is given a `FunctionTrial`; returns a number, or one for each objective."""

_LEAVE_S = 5.0
_LONGEST_TRACEBACK = 4000
_log = logging.getLogger("visiondyno")


class ObjectiveFailed(OperationFailed):
    """An objective function raised an error of its own."""

    code = "objective_failed"


@dataclass(slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class FunctionBody(Body):
    """Calls an objective function, each trial in a thread of its own.

    The function's jobs run where the trial's lane is. What it raises ends its trial alone:
    `optuna.TrialPruned` prunes it, an error of a job is the trial's (and where the place failed it,
    another attempt follows), anything else fails it with type, message and line.

    A trial that is stopped has its jobs cancelled, and whatever the function asks of it raises
    `Cancelled`. Python can't stop a function that only computes: it is left after `leave_s`, and
    that is said.

    Args:
        function: the objective.
        objectives: of the study.
        folder: of a trial, by its number.
        time_limit_s: of each of its jobs where the function gives none; None: the place's own.
        leave_s: how long a function may take to end when its trial is stopped.
    """

    def __init__(
        self,
        function: ObjectiveFunction,
        objectives: Sequence[Objective],
        folder: Callable[[int], Path],
        *,
        time_limit_s: float | None = None,
        leave_s: float = _LEAVE_S,
    ) -> None:
        self._function = function
        self._objectives = tuple(objectives)
        self._folder = folder
        self._policy: Json | None = None
        if time_limit_s is not None:
            self._policy = {"executionTimeout": max(1, round(time_limit_s * 1000))}
        self._leave_s = leave_s
        self._so_far: dict[int, Result] = {}

    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        call = _Call(record, client, told)
        self._so_far[record.number] = call.result
        call.client.note_with(call.note, self._policy)
        trial = FunctionTrial(record, told, call.client, len(self._objectives), self._folder)
        call.trial = trial
        told.started(None)
        try:
            await call.outcome_of(self._function)
        finally:
            await call.end(self._leave_s)
        if trial.user_attrs:
            call.result.measured["user_attrs"] = trial.user_attrs
        call.result.values = self._values(call, trial)
        return call.result

    def result_so_far(self, number: int) -> Result:
        return self._so_far.get(number, Result())

    def _values(self, call: "_Call", trial: FunctionTrial) -> tuple[float, ...]:
        import optuna

        error = call.outcome.error
        if error is None:
            return as_numbers(call.outcome.value, f"What trial {trial.number} returned")
        if isinstance(error, optuna.TrialPruned):
            raise Pruned(str(error) or trial.why_pruned or "The objective pruned it.") from error
        if isinstance(error, VisionDynoError):
            raise error
        text = "".join(traceback.format_exception(error))
        call.result.measured["traceback"] = text[-_LONGEST_TRACEBACK:]
        raise ObjectiveFailed(_described(error), stage="objective", traceback=text) from error


class _Call:
    """One call of the function: its thread, its jobs, and what it came to."""

    def __init__(self, record: TrialRecord, client: AsyncClient, told: Told) -> None:
        self.result = Result()
        self.outcome = _Outcome()
        self.trial: FunctionTrial
        self._number = record.number
        self._told = told
        self._asked = client
        self._loop = asyncio.get_running_loop()
        self._borrowed = BorrowedLoop()
        self.client = TrialClient.borrowing(client, self._borrowed)
        self._done = asyncio.Event()
        self._job_ids: list[str] = []
        self._ended_ids: set[str] = set()

    async def outcome_of(self, function: ObjectiveFunction) -> None:
        """Call it and wait for its end."""

        def call() -> None:
            try:
                self.outcome.value = function(self.trial)
            except BaseException as error:
                self.outcome.error = error
            with suppress(RuntimeError):  # the study is long over, and its loop closed
                self._loop.call_soon_threadsafe(self._done.set)

        # A daemon: the interpreter's end doesn't wait for one that was left.
        threading.Thread(target=call, name=f"trial-{self._number}", daemon=True).start()
        await self._done.wait()

    def note(self, event: JobEvent) -> None:
        """A job of the function's said something; in its thread."""
        if not self.trial.is_over:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take, event)

    async def end(self, leave_s: float) -> None:
        """Nothing of it goes on: its jobs are cancelled, its thread is waited for so long."""
        self.trial.close()
        await self._borrowed.stopped()
        for job_id in self.client.submitted:
            if job_id not in self._ended_ids:
                with suppress(VisionDynoError):  # it has ended, or its place is gone with it
                    await self._asked.cancel(job_id)
        self.result.cost = self._cost()
        with suppress(TimeoutError):
            async with asyncio.timeout(leave_s):
                await self._done.wait()
        if not self._done.is_set():
            left = (
                f"The function of trial {self._number} computes on though the trial is over; "
                "nothing waits for it. Let it call trial.report or trial.should_prune now and then."
            )
            self.result.measured["left"] = left
            _log.warning("%s", left)

    def _take(self, event: JobEvent) -> None:
        if event.job_id not in self._job_ids:
            self._job_ids.append(event.job_id)
        result = self.result
        result.job_id = event.job_id
        self._told.event(event)
        if event.answer is not None:
            self._ended_ids.add(event.job_id)
            result.worker_id = event.answer.worker_id
            result.delay_ms = event.answer.delay_time_ms
            result.execution_ms = event.answer.execution_time_ms

    def _cost(self) -> Json | None:
        """Of all its jobs; None where nothing is paid, or it isn't known."""
        total: Json | None = None
        for job_id in dict.fromkeys((*self._job_ids, *self.client.submitted)):
            try:
                cost = self._asked.cost_of(job_id)
            except (SpecError, NotFound):
                return None
            if cost is None:
                return None
            one = cost.to_json()
            sums = {name: one[name] + (total or {}).get(name, 0) for name in _SUMMED}
            total = {**one, **sums}
        return total


_SUMMED = ("worker_s_at_least", "worker_s_at_most", "usd_at_least", "usd_at_most")


def _described(error: BaseException) -> str:
    """An error of the function's: type, message, and the last line of its own file."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call here
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if not frames:
        return f"The objective raised {said.rstrip('.')}."
    own = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    where = f"{Path(own.filename).name}, line {own.lineno}, in {own.name}"
    return f"The objective raised {said.rstrip('.')} ({where})."
