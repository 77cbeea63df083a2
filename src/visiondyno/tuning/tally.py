"""What a study's trials add up to, kept up to date with each change."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from visiondyno.job import JobEvent, JobState
from visiondyno.tuning.eta import DurationModel
from visiondyno.tuning.health import EpochHealth, HealthHistory
from visiondyno.tuning.objectives import Objective, dominates
from visiondyno.tuning.running import RunningTrial
from visiondyno.tuning.trial import State, TrialRecord


class StudyTally:
    """Sums over the trials of a study. Not for use from several threads.

    Attributes:
        states: how many trials are in each.
        causes: of failed trials.
        running: trials that run, by number.
        most_running: how many ran at once, at most; at least 1.
        nonfinite: numbers of trials in whose history something isn't finite.
        front: completed trials that no other one dominates, by number; with one objective the
            first of the best.
        ideal: the best of each objective by itself; empty before any.
        durations: of the trials.
        submissions, retries, redeliveries, ended_here: in this run of the study; see
            `progress.Requests`.
        usd: bounds of what ended trials cost; None where none told.

    Args:
        objectives: of the study.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.states = Counter[State]()
        self.causes = Counter[str]()
        self.running: dict[int, RunningTrial] = {}
        self.most_running = 1
        self.nonfinite: set[int] = set()
        self.front: list[TrialRecord] = []
        self.ideal: tuple[float, ...] = ()
        self.durations = DurationModel()
        self.submissions = self.retries = self.redeliveries = self.ended_here = 0
        self.usd: tuple[float, float] | None = None
        self._objectives = tuple(objectives)
        self._records: dict[int, TrialRecord] = {}
        self._health: dict[int, HealthHistory] = {}
        self._job_states: dict[int, JobState] = {}

    @property
    def ended(self) -> int:
        """How many trials have, those of earlier runs included."""
        return sum(count for state, count in self.states.items() if state.has_ended)

    def hear(self, number: int, event: JobEvent, at: float) -> None:
        """A trial's job said something, at this time."""
        before = self._job_states.get(number)
        self._job_states[number] = event.state
        if event.state is JobState.IN_QUEUE and before is JobState.IN_PROGRESS:
            self.redeliveries += 1
        said = event.progress
        if said is None:
            return
        if said.get("stage") == "epoch":
            epoch = self._health.setdefault(number, HealthHistory()).add(said)
            if epoch is not None and not epoch.is_finite:
                self.nonfinite.add(number)
        if number in self.running:
            self.running[number] = self.running[number].after(said, at, self._objectives)

    def health(self, number: int) -> tuple[EpochHealth, ...]:
        """The epochs of a trial, as far as they were told."""
        history = self._health.get(number)
        return () if history is None else history.epochs

    def take(self, record: TrialRecord, at: float, *, is_of_this_run: bool = True) -> None:
        """A trial's state has changed."""
        number = record.number
        before = self._records.get(number)
        if before is not None:
            self.states[before.state] -= 1
        self.states[record.state] += 1
        self._records[number] = record
        if is_of_this_run:
            self._count_attempts(record, 0 if before is None else before.attempts)
        ran = self.running.pop(number, None)
        if ran is not None and before is not None and _is_same_attempt(before, record):
            self.running[number] = replace(ran, params=record.params)
        elif record.state is State.RUNNING:
            self.running[number] = RunningTrial.begun(record, at)
            self.most_running = max(self.most_running, len(self.running))
            self._health.pop(number, None)
            self.nonfinite.discard(number)
        elif record.state.has_ended:
            self.ended_here += is_of_this_run
            self._take_end(record, ran)
        self._take_cost(record)

    def _count_attempts(self, record: TrialRecord, before: int) -> None:
        new = max(0, record.attempts - before)
        self.submissions += new
        self.retries += new - (1 if new and not before else 0)

    def _take_end(self, record: TrialRecord, ran: RunningTrial | None) -> None:
        if record.state is State.FAILED:
            cause = record.failures[-1].cause if record.failures else "not told"
            self.causes[cause] += 1
        elif record.state is State.COMPLETED:
            self._take_values(record)
        duration_s = record.duration_s
        if duration_s is None:
            return
        duration_s = max(0.0, duration_s)
        done_before = ran.done_before if ran else 0.0
        if record.state is State.COMPLETED:
            self.durations.add_completed(duration_s, done_before)
        elif record.state is State.PRUNED:
            done = ran.done if ran and ran.told_at is not None else None
            self.durations.add_pruned(duration_s, done, done_before)
        else:
            self.durations.add_failed(duration_s)

    def _take_values(self, record: TrialRecord) -> None:
        values = record.values
        pairs = zip(self._objectives, values, self.ideal or values, strict=True)
        self.ideal = tuple(v if o.is_better(v, best) else best for o, v, best in pairs)
        if any(dominates(self._objectives, one.values, values) for one in self.front):
            return
        if len(self._objectives) == 1 and self.front and self.front[0].values == values:
            return  # as good as the best, and later
        kept = [one for one in self.front if not dominates(self._objectives, values, one.values)]
        self.front = sorted([*kept, record], key=lambda one: one.number)

    def _take_cost(self, record: TrialRecord) -> None:
        if record.state.has_ended and record.cost is not None:
            least, most = self.usd or (0.0, 0.0)
            self.usd = (least + record.cost["usd_at_least"], most + record.cost["usd_at_most"])


def _is_same_attempt(before: TrialRecord, now: TrialRecord) -> bool:
    """Whether a trial runs as before, and was only suggested more parameters."""
    return now.state is State.RUNNING and now.attempts == before.attempts
