"""How a study stands: one value of everything, for any thread, and callbacks that miss nothing."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visiondyno.errors import VisionDynoError
from visiondyno.executors.cost import Cost
from visiondyno.job import JobEvent
from visiondyno.tuning.eta import Estimate
from visiondyno.tuning.health import EpochHealth
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.running import RunningTrial
from visiondyno.tuning.subscribers import CallbackReading, Subscriber
from visiondyno.tuning.tally import StudyTally
from visiondyno.tuning.trial import State, TrialRecord

_PATIENCE_S = 10.0
_ESTIMATE_AGE_S = 0.2
"""So long the time left is told again to callbacks: it takes more time than all else together."""


@dataclass(frozen=True, slots=True)
class Change:
    """What made a progress differ from the one before.

    Attributes:
        kind: `trial` (its state), `epoch` (it ended one), `told` (anything else that a trial's job
            said), `study` (the study is over).
        trial: its number; None for `study`.
        record: of the trial, for `trial`.
        said: by the job, for `epoch` and `told`.
    """

    kind: str
    trial: int | None = None
    record: TrialRecord | None = None
    said: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """What was asked of the lanes.

    Attributes:
        submissions: attempts at trials that were given to a lane.
        retries: those of them that were not a trial's first.
        redeliveries: times that a job went back to its queue since its worker died.
        submissions_per_minute: since the study began here; None in its first instant.
    """

    submissions: int
    retries: int
    redeliveries: int
    submissions_per_minute: float | None


@dataclass(frozen=True, slots=True)
class AggregatedProgress:
    """How a study stands at one moment. Counts of trials include those of earlier runs.

    Attributes:
        sequence: 1, 2, 3 … with each change; 0 before the first.
        change: what is new; None where `ProgressBoard.progress` was asked.
        at: seconds since the epoch.
        elapsed_s: since this run of the study began.
        total_trials: that the study is to have.
        queued_trials, running_trials, completed_trials, pruned_trials, failed_trials: by state;
            the rest of the total hasn't been asked for.
        current_best_value: of the one objective; None with several, or before any.
        current_best_values: the best of each objective by itself; empty before any.
        current_best_params: of the best trial; None with several objectives, or before any.
        best_trial: its number; None likewise.
        front: completed trials that no other one dominates, by number; with one objective the
            best.
        estimated_time_remaining: seconds; None while nothing is known. See `eta.DurationModel`.
        estimated_time_interval: where it lies with 95 %; None while too little is known.
        trials_per_minute: ended in this run; None in its first instant.
        running: trials that run.
        nonfinite_trials: numbers of those in whose history something isn't finite.
        failures: failed trials by cause, most frequent first.
        requests: see there.
        lanes: how each lane stands.
        usd_at_least, usd_at_most: what ended trials cost, estimated; None where nothing is paid, or
            it isn't known.
        is_over: the study has ended.
        stopped: why before its last trial, in a sentence; None if it didn't.
    """

    sequence: int
    change: Change | None
    at: float
    elapsed_s: float
    total_trials: int
    queued_trials: int
    running_trials: int
    completed_trials: int
    pruned_trials: int
    failed_trials: int
    current_best_value: float | None
    current_best_values: tuple[float, ...]
    current_best_params: Mapping[str, Any] | None
    best_trial: int | None
    front: tuple[TrialRecord, ...]
    estimated_time_remaining: float | None
    estimated_time_interval: tuple[float, float] | None
    trials_per_minute: float | None
    running: tuple[RunningTrial, ...]
    nonfinite_trials: tuple[int, ...]
    failures: tuple[tuple[str, int], ...]
    requests: Requests
    lanes: tuple[LaneReading, ...]
    usd_at_least: float | None
    usd_at_most: float | None
    is_over: bool
    stopped: str | None

    @property
    def ended_trials(self) -> int:
        """Completed, pruned or failed."""
        return self.completed_trials + self.pruned_trials + self.failed_trials


class ProgressBoard:
    """Gathers what a `runner.Watcher` is told. Safe for use from several threads.

    Args:
        objectives: of the study.
        limits: of the study; the ETA isn't longer than its time.
        at_once: how many may run.
        lanes: readings of the lanes.
        spent: what the study cost here up to now; None: the sum of the trials' own.
        taken_up: trials of earlier runs.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        limits: Limits,
        at_once: int,
        *,
        lanes: Callable[[], Sequence[LaneReading]] = tuple,
        spent: Callable[[], Cost | None] | None = None,
        taken_up: Sequence[TrialRecord] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._objectives = tuple(objectives)
        self._limits = limits
        self._at_once = at_once
        self._lanes = lanes
        self._spent = spent
        self._now = now
        self._lock = threading.RLock()
        self._sequence = 0
        self._subscribers: list[Subscriber[AggregatedProgress]] = []
        self._tally = StudyTally(objectives)
        self._usd: tuple[float, float] | None = None
        self._estimated: tuple[float, Estimate | None] = (0.0, None)
        self._is_over = False
        self._stopped: str | None = None
        for record in taken_up:
            self._tally.take(record, now(), is_of_this_run=False)
        self._began = now()

    # ---- what the study tells

    def on_trial(self, record: TrialRecord) -> None:
        """A trial's state has changed."""
        with self._lock:
            self._tally.take(record, self._now())
            self._usd = self._spent_now()
            self._changed(Change("trial", record.number, record=record))

    def on_event(self, number: int, event: JobEvent) -> None:
        """A running trial's job said something."""
        with self._lock:
            self._tally.hear(number, event, self._now())
            if event.progress is not None:
                kind = "epoch" if event.progress.get("stage") == "epoch" else "told"
                self._changed(Change(kind, number, said=event.progress))

    def finish(self, stopped: str | None) -> None:
        """The study has ended.

        Args:
            stopped: why before its last trial, in a sentence; None if it didn't.
        """
        with self._lock:
            self._is_over = True
            self._stopped = stopped
            self._changed(Change("study"))

    # ---- what others read

    def progress(self) -> AggregatedProgress:
        """How the study stands now; its `change` is None."""
        with self._lock:
            return self._snapshot(None)

    def health(self, number: int) -> tuple[EpochHealth, ...]:
        """The epochs of a trial, as far as they were told."""
        with self._lock:
            return self._tally.health(number)

    def subscribe(
        self, callback: Callable[[AggregatedProgress], object], name: str | None = None
    ) -> None:
        """Call it with every change from now on: in order, none left out, on a thread of its own.

        It never holds up the study, however slow it is or whatever it raises.
        """
        with self._lock:
            self._subscribers.append(Subscriber(callback, name))

    def callbacks(self) -> tuple[CallbackReading, ...]:
        """What each callback was told and what it cost."""
        with self._lock:
            subscribers = tuple(self._subscribers)
        return tuple(subscriber.reading() for subscriber in subscribers)

    def close(self, patience_s: float = _PATIENCE_S) -> tuple[CallbackReading, ...]:
        """Let callbacks hear what they haven't yet, for at most so long; what each cost.

        `pending` of a reading is what it wasn't told in this time.
        """
        with self._lock:
            subscribers = tuple(self._subscribers)
        ends_s = time.monotonic() + patience_s
        for subscriber in subscribers:
            subscriber.close(max(0.0, ends_s - time.monotonic()))
        return tuple(subscriber.reading() for subscriber in subscribers)

    def _changed(self, change: Change) -> None:
        self._sequence += 1
        if self._subscribers:
            progress = self._snapshot(change)
            for subscriber in self._subscribers:
                subscriber.give(progress)

    def _snapshot(self, change: Change | None) -> AggregatedProgress:
        at = self._now()
        elapsed_s = max(0.0, at - self._began)
        lanes = tuple(self._lanes())
        estimate = None
        if not self._is_over:
            may_be_aged = change is not None and change.kind != "trial"
            estimate = self._estimate(at, elapsed_s, lanes, may_be_aged=may_be_aged)
        tally = self._tally
        best = tally.front[0] if tally.front and len(self._objectives) == 1 else None
        least, most = self._usd or (None, None)
        states = tally.states
        return AggregatedProgress(
            sequence=self._sequence,
            change=change,
            at=at,
            elapsed_s=elapsed_s,
            total_trials=max(self._limits.trials, sum(states.values())),  # or of earlier runs
            queued_trials=states[State.QUEUED],
            running_trials=states[State.RUNNING],
            completed_trials=states[State.COMPLETED],
            pruned_trials=states[State.PRUNED],
            failed_trials=states[State.FAILED],
            current_best_value=None if best is None else best.values[0],
            current_best_values=tally.ideal,
            current_best_params=None if best is None else best.params,
            best_trial=None if best is None else best.number,
            front=tuple(tally.front),
            estimated_time_remaining=None if estimate is None else estimate.remaining_s,
            estimated_time_interval=None if estimate is None else estimate.interval_s,
            trials_per_minute=_per_minute(tally.ended_here, elapsed_s),
            running=tuple(tally.running.values()),
            nonfinite_trials=tuple(sorted(tally.nonfinite)),
            failures=tuple(tally.causes.most_common()),
            requests=Requests(
                tally.submissions,
                tally.retries,
                tally.redeliveries,
                _per_minute(tally.submissions, elapsed_s),
            ),
            lanes=lanes,
            usd_at_least=least,
            usd_at_most=most,
            is_over=self._is_over,
            stopped=self._stopped,
        )

    def _estimate(
        self, at: float, elapsed_s: float, lanes: Sequence[LaneReading], *, may_be_aged: bool
    ) -> Estimate | None:
        last_at, last = self._estimated
        if may_be_aged and last is not None and 0 <= at - last_at < _ESTIMATE_AGE_S:
            return last
        found = self._fresh_estimate(at, elapsed_s, lanes)
        self._estimated = (at, found)
        return found

    def _fresh_estimate(
        self, at: float, elapsed_s: float, lanes: Sequence[LaneReading]
    ) -> Estimate | None:
        tally = self._tally
        left = max(0, self._limits.trials - tally.ended - len(tally.running))
        width = sum(lane.width for lane in lanes if lane.closed is None) if lanes else self._at_once
        # A lane may be given more than its place runs at once, so that its workers never wait.
        places = max(1, min(self._at_once, width, tally.most_running))
        begun = [one.as_begun(at) for one in tally.running.values()]
        found = tally.durations.estimate(begun, left, places)
        timeout_s = self._limits.timeout_s
        if found is None or timeout_s is None:
            return found
        most_s = max(0.0, timeout_s - elapsed_s)
        interval = found.interval_s and (
            min(found.interval_s[0], most_s),
            min(found.interval_s[1], most_s),
        )
        return Estimate(min(found.remaining_s, most_s), interval)

    def _spent_now(self) -> tuple[float, float] | None:
        if self._spent is None:
            return self._tally.usd
        try:
            spent = self._spent()
        except VisionDynoError:  # by which price isn't known
            return None
        return None if spent is None else (spent.usd_at_least, spent.usd_at_most)


def _per_minute(count: int, seconds: float) -> float | None:
    return 60 * count / seconds if seconds > 0 else None
