"""The supervisor: claims jobs for its worker processes and keeps the promises about them.

It is a process of its own and runs no operation itself, so it renews leases, stops cancelled jobs,
kills what runs past its limit and replaces what died, however busy or stuck a worker is. One loop,
one thread: it waits on the workers' pipes and on the queue's bell.
"""

import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from visiondyno.errors import SpecError, TransportDown, VisionDynoError
from visiondyno.executors.queue import Bell, Claim, JobQueue, Outcome
from visiondyno.executors.scaling import processes_to_start, processes_to_stop
from visiondyno.executors.slot import Slot
from visiondyno.executors.supervisor_options import SupervisorOptions
from visiondyno.executors.worker_facts import MachineFacts
from visiondyno.executors.worker_messages import outcome_of, progress_of_log, timed_out
from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.executors.workers import WorkerCommand, WorkerInfo
from visiondyno.probes.machine_digest import machine_digest
from visiondyno.telemetry.ids import bound

_log = logging.getLogger(__name__)

_POLL_S = 0.5
"""The longest wait: a bell may miss, and a job's backoff ends without one."""
_ANNOUNCE_S = 2.0
_ANNOUNCE_CHANGES_S = 0.25
_RETRY_S = 0.5
_SAY_AGAIN_S = 30.0
_MOST_KEPT_REPORTS = 10_000
"""Progress kept for a queue that can't be reached; older progress is dropped, answers never are."""


class Supervisor:
    """`run` until `stop`; one instance a process."""

    def __init__(self, open_queue: Callable[[], JobQueue], options: SupervisorOptions) -> None:
        """`open_queue` may raise `TransportDown`: it is called until it doesn't."""
        self._open_queue = open_queue
        self._options = options
        self._facts = MachineFacts(machine_digest())
        self._slots: list[Slot] = []
        self._reports: list[tuple[Claim, str]] = []
        self._outcomes: list[tuple[Claim, Outcome]] = []
        self._returns: list[tuple[Claim, str]] = []
        self._selector = selectors.DefaultSelector()
        self._stop_r, self._stop_w = os.pipe()
        self._stopping = False
        self._drain_until_s = 0.0
        self._queue: JobQueue | None = None
        self._bell: Bell | None = None
        self._due: dict[str, float] = {}
        self._announced: dict[str, WorkerInfo] = {}
        self._claimable = 0
        self._say_again_s = 0.0

    def stop(self, drain_s: float = 0.0) -> None:
        """End `run`: claim no more, let running jobs end for `drain_s`, give back the rest.

        Safe in a signal handler and from another thread; a second call may shorten the time.
        """
        self._stopping = True
        self._drain_until_s = time.monotonic() + drain_s
        os.write(self._stop_w, b"!")

    def run(self) -> None:
        """Serve the queue until `stop`. Leaves no process and no lease behind.

        Raises:
            SpecError: the queue is set up wrong, and nothing was ever told it (unless `patient`).
        """
        self._selector.register(self._stop_r, selectors.EVENT_READ, self._read_stop)
        try:
            while not self._is_over():
                self._step()
        finally:
            self._end()

    # -- the loop --------------------------------------------------------------------------------

    def _step(self) -> None:
        now_s = time.monotonic()
        try:
            self._connect()
            self._settle(now_s)
            self._keep_house(now_s)
        except VisionDynoError as error:
            if isinstance(error, SpecError) and not (self._announced or self._options.patient):
                raise
            if now_s >= self._say_again_s:  # an outage of hours fills no disk
                _log.warning("%s", error)
                self._say_again_s = now_s + _SAY_AGAIN_S
            self._disconnect_if_down(error)
            del self._reports[:-_MOST_KEPT_REPORTS]
            self._due = {"settle": now_s + _RETRY_S}
        self._start_slots(now_s)
        for key, mask in self._selector.select(self._wait_s(time.monotonic())):
            key.data(mask)
        # After what they said was read: one that ended in time isn't killed for our own delay.
        self._enforce(time.monotonic())

    def _is_over(self) -> bool:
        if not self._stopping:
            return False
        busy = any(slot.claim is not None for slot in self._slots)
        unsaid = bool(self._outcomes or self._returns)
        return not (busy or unsaid) or time.monotonic() >= self._drain_until_s

    def _wait_s(self, now_s: float) -> float:
        moments = [now_s + _POLL_S]
        moments += [slot.kill_at_s for slot in self._slots if slot.kill_at_s is not None]
        if self._stopping:
            moments.append(self._drain_until_s)
        return max(0.0, min(moments) - now_s)

    def _is_due(self, what: str, now_s: float, every_s: float) -> bool:
        if now_s < self._due.get(what, 0.0):
            return False
        self._due[what] = now_s + every_s
        return True

    # -- the queue -------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._queue is None:
            if not self._is_due("connect", time.monotonic(), _RETRY_S):
                return
            self._queue = self._open_queue()
        if self._bell is None:
            self._bell = self._queue.bell("work")
            self._selector.register(self._bell.fileno(), selectors.EVENT_READ, self._read_bell)

    def _disconnect_if_down(self, error: VisionDynoError) -> None:
        if not isinstance(error, TransportDown) or self._bell is None:
            return
        self._selector.unregister(self._bell.fileno())
        self._bell.close()
        self._bell = None

    def _settle(self, now_s: float) -> None:
        """Tell the queue what happened and take new jobs: one step, where the queue can."""
        queue = self._queue
        if queue is None or now_s < self._due.get("settle", 0.0):
            return
        free = [] if self._stopping else [slot for slot in self._slots if slot.is_free]
        claims: list[Claim] = []
        if self._reports or self._outcomes or self._returns or free:
            with queue.together():
                queue.report(self._reports)
                queue.finish(self._outcomes)
                for claim, reason in self._returns:
                    queue.give_back(claim, reason)
                claims = queue.claim([slot.name for slot in free], self._options.lease_s)
            self._reports, self._outcomes, self._returns = [], [], []
        by_name = {slot.name: slot for slot in free}
        for claim in claims:
            by_name[claim.worker].give(claim, now_s)
            self._watch_output(by_name[claim.worker])

    def _keep_house(self, now_s: float) -> None:
        queue, lease_s = self._queue, self._options.lease_s
        if queue is None:
            return
        if self._is_due("renew", now_s, min(lease_s / 4, 1.0)):
            held = {slot.claim: slot for slot in self._slots if slot.claim is not None}
            for lost in queue.renew(list(held), lease_s):
                held[lost].take_away(now_s)
                self._watch_output(held[lost])
        if self._is_due("sweep", now_s, lease_s / 2):
            queue.sweep()
        if self._is_due("commands", now_s, _POLL_S):
            self._obey(queue)
        if len(self._slots) < self._options.scale.most or not self._slots:
            if self._is_due("count", now_s, _ANNOUNCE_CHANGES_S):
                self._claimable = queue.claimable(self._options.scale.most)
        else:
            self._claimable = 0
        self._announce(queue, now_s)

    def _obey(self, queue: JobQueue) -> None:
        by_name = {slot.name: slot for slot in self._slots}
        for name, command in queue.take_commands(list(by_name)):
            slot = by_name[name]
            slot.draining = command == WorkerCommand.DRAIN
            slot.restart_wanted = command == WorkerCommand.RESTART

    def _announce(self, queue: JobQueue, now_s: float) -> None:
        # A new worker is told of at once: nobody must see an answer of one that nobody knows.
        has_new = any(slot.name not in self._announced for slot in self._slots)
        if now_s < self._due.get("announce changes", 0.0) and not has_new:
            return
        infos = {slot.name: self._info(slot) for slot in self._slots}
        gone = set(self._announced) - set(infos)
        changed = {name: replace(info, seen_at=0.0) for name, info in infos.items()}
        if self._is_due("announce", now_s, _ANNOUNCE_S) or gone or changed != self._announced:
            facts = {name: self._facts.of(info) for name, info in infos.items()}
            queue.announce(list(facts.values()))
            if gone:
                queue.withdraw(gone)
            self._announced = changed
            self._due["announce changes"] = now_s + _ANNOUNCE_CHANGES_S

    def _info(self, slot: Slot) -> WorkerInfo:
        return WorkerInfo(
            name=slot.name,
            state=slot.state,
            seen_at=time.time(),
            host=socket.gethostname(),
            pid=None if slot.pipe is None else slot.pipe.pid,
            job_id=None if slot.claim is None else slot.claim.job_id,
            gpu_memory_fraction=self._options.gpu_memory_fraction,
            jobs_done=slot.jobs_done,
            restarts=slot.restarts,
        )

    # -- the workers -----------------------------------------------------------------------------

    def _start_slots(self, now_s: float) -> None:
        if self._stopping:
            return
        scale = self._options.scale
        free = [slot for slot in self._slots if slot.claim is None and not slot.draining]
        more = processes_to_start(
            scale, alive=len(self._slots), idle_or_starting=len(free), claimable=self._claimable
        )
        for _ in range(more):
            self._slots.append(Slot(self._free_name(), self._launch, now_s))
        idle = [slot for slot in free if slot.ready]
        idle_s = [now_s - slot.idle_since_s for slot in idle]
        for place in processes_to_stop(scale, alive=len(self._slots), idle_s=idle_s):
            self._unwatch(idle[place])
            idle[place].stop()
            self._slots.remove(idle[place])
        for slot in self._slots:
            if slot.restart_wanted and slot.claim is None and slot.pipe is not None:
                self._unwatch(slot)
                slot.stop()
            if slot.pipe is None and now_s >= slot.start_at_s and not slot.draining:
                pipe = slot.start(now_s)
                if pipe is not None:
                    self._watch(slot, pipe)

    def _free_name(self) -> str:
        taken = {slot.name for slot in self._slots}
        names = (f"{self._options.name}-{number}" for number in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _launch(self) -> WorkerPipe:
        environ = dict(self._options.environ)
        if self._options.gpu_memory_fraction is not None:
            environ["VISIONDYNO_GPU_MEMORY_FRACTION"] = str(self._options.gpu_memory_fraction)
        return WorkerPipe(self._options.entry, environ)

    def _enforce(self, now_s: float) -> None:
        for slot in self._slots:
            if slot.kill_at_s is not None and now_s >= slot.kill_at_s and slot.pipe is not None:
                slot.kill_at_s = None
                if slot.claim is not None and slot.kill_reason == "time limit":
                    self._outcomes.append((slot.done(now_s), timed_out(slot.ran_ms(now_s))))
                elif slot.claim is not None:
                    slot.claim = None  # cancelled, or another's by now: nothing to tell
                slot.kill()  # the end of its messages does the rest

    def _watch(self, slot: Slot, pipe: WorkerPipe) -> None:
        def messages(_: int) -> None:
            self._read_messages(slot)

        def log(_: int) -> None:
            self._read_log(slot)

        self._selector.register(pipe.messages_fd, selectors.EVENT_READ, messages)
        self._selector.register(pipe.log_fd, selectors.EVENT_READ, log)

    def _unwatch(self, slot: Slot) -> None:
        assert slot.pipe is not None
        for fd in (slot.pipe.messages_fd, slot.pipe.log_fd, slot.pipe.stdin_fd):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)

    def _watch_output(self, slot: Slot) -> None:
        """Wait for room in the worker's standard input while something is left to be written."""
        pipe = slot.pipe
        if pipe is None or not pipe.has_outgoing or pipe.stdin_fd in self._selector.get_map():
            return

        def writable(_: int) -> None:
            pipe.flush()
            if not pipe.has_outgoing:
                self._selector.unregister(pipe.stdin_fd)

        self._selector.register(pipe.stdin_fd, selectors.EVENT_WRITE, writable)

    # -- what arrives ----------------------------------------------------------------------------

    def _read_messages(self, slot: Slot) -> None:
        if slot.pipe is None:
            return
        lines, ended = slot.pipe.read_messages()
        now_s = time.monotonic()
        for line in lines:
            self._take(slot, line, now_s)
        if ended:
            self._died(slot, now_s)

    def _take(self, slot: Slot, line: bytes, now_s: float) -> None:
        if line == b"H":
            slot.became_ready(now_s)
            return
        kind, token, rest = line.decode().split(" ", 2)
        if slot.claim is None or token != slot.claim.token:
            return  # of a job that was taken away
        if kind == "P":
            self._reports.append((slot.claim, rest))
            return
        self._read_log(slot)  # what it printed before it answered belongs to this job
        outcome = outcome_of(kind, rest, slot.ran_ms(now_s))
        self._outcomes.append((slot.done(now_s), outcome))

    def _read_log(self, slot: Slot) -> None:
        if slot.pipe is None:
            return
        lines, ended = slot.pipe.read_log()
        for line in lines:
            kept = slot.admit_log(line)
            if slot.claim is None:
                _log.info("%s: %s", slot.name, line)
            elif kept is not None:
                self._reports.append((slot.claim, progress_of_log(kept)))
        if ended and slot.pipe.log_fd in self._selector.get_map():
            self._selector.unregister(slot.pipe.log_fd)

    def _died(self, slot: Slot, now_s: float) -> None:
        self._read_log(slot)
        self._unwatch(slot)
        how = slot.died(now_s)
        claim, slot.claim = slot.claim, None
        if claim is not None:
            self._returns.append((claim, f"Worker {slot.name}'s process {how}."))
        with bound(job_id=None if claim is None else claim.job_id):
            _log.warning("worker %s's process %s", slot.name, how)

    def _read_bell(self, _: int) -> None:
        if self._bell is not None:
            self._bell.drain()
        for what in ("commands", "renew", "count"):
            self._due[what] = 0.0  # the ring may tell of a cancel, a command or a job

    def _read_stop(self, _: int) -> None:
        os.read(self._stop_r, 4096)

    def _end(self) -> None:
        """Leave nothing behind: no process, no lease."""
        unfinished = [slot.claim for slot in self._slots if slot.claim is not None]
        for slot in self._slots:
            if slot.claim is not None or not slot.ready:
                slot.kill()  # all of them before any is waited for
        for slot in self._slots:
            if slot.pipe is not None:
                self._unwatch(slot)
                slot.stop()
        try:
            if self._queue is not None and self._announced:
                with self._queue.together():
                    self._queue.report(self._reports)
                    self._queue.finish(self._outcomes)
                    for claim in [*unfinished, *(claim for claim, _ in self._returns)]:
                        self._queue.give_back(claim, "The worker was stopped.", blameless=True)
                    self._queue.withdraw([slot.name for slot in self._slots])
        except VisionDynoError as error:
            _log.warning("what was left could not be given back; its leases will lapse: %s", error)
        finally:
            if self._bell is not None:
                self._bell.close()
            if self._queue is not None:
                self._queue.close()
            self._selector.close()
            os.close(self._stop_r)
            os.close(self._stop_w)
