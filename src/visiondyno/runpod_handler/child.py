"""One place for a child process that runs operations, served by the event loop."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from visiondyno.errors import Cancelled, ChildDied, Unavailable
from visiondyno.executors.queue import Claim, Outcome
from visiondyno.executors.slot import Slot
from visiondyno.executors.worker_messages import outcome_of, progress_of_log, timed_out
from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.job import JobError, JobState

_log = logging.getLogger(__name__)

_FAILED_STARTS = 3
"""So many processes in a row that never became ready: this machine can't run jobs."""

Say = Callable[[str], None]
"""Takes progress as JSON text of an object."""


@dataclass(slots=True)
class _Run:
    """The job that runs, and whom to tell of it."""

    say: Say
    outcome: asyncio.Future[Outcome]


class Child:
    """Keeps a process in its place, and runs one job at a time in it.

    The process is the one that supervised workers use, so a job that doesn't stop by itself is
    killed with its process, models stay warm between jobs, and what an operation prints is told as
    progress. A process that died is replaced. For use from one event loop.
    """

    def __init__(self, name: str, launch: Callable[[], WorkerPipe]) -> None:
        """`launch` starts a process; it raises `OSError` where the machine has none to give."""
        self._slot = Slot(name, launch, time.monotonic())
        self._run: _Run | None = None
        self._was_ready = False
        self._failed_starts = 0
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a job would start at once."""
        return self._slot.is_free

    @property
    def pid(self) -> int | None:
        """The process' id, None while there is none."""
        return None if self._slot.pipe is None else self._slot.pipe.pid

    def start(self) -> None:
        """Have a process from now on."""
        self._keeper = asyncio.create_task(self._keep())

    async def run(self, token: str, input_json: str, limit_ms: int | None, say: Say) -> Outcome:
        """Run one job to its end. Cancelling this stops the job, within a second or by a kill.

        Args:
            token: differs from every other job's.
            input_json: the operation's input as JSON text in one line.
            limit_ms: how long it may run; None without limit.
            say: told of progress in order, never after this returned.

        Raises:
            Unavailable: no process can be started that would run it.
        """
        await self._until_ready()
        slot = self._slot
        self._run = run = _Run(say, asyncio.get_running_loop().create_future())
        slot.give(Claim(token, token, slot.name, 1, input_json, limit_ms, 0), time.monotonic())
        self._plan_kill()
        self._watch_input()
        try:
            return await asyncio.shield(run.outcome)
        except asyncio.CancelledError:
            await self._cancel(run)
            raise

    async def stop(self) -> None:
        """End the process for good; what it runs is lost."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    # ---- the process

    async def _keep(self) -> None:
        slot = self._slot
        try:
            while True:
                await asyncio.sleep(max(0.0, slot.start_at_s - time.monotonic()))
                pipe = slot.start(time.monotonic())
                if pipe is None:
                    self._start_failed()
                    continue
                self._was_ready = False
                self._plan_kill()
                await self._serve(pipe)
                pipe.kill()
                # A process that used a GPU may take seconds to be gone.
                await asyncio.to_thread(os.waitid, os.P_PID, pipe.pid, os.WEXITED | os.WNOWAIT)
                self._died()
        finally:
            self._end()

    async def _serve(self, pipe: WorkerPipe) -> None:
        loop = asyncio.get_running_loop()
        self._ended.clear()
        loop.add_reader(pipe.messages_fd, self._read_messages, pipe)
        loop.add_reader(pipe.log_fd, self._read_log, pipe)
        try:
            await self._ended.wait()
            self._read_log(pipe)
        finally:
            for fd in (pipe.messages_fd, pipe.log_fd):
                loop.remove_reader(fd)
            loop.remove_writer(pipe.stdin_fd)

    def _died(self) -> None:
        slot = self._slot
        now_s = time.monotonic()
        how = slot.died(now_s)
        _log.warning("the process of %s %s", slot.name, how)
        if slot.claim is not None:
            slot.claim = None
            error = ChildDied(
                f"The worker's process {how}. Submit the job again, and ask for less at once if "
                "memory ran out."
            )
            self._resolve(_outcome(JobState.FAILED, error, slot.ran_ms(now_s)))
        if not self._was_ready:
            self._start_failed()
        self._changed.set()

    def _start_failed(self) -> None:
        self._failed_starts += 1
        self._changed.set()

    def _end(self) -> None:
        slot = self._slot
        if self._timer is not None:
            self._timer.cancel()
        if slot.pipe is None:
            return
        if slot.claim is not None or not slot.ready:
            slot.kill()
        slot.stop()

    async def _until_ready(self) -> None:
        while not self._slot.is_free:
            if self._failed_starts >= _FAILED_STARTS:
                last = f" Its last words: {self._slot.last_log}" if self._slot.last_log else ""
                raise Unavailable(
                    "This worker can't start a process that runs operations; look at its log and "
                    f"mend its image or its environment.{last}"
                )
            self._changed.clear()
            await self._changed.wait()

    # ---- the job

    def _resolve(self, outcome: Outcome) -> None:
        run, self._run = self._run, None
        if run is not None and not run.outcome.done():
            run.outcome.set_result(outcome)

    async def _cancel(self, run: _Run) -> None:
        if run.outcome.done():
            return
        if self._slot.pipe is not None and self._slot.claim is not None:
            self._slot.take_away(time.monotonic())
            self._plan_kill()
            self._watch_input()
        try:
            await asyncio.shield(run.outcome)
        except asyncio.CancelledError:  # asked again: no more patience
            self._slot.claim = None
            self._resolve(_cancelled(self._slot.ran_ms(time.monotonic())))
            self._slot.kill()
            raise

    def _plan_kill(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = self._slot.kill_at_s
        if at_s is not None:
            wait_s = max(0.0, at_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._enforce)

    def _enforce(self) -> None:
        slot, now_s = self._slot, time.monotonic()
        if slot.kill_at_s is None or slot.pipe is None:
            return
        slot.kill_at_s = None
        if slot.claim is not None:
            ran_ms = slot.ran_ms(now_s)
            slot.claim = None
            is_late = slot.kill_reason == "time limit"
            self._resolve(timed_out(ran_ms) if is_late else _cancelled(ran_ms))
        slot.kill()  # the end of its messages does the rest

    def _watch_input(self) -> None:
        pipe = self._slot.pipe
        if pipe is None or not pipe.has_outgoing:
            return
        loop = asyncio.get_running_loop()

        def writable() -> None:
            pipe.flush()
            if not pipe.has_outgoing:
                loop.remove_writer(pipe.stdin_fd)

        loop.add_writer(pipe.stdin_fd, writable)

    # ---- what the process says

    def _read_messages(self, pipe: WorkerPipe) -> None:
        lines, ended = pipe.read_messages()
        for line in lines:
            self._take(pipe, line)
        if ended:
            asyncio.get_running_loop().remove_reader(pipe.messages_fd)
            self._ended.set()

    def _take(self, pipe: WorkerPipe, line: bytes) -> None:
        slot = self._slot
        if line == b"H":
            slot.became_ready(time.monotonic())
            self._was_ready = True
            self._failed_starts = 0
            self._changed.set()
            return
        kind, token, rest = line.decode().split(" ", 2)
        if slot.claim is None or token != slot.claim.token or self._run is None:
            return  # of a job that was taken away
        if kind == "P":
            self._run.say(rest)
            return
        self._read_log(pipe)  # what it printed before it answered belongs to this job
        outcome = outcome_of(kind, rest, slot.ran_ms(time.monotonic()))
        slot.done(time.monotonic())
        self._plan_kill()
        self._resolve(outcome)

    def _read_log(self, pipe: WorkerPipe) -> None:
        lines, ended = pipe.read_log()
        for line in lines:
            kept = self._slot.admit_log(line)
            if self._run is None:
                _log.info("%s: %s", self._slot.name, line)
            elif kept is not None:
                self._run.say(progress_of_log(kept))
        if ended:
            asyncio.get_running_loop().remove_reader(pipe.log_fd)


def _cancelled(ran_ms: int) -> Outcome:
    return _outcome(JobState.CANCELLED, Cancelled("The job was cancelled."), ran_ms)


def _outcome(state: JobState, error: ChildDied | Cancelled, ran_ms: int) -> Outcome:
    return Outcome(state, ran_ms, error=JobError.from_exception(error, None))


class Children:
    """So many places for processes; a job goes to the one that ran last, for its warm models."""

    def __init__(self, places: int, launch: Callable[[], WorkerPipe]) -> None:
        self._all = [Child(f"place {number}", launch) for number in range(1, places + 1)]
        self._idle = list(reversed(self._all))

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [child.pid for child in self._all if child.pid is not None]

    def start(self) -> None:
        """Have processes from now on."""
        for child in self._all:
            child.start()

    async def run(self, token: str, input_json: str, limit_ms: int | None, say: Say) -> Outcome:
        """As `Child.run`, in an idle place: there must be one."""
        child = next((one for one in reversed(self._idle) if one.is_ready), self._idle[-1])
        self._idle.remove(child)
        try:
            return await child.run(token, input_json, limit_ms, say)
        finally:
            self._idle.append(child)

    async def stop(self) -> None:
        """End all processes."""
        await asyncio.gather(*(child.stop() for child in self._all))
