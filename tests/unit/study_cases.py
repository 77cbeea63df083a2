"""Studies in simulated time, told to a progress board as a runner would."""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from visiondyno.job import JobEvent, JobState
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.progress import ProgressBoard
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State, TrialRecord

ACCURACY = parse_objectives(["val_accuracy"])


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass(frozen=True)
class Plan:
    """What a simulated trial will do: how long a whole one takes, and after which part it ends."""

    whole_s: float
    part: float = 1.0
    state: State = State.COMPLETED
    epochs: int = 10

    @property
    def duration_s(self) -> float:
        return self.whole_s * self.part


@dataclass
class Simulation:
    """A study on so many places; `step` does the next thing that happens."""

    plans: Sequence[Plan]
    places: int
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.board = ProgressBoard(ACCURACY, Limits(len(self.plans)), self.places, now=self.clock)
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._next = 0
        for _ in range(min(self.places, len(self.plans))):
            self._begin()

    def run_until(self, at: float) -> None:
        """Let everything happen up to then."""
        while self._due and self._due[0][0] <= at:
            self.clock.at, _, action = heapq.heappop(self._due)
            action()
        self.clock.at = at

    @property
    def end(self) -> float:
        """When the last trial ends, in the clock's seconds."""
        free = [self.clock.at] * self.places
        heapq.heapify(free)
        last = self.clock.at
        for plan in self.plans:
            at = heapq.heappop(free) + plan.duration_s
            last = max(last, at)
            heapq.heappush(free, at)
        return last

    def _begin(self) -> None:
        number, plan = self._next, self.plans[self._next]
        self._next += 1
        begun = trial(number, State.RUNNING, started_at=self.clock.at, attempts=1)
        self.board.on_trial(trial(number))
        self.board.on_trial(begun)
        for epoch in range(1, math.floor(plan.epochs * plan.part + 1e-9) + 1):
            at = self.clock.at + plan.whole_s * epoch / plan.epochs
            self._at(at, lambda e=epoch: self.board.on_event(number, epoch_event(e, plan.epochs)))
        self._at(self.clock.at + plan.duration_s, lambda: self._end(begun, plan))

    def _end(self, begun: TrialRecord, plan: Plan) -> None:
        self.board.on_trial(
            begun.with_(
                state=plan.state,
                ended_at=self.clock.at,
                values=(0.5,) if plan.state is State.COMPLETED else (),
                failures=(Failure("x", "It failed.", "here"),) * (plan.state is State.FAILED),
            )
        )
        if self._next < len(self.plans):
            self._begin()

    def _at(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), action))


def trial(number: int, state: State = State.QUEUED, **fields: object) -> TrialRecord:
    """A trial's record."""
    return TrialRecord(number, 7 * number, {"x": number}, state, lane="here").with_(**fields)


def epoch_event(epoch: int, epochs: int = 10, **fields: object) -> JobEvent:
    """What a training tells at the end of an epoch."""
    said = {
        "stage": "epoch",
        "epoch": epoch,
        "epochs": epochs,
        "train_metrics": {"loss": 1 / epoch, "accuracy": 0.1 * epoch},
        "val_metrics": {"loss": 2 / epoch, "accuracy": 0.05 * epoch},
        **fields,
    }
    return told(said, number=epoch)


def told(said: dict[str, object], number: int = 1) -> JobEvent:
    """An event with this progress."""
    return JobEvent(job_id="job", number=number, state=JobState.IN_PROGRESS, progress=said)


def a_board(trials: int = 4, **more: Any) -> ProgressBoard:
    """A board of a study of so many trials."""
    return ProgressBoard(
        more.pop("objectives", ACCURACY),
        more.pop("limits", Limits(trials)),
        more.pop("at_once", 4),
        now=more.pop("now", Clock()),
        **more,
    )


def end(board: ProgressBoard, number: int, *values: float, **more: Any) -> None:
    """Tell the board that a trial ended with these values."""
    board.on_trial(
        trial(
            number,
            more.pop("state", State.COMPLETED),
            started_at=1000.0,
            ended_at=1010.0,
            values=values,
            **more,
        )
    )
