"""A study runs to its end, whatever its trials and lanes do."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tuning_cases import Clock, Notes, ScriptedBody, a_book, a_lane, score

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import (
    BudgetSpent,
    ChildDied,
    DatasetError,
    Diverged,
    StorageFull,
    TransportDown,
    Unauthorized,
    VisionDynoError,
)
from visiondyno.tuning.body import Body, Pruned, Result, Told
from visiondyno.tuning.book import Book
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.lanes import Lane, Lanes
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.trial import State, TrialRecord, trial_seed


def run(
    body: Body,
    limits: Limits,
    *,
    book: Book | None = None,
    lanes: list[Lane] | None = None,
    at_once: int = 2,
) -> tuple[StudyRunner, Book, Notes]:
    """A study over lanes whose pauses pass at once."""
    book = book or a_book()
    notes = Notes()

    async def main() -> StudyRunner:
        clock = Clock()
        made = lanes or [a_lane("here", at_once, clock)]
        for lane in made:
            lane._clock = clock  # one clock for all
        control = Lanes(made, at_once, sleep=clock.sleep)
        runner = StudyRunner(book, body, control, limits, [notes])
        await asyncio.wait_for(runner.run(), 60)
        return runner

    return asyncio.run(main()), book, notes


def states(book: Book) -> Counter[State]:
    return Counter(record.state for record in book.all())


def test_as_many_trials_as_were_asked_for_each_told_once() -> None:
    four = asyncio.Barrier(4)

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        await four.wait()
        return await score(record, client, told)

    body = ScriptedBody(act)
    runner, book, notes = run(body, Limits(20), at_once=4)
    assert runner.stopped is None
    assert states(book) == {State.COMPLETED: 20}
    assert [record.number for record in book.all()] == list(range(20))
    assert body.most_at_once == 4
    for number in range(20):
        told = [record.state for record in notes.told if record.number == number]
        assert told == [State.QUEUED, State.RUNNING, State.COMPLETED]
    best = max(record.values[0] for record in book.all())
    assert [record.values for record in book.best()] == [(best,)]
    record = book.all()[3]
    assert record.seed == trial_seed(0, 3)
    assert record.duration_s is not None


def test_one_at_a_time_the_same_seed_gives_the_same_study() -> None:
    def params() -> list[float]:
        _, book, _ = run(ScriptedBody(score), Limits(15), at_once=1)
        return [record.params["x"] for record in book.all()]

    assert params() == params()


def test_a_failed_trial_never_touches_another() -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number % 3 == 1:
            raise DatasetError(f"Image {record.params['x']} is broken.")
        return await score(record, client, told)

    runner, book, _ = run(ScriptedBody(act), Limits(9))
    assert runner.stopped is None
    assert states(book) == {State.COMPLETED: 6, State.FAILED: 3}
    failed = book.records[1]
    assert failed.attempts == 1, "the trial's own error isn't tried again"
    assert failed.failures[0].code == "bad_dataset"
    assert failed.values == ()


def test_the_same_cause_three_times_in_a_row_ends_the_study_with_that_cause() -> None:
    async def act(record: TrialRecord, *_: Any) -> Result:
        raise DatasetError(f"Label {record.number} is out of range.")

    runner, book, _ = run(ScriptedBody(act), Limits(50), at_once=1)
    assert len(book.records) == 3
    assert runner.stopped is not None
    assert "3 trials in a row failed by the same cause: Label 2 is out of range." in runner.stopped


def test_other_causes_or_a_success_between_them_do_not_end_it() -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number % 3 == 0:
            return await score(record, client, told)
        raise DatasetError("It is broken.")

    runner, book, _ = run(ScriptedBody(act), Limits(12), at_once=1)
    assert runner.stopped is None
    assert states(book) == {State.COMPLETED: 4, State.FAILED: 8}


def test_trainings_that_diverge_do_not_end_the_study() -> None:
    async def act(record: TrialRecord, *_: Any) -> Result:
        raise Diverged("The loss is inf in epoch 1.")

    runner, book, _ = run(ScriptedBody(act), Limits(9), at_once=1)
    assert runner.stopped is None
    assert states(book) == {State.FAILED: 9}


@pytest.mark.parametrize("error", [TransportDown("Gone."), ChildDied("It was killed.")])
def test_what_a_lane_fails_is_tried_again_elsewhere(error: VisionDynoError) -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.lane == "bad":
            raise error
        return await score(record, client, told)

    body = ScriptedBody(act)
    lanes = [a_lane("bad", 2), a_lane("good", 2)]
    runner, book, _ = run(body, Limits(12), lanes=lanes, at_once=3)
    assert runner.stopped is None
    assert states(book) == {State.COMPLETED: 12}
    assert {record.lane for record in book.all()} == {"good"}
    again = [record for record in book.all() if record.failures]
    assert again, "the bad lane was tried"
    for record in again:
        assert record.attempts == 1 + len(record.failures)
        assert {failure.where for failure in record.failures} == {"bad"}
    assert lanes[0].reading().failures == {error.code: len(body.ran) - 12}
    assert lanes[0].width == 1


def test_a_lane_that_lets_nobody_in_is_closed_and_its_trials_go_elsewhere() -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.lane == "locked":
            raise Unauthorized("The key isn't taken.")
        return await score(record, client, told)

    body = ScriptedBody(act)
    lanes = [a_lane("locked", 1), a_lane("open", 1)]
    _, book, _ = run(body, Limits(6), lanes=lanes)
    assert states(book) == {State.COMPLETED: 6}
    assert Counter(lane for _, lane in body.ran) == {"locked": 1, "open": 6}


def test_without_a_lane_left_the_study_ends_and_loses_nothing() -> None:
    async def act(*_: Any) -> Result:
        raise Unauthorized("The key isn't taken.")

    runner, book, _ = run(ScriptedBody(act), Limits(6))
    assert runner.stopped == "No place takes trials any more. here: The key isn't taken."
    assert not any(record.state.has_ended for record in book.all()), "they can be gone on with"


def test_a_trial_that_every_lane_fails_fails_after_its_attempts() -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number == 0:
            raise TransportDown("Gone.")
        return await score(record, client, told)

    runner, book, _ = run(ScriptedBody(act), Limits(3, max_attempts=3), at_once=1)
    assert runner.stopped is None
    assert book.records[0].state is State.FAILED
    assert book.records[0].attempts == 3
    assert len(book.records[0].failures) == 3


def test_a_spent_budget_ends_the_study() -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number >= 2:
            raise BudgetSpent("The next job could pass the limit of 1 USD.")
        return await score(record, client, told)

    runner, book, _ = run(ScriptedBody(act), Limits(30), at_once=1)
    assert runner.stopped == "The next job could pass the limit of 1 USD."
    assert states(book) == {State.COMPLETED: 2, State.QUEUED: 1}, "it can be gone on with"


def test_trials_that_are_all_too_dear_do_not_wake_each_other_for_ever() -> None:
    asked: list[int] = []
    begun = [asyncio.Event() for _ in range(60)]

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        mine = len(asked)
        asked.append(record.number)
        begun[mine].set()
        assert mine < 50, "it goes round in circles"
        if mine < 2:  # refused while another one is being asked for
            await begun[mine + 1].wait()
        for _ in range(100):
            await asyncio.sleep(0)
            if begun[mine + 1].is_set():
                break
        raise BudgetSpent("The next job could pass the limit of 1 USD.")

    runner, book, _ = run(ScriptedBody(act), Limits(8))
    assert runner.stopped == "The next job could pass the limit of 1 USD."
    assert asked == [0, 1, 2]
    assert states(book) == {State.QUEUED: 3}


def test_a_pruned_trial_has_no_value_and_keeps_its_reports() -> None:
    class Never:
        def take_up(self, record: TrialRecord) -> None:
            raise AssertionError("there was no earlier run")

        def reason(self, trial: Any, step: int, values: Any) -> str | None:
            return f"Step {step} promises nothing." if step == 2 else None

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        for step in (1, 2, 3):
            why = told.report(step, (step / 10,))
            if why:
                raise Pruned(why)
        return await score(record, client, told)

    _, book, _ = run(ScriptedBody(act), Limits(2), book=a_book(pruner=Never()))
    assert states(book) == {State.PRUNED: 2}
    record = book.records[0]
    assert record.reports == {1: (0.1,), 2: (0.2,)}
    assert record.measured["pruned"] == "Step 2 promises nothing."
    assert record.values == ()


def test_a_hung_trial_is_ended_at_its_limit_and_the_others_go_on() -> None:
    ended = []

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number == 1:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(record.number)
        return await score(record, client, told)

    limits = Limits(5, trial_timeout_s=0.05, grace_s=0.0)
    _, book, _ = run(ScriptedBody(act), limits)
    assert ended == [1]
    assert states(book) == {State.COMPLETED: 4, State.FAILED: 1}
    assert book.records[1].failures[0].code == "time_limit"


def test_a_study_that_is_out_of_time_stops_what_runs(tmp_path: Path) -> None:
    stopped = []

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number < 3:
            return await score(record, client, told)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(record.number)
        raise AssertionError("it was cancelled")

    journal = Journal.begin(tmp_path / "study", {"seed": 0})
    body = ScriptedBody(act)
    runner, book, _ = run(body, Limits(9, timeout_s=3.0), book=a_book(journal=journal))
    assert runner.stopped == "Its time limit of 3 s was over."
    assert sorted(stopped) == [3, 4]
    assert not body.now
    book.close()
    opened, _, kept = Journal.go_on(tmp_path / "study")
    again = a_book(journal=opened)
    again.take_up(kept)
    _, again, _ = run(ScriptedBody(score), Limits(9), book=again)
    assert states(again) == {State.COMPLETED: 9}
    for number in range(len(book.records)):
        assert again.records[number].params == book.records[number].params
        assert again.records[number].seed == book.records[number].seed
    again.close()


def test_a_journal_that_cannot_be_written_ends_the_study_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.begin(tmp_path / "study", {"seed": 0})
    write = journal.write

    def full(kind: str, fields: Any, *, is_final: bool = True) -> None:
        if is_final and fields["trial"]["number"] == 2:
            raise StorageFull("No space is left.")
        write(kind, fields, is_final=is_final)

    monkeypatch.setattr(journal, "write", full)
    with pytest.raises(StorageFull, match="No space"):
        run(ScriptedBody(score), Limits(9), book=a_book(journal=journal))
    journal.close()
