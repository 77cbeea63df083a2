"""One place for a worker process: which process is in it, what it runs, when it must be killed."""

import logging
from collections.abc import Callable

from visiondyno.executors.queue import Claim
from visiondyno.executors.worker_pipe import WorkerPipe
from visiondyno.executors.workers import WorkerState

_log = logging.getLogger(__name__)

CANCEL_GRACE_S = 1.0
"""A cancelled operation may end by itself for so long; a warm model is worth it."""
LIMIT_GRACE_S = 0.5
"""An operation sees its time limit itself, and gives the better error; then it is killed."""
START_LIMIT_S = 120.0
"""A process that isn't ready after so long is replaced."""
_END_GRACE_S = 2.0
_QUICK_DEATH_S = 5.0
_RESTART_PAUSES_S = (0.0, 0.5, 2.0, 5.0, 10.0)
_MOST_LOG_LINES = 2000
_MOST_LOG_BYTES = 256_000


class Slot:
    """See the module's first line. Times are on the supervisor's monotonic clock."""

    def __init__(self, name: str, launch: Callable[[], WorkerPipe], now_s: float) -> None:
        self.name = name
        self.pipe: WorkerPipe | None = None
        self.claim: Claim | None = None
        self.ready = False
        self.draining = False
        self.restart_wanted = False
        self.jobs_done = 0
        self.restarts = 0
        self.claimed_s = 0.0
        self.kill_at_s: float | None = None
        self.kill_reason = ""
        self.idle_since_s = now_s
        self.start_at_s = now_s
        self._launch = launch
        self._started_s = now_s
        self._quick_deaths = 0
        self._log_lines = 0
        self._log_bytes = 0
        self.last_log = ""

    @property
    def state(self) -> WorkerState:
        """What is announced."""
        if self.claim is not None:
            return WorkerState.DRAINING if self.draining else WorkerState.BUSY
        if self.draining:
            return WorkerState.DRAINED
        if self.pipe is None:
            return WorkerState.BACKING_OFF
        return WorkerState.IDLE if self.ready else WorkerState.STARTING

    @property
    def is_free(self) -> bool:
        """Whether it may claim a job."""
        return self.ready and self.claim is None and not (self.draining or self.restart_wanted)

    def start(self, now_s: float) -> WorkerPipe | None:
        """Start a process in this place; None where the machine has none to give just now."""
        try:
            self.pipe = self._launch()
        except OSError as error:
            _log.warning("no process for worker %s: %s", self.name, error)
            self._pause(now_s, is_quick=True)
            return None
        self.ready = False
        self.restart_wanted = False
        self._started_s = now_s
        self.kill_at_s, self.kill_reason = now_s + START_LIMIT_S, "was not ready in time"
        return self.pipe

    def became_ready(self, now_s: float) -> None:
        """The process can take jobs."""
        self.ready = True
        self.idle_since_s = now_s
        self.kill_at_s = None

    def give(self, claim: Claim, now_s: float) -> None:
        """Send a job to the process."""
        assert self.pipe is not None, "only a ready process is given a job"
        self.claim = claim
        self.claimed_s = now_s
        self._log_lines = self._log_bytes = 0
        self.last_log = ""
        limit_ms = claim.execution_timeout_ms
        self.kill_at_s = None if limit_ms is None else now_s + limit_ms / 1000 + LIMIT_GRACE_S
        self.kill_reason = "time limit"
        self.pipe.send(f"J {claim.token} {limit_ms or 0} {claim.input_json}")

    def take_away(self, now_s: float) -> None:
        """The claim isn't held any more: stop the operation, gently for a moment."""
        assert self.pipe is not None
        assert self.claim is not None
        self.pipe.send(f"C {self.claim.token}")
        self.kill_at_s = min(self.kill_at_s or now_s + CANCEL_GRACE_S, now_s + CANCEL_GRACE_S)
        self.kill_reason = "cancelled"

    def done(self, now_s: float) -> Claim:
        """The job ended; what the claim was."""
        assert self.claim is not None
        claim, self.claim = self.claim, None
        self.kill_at_s = None
        self.idle_since_s = now_s
        self.jobs_done += 1
        self._quick_deaths = 0
        return claim

    def died(self, now_s: float) -> str:
        """The process ended; how, in words. Another may start at `start_at_s`."""
        assert self.pipe is not None
        how, by_kill = self.pipe.reap()
        self.pipe = None
        self.ready = False
        self.kill_at_s = None
        self.restarts += 1
        # One that others killed may be started again at once; one that can't start, less and less.
        is_quick = not by_kill and now_s - self._started_s < _QUICK_DEATH_S
        self._pause(now_s, is_quick=is_quick)
        self.idle_since_s = now_s
        return f"{how}; its last words: {self.last_log}" if self.last_log else how

    def _pause(self, now_s: float, *, is_quick: bool) -> None:
        self._quick_deaths = self._quick_deaths + 1 if is_quick else 0
        self.start_at_s = now_s + _RESTART_PAUSES_S[min(self._quick_deaths, 4)]

    def ran_ms(self, now_s: float) -> int:
        """How long the job in this place has run."""
        return round((now_s - self.claimed_s) * 1000)

    def kill(self) -> None:
        """Kill the process. It may take seconds to be gone, and is given no job meanwhile."""
        self.ready = False
        if self.pipe is not None:
            self.pipe.kill()

    def stop(self) -> None:
        """End an idle process for good."""
        if self.pipe is not None:
            self.pipe.end_input()
            self.pipe.reap(grace_s=_END_GRACE_S)
            self.pipe = None
        self.ready = False

    def admit_log(self, line: str) -> str | None:
        """The line as it is kept; None beyond the limit of one job's log."""
        self.last_log = line.strip()[:300] or self.last_log
        if self._log_lines > _MOST_LOG_LINES:
            return None
        self._log_lines += 1
        self._log_bytes += len(line)
        if self._log_lines > _MOST_LOG_LINES or self._log_bytes > _MOST_LOG_BYTES:
            self._log_lines = _MOST_LOG_LINES + 1
            return "… the log is longer; the rest is not kept."
        return line
