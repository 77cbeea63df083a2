"""What jobs on a RunPod endpoint cost, as well as a client can know it, and a limit to it."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from visiondyno.errors import BudgetSpent, NotFound, SpecError
from visiondyno.executors.billed_time import BilledTime, rounded_up_s
from visiondyno.executors.cost import Cost
from visiondyno.probes.cost import Price

DEFAULT_IDLE_TIMEOUT_S = 5.0
DEFAULT_EXECUTION_TIMEOUT_S = 600.0
DEFAULT_START_S = 60.0
DEFAULT_STOP_S = 5.0
"""Workers under RunPod's package took 2 to 3 s to stop under our emulator."""


UNHEARD_S = 12.0
"""Workers under RunPod's package ping every 10 s; a ping just after a stop may not know of it."""


@dataclass(slots=True, eq=False)
class Account:
    """One attempt at a job, from the permission to submit it; times are the meter's clock's."""

    since_s: float
    limit_s: float
    is_retry: bool = False
    accepted_s: float = 0.0
    started_s: float | None = None
    start_is_told: bool = False
    worker: object = field(default_factory=object)
    has_moved: bool = False
    at_least_s: int = 0
    at_most_s: int = 0

    def runs_on(self, worker_id: str | None) -> None:
        """A worker has it; another one than before, where it was put back meanwhile."""
        if worker_id is not None:
            self.has_moved |= isinstance(self.worker, str) and self.worker != worker_id
            self.worker = worker_id


class CostMeter:
    """Accounts for the worker time of one executor's jobs and refuses what could cost too much.

    A job is told of as it goes: `admit`, then `accepted`, `withdrawn` or `doubted`; `saw` while it
    runs; `ended`. Jobs of one worker share its time: what overlaps is counted once. The bounds hold
    where no start takes longer than `start_s`, and no stop longer than `stop_s`. Workers that are
    always on, and those that start and get no job, are billed too and can't be seen from here. A
    job that is stopped may cost `UNHEARD_S` more than was set aside for it.

    Args:
        price: of one worker.
        max_cost_usd: no job is admitted that could pass it, and `has_passed` tells when it may have
            been passed all the same; None for no limit.
        idle_timeout_s: the endpoint's: how long a worker waits for its next job before it stops.
        execution_timeout_s: the endpoint's, for jobs whose policy has none.
        start_s: the longest start of a worker.
        stop_s: the longest stop of a worker, after its idle timeout.
        clock: seconds.

    Raises:
        SpecError: a number isn't what it can be.
    """

    def __init__(
        self,
        price: Price,
        *,
        max_cost_usd: float | None = None,
        idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S,
        execution_timeout_s: float = DEFAULT_EXECUTION_TIMEOUT_S,
        start_s: float = DEFAULT_START_S,
        stop_s: float = DEFAULT_STOP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_cost_usd is not None and not 0 < max_cost_usd < float("inf"):
            raise SpecError(f"The limit of the cost is {max_cost_usd} USD; give more than 0.")
        for name, seconds in (
            ("idle timeout", idle_timeout_s),
            ("execution timeout", execution_timeout_s),
            ("longest start", start_s),
            ("longest stop", stop_s),
        ):
            if not 0 <= seconds < float("inf"):
                raise SpecError(f"The {name} is {seconds} s; give 0 or more.")
        self.price = price
        self.max_cost_usd = max_cost_usd
        self._end_s = idle_timeout_s + stop_s
        self._execution_timeout_s = execution_timeout_s
        self._start_s = start_s
        self._clock = clock
        self._open: set[Account] = set()
        self._jobs: dict[str, list[Account]] = {}
        self._ran: dict[object, BilledTime] = {}
        self._there: dict[object, BilledTime] = {}
        self._doubted_s = 0

    # ---- a job's way

    def admit(self, execution_timeout_ms: int | None) -> Account:
        """Permit one submission, and set aside what it could cost.

        Args:
            execution_timeout_ms: the job's policy's; None where it has none.

        Raises:
            BudgetSpent: with what is spent and set aside it could pass the limit.
        """
        limit_s = self._execution_timeout_s
        if execution_timeout_ms is not None:
            limit_s = execution_timeout_ms / 1000
        return self._admit(limit_s)

    def admit_again(self, job_id: str) -> Account:
        """Permit another attempt at a job; else as `admit`."""
        attempts = self._jobs.get(job_id)
        return self._admit(attempts[-1].limit_s if attempts else self._execution_timeout_s)

    def accepted(self, account: Account, job_id: str) -> None:
        """The endpoint has the job."""
        account.is_retry = job_id in self._jobs
        account.accepted_s = self._clock()
        self._jobs.setdefault(job_id, []).append(account)

    def withdrawn(self, account: Account) -> None:
        """It certainly came to nothing."""
        self._open.discard(account)

    def doubted(self, account: Account) -> None:
        """Perhaps the endpoint has it, and nobody will know: all that it could cost is spent."""
        self._open.discard(account)
        self._doubted_s += self._most_s(account)

    def saw(self, job_id: str, worker_id: str | None, delay_ms: int | None) -> None:
        """A worker has the job, since `delay_ms` after its arrival; None where that isn't told."""
        account = self._open_account(job_id)
        if account is None:
            return
        started_s = self._clock()
        if delay_ms is not None:
            started_s = account.accepted_s + delay_ms / 1000
        if account.started_s is None or started_s < account.started_s:
            account.started_s = started_s
            account.start_is_told = delay_ms is not None
        account.runs_on(worker_id)

    def ended(
        self,
        job_id: str,
        *,
        worker_id: str | None = None,
        delay_ms: int | None = None,
        execution_ms: int | None = None,
        has_run: bool = True,
        was_put_back: bool = False,
        was_stopped: bool = False,
    ) -> None:
        """The job has ended; a job that isn't open is left as it is.

        Args:
            job_id: which.
            worker_id: the last worker that had it; None where it isn't told.
            delay_ms: from its arrival to its last start.
            execution_ms: of its last run.
            has_run: whether a worker had it.
            was_put_back: whether it had more than one run; only the last one's time is told.
            was_stopped: whether it ended without its worker's answer. Then the endpoint learns from
                the worker's next ping that it is free, and only then its idle time begins.
        """
        account = self._open_account(job_id)
        if account is None:
            return
        self._open.discard(account)
        account.runs_on(worker_id)
        was_put_back = was_put_back or account.has_moved
        if delay_ms is not None:
            account.started_s, account.start_is_told = account.accepted_s + delay_ms / 1000, True
        first_s = last_s = self._clock()
        if has_run:
            first_s, last_s = self._run_of(account, execution_ms, was_put_back=was_put_back)
        if was_stopped and has_run:
            last_s += UNHEARD_S
        span = self._span(account, first_s, last_s)
        _, account.at_most_s = _added(self._there, account.worker, span)

    # ---- what it costs

    def of(self, job_id: str) -> Cost:
        """What a job added to the total; while it is open, what it could cost in all.

        Raises:
            NotFound: it wasn't submitted here.
        """
        attempts = self._jobs.get(job_id)
        if attempts is None:
            raise NotFound(
                f"The cost of job '{job_id:.100}' isn't known: this executor didn't submit it."
            )
        at_most_s = sum(
            self._most_s(one) if one in self._open else one.at_most_s for one in attempts
        )
        at_least_s = sum(one.at_least_s for one in attempts)
        return Cost(at_least_s, max(at_least_s, at_most_s), self.price)

    def total(self) -> Cost:
        """What all jobs cost up to now; those that run are in its upper bound."""
        at_least_s = sum(rounded_up_s(time_s.length_s) for time_s in self._ran.values())
        return Cost(at_least_s, self._spent_s(), self.price)

    def affordable_s(self) -> float | None:
        """How long the next job may run within the limit, at least 0; None without a limit."""
        if self.max_cost_usd is None:
            return None
        taken_s = self._ended_s() + sum(self._most_s(one) for one in self._open)
        left_s = self._paid_s - taken_s
        return max(0.0, left_s - rounded_up_s(self._start_s + self._end_s))

    def has_passed(self) -> bool:
        """Whether the limit may have been passed."""
        return self.max_cost_usd is not None and self._spent_s() > self._paid_s

    def limit_error(self) -> BudgetSpent:
        """Why what runs is stopped, once `has_passed`."""
        return BudgetSpent(
            f"The jobs may have cost more than the limit of {self.max_cost_usd:.4g} USD "
            f"({self.total()}), so those under way were stopped. Raise --max-cost, or give a "
            "shorter executionTimeout."
        )

    # ---- arithmetic

    @property
    def _paid_s(self) -> float:
        """Whole seconds that the limit pays for; in seconds, limits are kept to the last one."""
        if self.max_cost_usd is None:
            return math.inf
        usd_per_s = self.price.usd_per_hour / 3600
        return math.floor(min(self.max_cost_usd / max(usd_per_s, 1e-12) + 1e-6, 1e15))

    def _admit(self, limit_s: float) -> Account:
        account = Account(self._clock(), limit_s)
        spent_s, this_s = self._ended_s(), self._most_s(account)
        others_s = sum(self._most_s(one) for one in self._open)
        if self.max_cost_usd is not None and spent_s + others_s + this_s > self._paid_s:
            raise self._refusal(self.max_cost_usd, limit_s, spent_s, others_s, this_s)
        self._open.add(account)
        return account

    def _refusal(
        self, limit_usd: float, limit_s: float, spent_s: int, others_s: int, this_s: int
    ) -> BudgetSpent:
        """What the limit was to pay for, and which one would be enough."""
        usd_per_s = self.price.usd_per_hour / 3600
        ran = f"up to {limit_s:g} s of run time"
        around = "its worker's start, idle time and stop"
        parts = [f"it may take {this_s * usd_per_s:.4f} ({ran}, and {around})"]
        if spent_s:
            parts.append(f"up to {spent_s * usd_per_s:.4f} are spent")
        if others_s:
            parts.append(
                f"{others_s * usd_per_s:.4f} are set aside for {len(self._open)} under way"
            )
        enough_usd = math.ceil((spent_s + others_s + this_s) * usd_per_s * 1e4) / 1e4
        steps = f"Raise --max-cost to {enough_usd:.4f} or more, or give a shorter time limit"
        return BudgetSpent(
            f"The next job could pass the limit of {limit_usd:.4g} USD: {', '.join(parts)}. "
            f"{steps}{', or wait for jobs under way' if others_s else ''}."
        )

    def _most_s(self, account: Account) -> int:
        """What one attempt could take in all."""
        planned_s = self._start_s + account.limit_s + self._end_s
        if account.started_s is not None:
            start_s, end_s = self._span(account, account.started_s, self._clock())
            planned_s = max(planned_s, end_s - start_s)
        return rounded_up_s(planned_s)

    def _span(self, account: Account, first_s: float, last_s: float) -> tuple[float, float]:
        """When a worker may have been there for a job that ran from `first_s` to `last_s`."""
        return max(account.since_s, first_s - self._start_s), last_s + self._end_s

    def _ended_s(self) -> int:
        return self._doubted_s + _billed_s(self._there.values())

    def _spent_s(self) -> int:
        running: dict[object, BilledTime] = {}
        for account in self._open:
            if account.started_s is None:
                continue
            if account.worker not in running:
                known = self._there.get(account.worker)
                running[account.worker] = BilledTime() if known is None else known.copy()
            span = self._span(account, account.started_s, self._clock())
            running[account.worker].add(*span)
        return self._doubted_s + _billed_s({**self._there, **running}.values())

    def _run_of(
        self, account: Account, execution_ms: int | None, *, was_put_back: bool
    ) -> tuple[float, float]:
        """Account for what surely ran; from when to when the job may have run."""
        now_s = self._clock()
        started_s = account.started_s if account.start_is_told else None
        ran_s = (execution_ms or 0) / 1000
        if started_s is not None and account.is_retry and started_s + ran_s > now_s:
            started_s = None  # it was counted from the first attempt on
        if execution_ms is None:
            may_have_run = (account.since_s if started_s is None else started_s, now_s)
        else:
            ran_from_s = now_s - ran_s if started_s is None else started_s
            may_have_run = ran_from_s, ran_from_s + ran_s
            account.at_least_s, _ = _added(self._ran, account.worker, may_have_run)
        if started_s is None or was_put_back:
            return min(account.since_s, may_have_run[0]), max(now_s, may_have_run[1])
        return may_have_run

    def _open_account(self, job_id: str) -> Account | None:
        attempts = self._jobs.get(job_id, [])
        return attempts[-1] if attempts and attempts[-1] in self._open else None


def _billed_s(times: Iterable[BilledTime]) -> int:
    return sum(time_s.billed_s for time_s in times)


def _added(
    times: dict[object, BilledTime], worker: object, span: tuple[float, float]
) -> tuple[int, int]:
    """Add a span; by how much length (in whole seconds) and billed time have grown."""
    time_s = times.setdefault(worker, BilledTime())
    length_s, billed_s = rounded_up_s(time_s.length_s), time_s.billed_s
    time_s.add(*span)
    return rounded_up_s(time_s.length_s) - length_s, max(0, time_s.billed_s - billed_s)
