"""One job of a RunPod endpoint as events: what was seen of it, in order and numbered here."""

import asyncio
import math

from visiondyno.executors.runpod_wire import JobStatus
from visiondyno.executors.server_wire import Json
from visiondyno.job import JobAnswer, JobEvent, JobState

_SHORTEST_PAUSE_S = 0.02
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PAUSE_GROWTH = 1.5
_SHARE_OF_AGE = 0.2
_PAUSE_FOR_EACH_S = 0.01
"""Half of RunPod's quota, 200 requests of a kind in a second, for the looks of one executor."""


class SeenJob:
    """A job's events so far.

    Attributes:
        id: what it is called here.
        theirs: what the endpoint calls it.
        events: numbered 1, 2, 3 …
        pending: what a stream gave that has ended, to be told before the job's own end.
        pause_s: how long to wait before the next look; grows while nothing happens.
        looking: the look that is under way, for all who watch.
        received_bytes: of all answers about it.
        began_s: when it was first looked at, by the executor's clock.
        ended_s: when its end was seen; infinity before.
    """

    def __init__(self, job_id: str, theirs: str, began_s: float) -> None:
        self.id = job_id
        self.theirs = theirs
        self.events: list[JobEvent] = []
        self.pending: list[Json] = []
        self.pause_s = 0.0
        self.looking: asyncio.Task[None] | None = None
        self.received_bytes = 0
        self.began_s = began_s
        self.ended_s = math.inf

    @property
    def state(self) -> JobState | None:
        """Where it stands; None before the first look."""
        return self.events[-1].state if self.events else None

    @property
    def has_ended(self) -> bool:
        """Whether its terminal event is there."""
        return self.state is not None and self.state.is_terminal

    def become(self, state: JobState) -> None:
        """Note a state that isn't the end; a job was queued before anything else."""
        if self.state is None:
            self._add(JobState.IN_QUEUE)
        if state != self.state:
            self._add(state)

    def tell(self, items: list[Json]) -> None:
        """Note what the operation said."""
        for item in items:
            self.become(JobState.IN_PROGRESS)
            self._add(JobState.IN_PROGRESS, progress=item)

    def end(self, status: JobStatus) -> None:
        """Note how it ended, after what is pending."""
        told = [event.progress for event in self.events if event.progress is not None]
        answer = status.answer(self.id, told + self.pending)
        if self.pending and self.pending[-1] == answer.output:
            self.pending.pop()  # a stream ends with the output
        self.become(JobState.IN_PROGRESS if status.has_run else self.state or JobState.IN_QUEUE)
        self.tell(self.pending)
        self.pending = []
        self._add(status.state, answer=answer)

    def plan_next_look(self, seen_before: int, *, age_s: float, followed: int) -> None:
        """Look again soon where something happened, and less and less often where nothing does.

        A job that has just come may end at once, so it is looked at more often than one that has
        gone on for half a second; and each job the less, the more of them there are.

        Args:
            seen_before: how many events there were before the last look.
            age_s: since the first look.
            followed: jobs that are looked at just now, this one counted.
        """
        soon_s = min(_FIRST_PAUSE_S, max(_SHORTEST_PAUSE_S, age_s * _SHARE_OF_AGE))
        is_quiet = len(self.events) == seen_before and soon_s == _FIRST_PAUSE_S
        grown_s = self.pause_s * _PAUSE_GROWTH if is_quiet else 0.0
        least_s = max(soon_s, followed * _PAUSE_FOR_EACH_S)
        self.pause_s = min(_LONGEST_PAUSE_S, max(least_s, grown_s))

    def _add(
        self, state: JobState, *, progress: Json | None = None, answer: JobAnswer | None = None
    ) -> None:
        number = len(self.events) + 1
        self.events.append(
            JobEvent(job_id=self.id, number=number, state=state, progress=progress, answer=answer)
        )
