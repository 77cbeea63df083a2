"""Random histories of jobs, held against the rules of `JobStore.record`.

Executors live a job's dispatches; two servers watch them, each from where it stands, late, twice,
and after the job was put elsewhere.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from visiondyno.job import LEGAL_MOVES, JobAnswer, JobError, JobEvent, JobRequest, JobState
from visiondyno.store.base import JobStore, Store
from visiondyno.store.records import JobKind, NewJob, Observed, RecordedEvent

MAY_BE_REPEATED = {JobState.FAILED, JobState.TIMED_OUT}
_NUMBERS = count()
_POOL = ThreadPoolExecutor(2)


def terminal_answer(job_id: str, state: JobState) -> JobAnswer | None:
    if not state.is_terminal:
        return None
    if state is JobState.COMPLETED:
        return JobAnswer(id=job_id, status=state, output={"of": job_id})
    return JobAnswer(id=job_id, status=state, error=JobError(code="x", message=job_id))


class Executor:
    """What really happened to one dispatch of a job."""

    def __init__(self, job_id: str, dispatch: int) -> None:
        self.job_id = job_id
        self.dispatch = dispatch
        self.events: list[Observed] = []
        self.append(JobState.IN_QUEUE)

    @property
    def state(self) -> JobState:
        return self.events[-1].event.state

    def append(self, state: JobState, progress: int | None = None) -> None:
        transport_id = f"{self.job_id}.{self.dispatch}"
        number = len(self.events) + 1
        event = JobEvent(
            job_id=transport_id,
            number=number,
            state=state,
            progress=None if progress is None else {"of": transport_id, "step": progress},
            answer=terminal_answer(transport_id, state),
        )
        self.events.append(Observed(self.job_id, self.dispatch, event, float(number)))


class Recording(RuleBasedStateMachine):
    """One job in a database that many examples share; each server has its own connections."""

    store: JobStore
    other_store: JobStore

    @initialize()
    def submit(self) -> None:
        self.id = f"machine-{next(_NUMBERS)}"
        request = JobRequest(input={})
        self.store.add([NewJob(self.id, "default", JobKind.RUN, request, created_at=0.5)])
        self.executors = [Executor(self.id, 1)]
        self.told: list[RecordedEvent] = []
        self.repeats = 0

    @property
    def executor(self) -> Executor:
        return self.executors[-1]

    @rule(data=st.data())
    def executor_moves(self, data: st.DataObject) -> None:
        legal = sorted(LEGAL_MOVES[self.executor.state])
        if legal:
            self.executor.append(data.draw(st.sampled_from(legal)))

    @rule()
    def executor_tells_progress(self) -> None:
        if self.executor.state is JobState.IN_PROGRESS:
            self.executor.append(JobState.IN_PROGRESS, progress=len(self.executor.events))

    @rule(data=st.data())
    def a_server_sees_all_so_far(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self._row().seen))
        self._record([self.executor.events[start:]])
        row = self._row()
        if row.dispatch == self.executor.dispatch and not row.state.is_terminal:
            assert row.state is self.executor.state, "nothing is lost"
            assert row.seen == len(self.executor.events)

    @rule(cuts=st.tuples(st.integers(1, 6), st.integers(1, 6)))
    def two_servers_see_at_once(self, cuts: tuple[int, int]) -> None:
        seen = self._row().seen
        self._record([self.executor.events[: seen + cut] for cut in cuts])

    @rule(data=st.data())
    def a_late_server_sees_an_old_dispatch(self, data: st.DataObject) -> None:
        stale = data.draw(st.sampled_from(self.executors))
        before = self._row()
        self._record([stale.events])
        if stale is not self.executor:
            assert self._row() == before, "a stale dispatch writes nothing"

    @rule(state=st.sampled_from(JobState), ahead=st.integers(1, 3))
    def nonsense_is_dropped(self, state: JobState, ahead: int) -> None:
        row = self._row()
        if row.state.is_terminal or (state is not row.state and not row.state.may_become(state)):
            event = JobEvent(
                job_id="x",
                number=row.seen + ahead,
                state=state,
                progress={"nonsense": True},
                answer=terminal_answer("x", state),
            )
            assert self.store.record([Observed(self.id, row.dispatch, event, 1.0)]) == []
            assert self._row() == row

    @rule(data=st.data())
    def the_transport_lost_it(self, data: st.DataObject) -> None:
        before = self._row()
        lost = data.draw(st.integers(1, before.dispatch))
        done = self.store.put_back(self.id, lost)
        possible = not before.state.is_terminal and lost == before.dispatch
        assert (done is not None) == possible
        if done is not None:
            assert (done.state, done.dispatch, done.seen) == (JobState.IN_QUEUE, lost + 1, 0)
            self.executors.append(Executor(self.id, done.dispatch))

    @rule()
    def the_user_tries_again(self) -> None:
        before = self._row()
        done = self.store.retry(self.id, at=2.0)
        assert (done is not None) == (before.state in MAY_BE_REPEATED)
        if done is not None:
            assert done.first_number == done.last_number == before.last_number + 1
            self.repeats += 1
            self.executors.append(Executor(self.id, done.dispatch))

    @rule(state=st.sampled_from([JobState.CANCELLED, JobState.TIMED_OUT]))
    def it_ends_unsent(self, state: JobState) -> None:
        before = self._row()
        ended = self.store.end_unsent(self.id, state, "x", "Ended.", at=3.0)
        assert (ended is not None) == (before.state is JobState.IN_QUEUE)

    @rule()
    def the_user_cancels(self) -> None:
        assert self.store.request_cancel(self.id) is not None

    @invariant()
    def the_history_is_whole(self) -> None:
        if not hasattr(self, "id"):
            return
        row = self._row()
        events = [one.event for one in self.store.events(self.id)]
        assert [event.number for event in events] == list(range(1, row.last_number + 1))
        assert [event.state.is_terminal for event in events] == [
            event.answer is not None for event in events
        ]
        repeats = 0
        for one, other in pairwise(events):
            if one.state.is_terminal:
                assert one.state in MAY_BE_REPEATED
                assert other.state is JobState.IN_QUEUE
                repeats += 1
            else:
                assert other.state is one.state or one.state.may_become(other.state)
        assert repeats == self.repeats
        told_progress = [str(event.progress) for event in events if event.progress is not None]
        assert len(set(told_progress)) == len(told_progress), "each progress is recorded once"
        assert (row.state, row.answer) == (events[-1].state, events[-1].answer)
        assert (row.ended_at is not None) == row.state.is_terminal
        starts = [
            other
            for one, other in pairwise(events)
            if other.state is JobState.IN_PROGRESS is not one.state
        ]
        assert row.attempts == len(starts)
        numbers = [one.event.number for one in self.told]
        assert len(set(numbers)) == len(numbers), "each event is told of once"
        by_number = {event.number: event for event in events}
        assert all(by_number[one.event.number] == one.event for one in self.told)

    def _row(self):  # type: ignore[no-untyped-def]
        row = self.store.get(self.id)
        assert row is not None
        return row

    def _record(self, batches: Iterable[list[Observed]]) -> None:
        servers = (self.store.record, self.other_store.record)
        for recorded in _POOL.map(lambda record, batch: record(batch), servers, batches):
            self.told += recorded


def check_recording(store: Store, other: Store) -> None:
    """Run random histories against two stores on one database."""
    machine = type("Machine", (Recording,), {"store": store.jobs, "other_store": other.jobs})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
