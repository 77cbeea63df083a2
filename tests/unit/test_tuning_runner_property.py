"""Whatever trials, lanes and interrupts do: every trial is told once, and none is lost."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tuning_cases import Clock, Notes, ScriptedBody, a_book, a_lane, score

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import (
    BudgetSpent,
    ChildDied,
    DatasetError,
    Diverged,
    OperationFailed,
    RateLimited,
    TransportDown,
    Unauthorized,
)
from visiondyno.tuning.body import Pruned, Result, Told
from visiondyno.tuning.book import Book
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.lanes import Lanes
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.trial import State, TrialRecord

ERRORS = {
    "broken": DatasetError("It is broken."),
    "diverged": Diverged("Not finite."),
    "down": TransportDown("Gone."),
    "died": ChildDied("Killed."),
    "gone": OperationFailed("job timed out after 1 retries"),
    "busy": RateLimited("Later.", 0.5),
    "locked": Unauthorized("No."),
    "spent": BudgetSpent("No more."),
}
USUAL = ["well", "well", "well", "pruned", "nan", "broken", "diverged", "down", "died", "busy"]
ACTS = st.lists(st.sampled_from([*USUAL, "gone", "locked", "spent"]), min_size=1, max_size=40)


@dataclass
class Plan:
    """What the attempts do, one after another, and who ends the study when."""

    acts: list[str]
    trials: int
    capacities: list[int]
    at_once: int
    reserve: bool
    cancel_after: int | None


PLANS = st.builds(
    Plan,
    ACTS,
    st.integers(1, 16),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 5),
    st.booleans(),
    st.none() | st.integers(0, 40),
)


def body_of(plan: Plan) -> ScriptedBody:
    begun = 0

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        nonlocal begun
        begun += 1
        what = plan.acts[begun % len(plan.acts)]
        for _ in range(begun % 4):
            await asyncio.sleep(0)
        told.report(1, (float(begun),))
        if what == "pruned":
            raise Pruned("It promises nothing.")
        if what in ERRORS:
            raise ERRORS[what]
        if what == "nan":
            return Result(values=(float("nan"),))
        return await score(record, client, told)

    return ScriptedBody(act)


def run_plan(plan: Plan, book: Book, *, goes_well: bool = False) -> tuple[ScriptedBody, Any]:
    """The study, cancelled after so many turns where the plan says so."""
    body = ScriptedBody(score) if goes_well else body_of(plan)
    notes = Notes()
    clock = Clock()
    lanes = [a_lane(f"lane {n}", c, clock) for n, c in enumerate(plan.capacities)]
    if plan.reserve:
        lanes.append(a_lane("reserve", 2, clock, is_reserve=True))

    async def main() -> None:
        control = Lanes(lanes, plan.at_once, sleep=clock.sleep)
        study = StudyRunner(book, body, control, Limits(plan.trials), [notes])
        task = asyncio.create_task(study.run())
        if plan.cancel_after is not None and not goes_well:
            for _ in range(plan.cancel_after):
                await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 60)
        assert ended[0] is None or isinstance(ended[0], asyncio.CancelledError), ended

    asyncio.run(main())
    for lane in lanes:
        reading = lane.reading()
        assert reading.running == 0
        assert 1 <= reading.width <= reading.capacity
    assert body.most_at_once <= min(plan.at_once, sum(lane.capacity for lane in lanes))
    return body, notes


def adds_up(plan: Plan, book: Book, body: ScriptedBody, notes: Notes) -> None:
    records = book.all()
    assert [record.number for record in records] == list(range(len(records)))
    assert len(records) <= plan.trials
    assert not body.now, "nothing runs on"
    ran = Counter(number for number, _ in body.ran)
    for record in records:
        states = [told.state for told in notes.told if told.number == record.number]
        if states:  # one that was asked for in the very end is only in the journal
            assert states[-1] is record.state, "the last that is told is how it stands"
        assert sum(state.has_ended for state in states) == record.state.has_ended, "told once"
        assert record.state is not State.RUNNING
        if record.state.has_ended:
            assert record.attempts == ran[record.number]
            assert record.attempts == len(record.failures) + (record.state is not State.FAILED)
        else:
            assert 0 <= record.attempts - ran[record.number] <= 1  # one may not have begun


@settings(max_examples=40, deadline=None)
@given(PLANS)
def test_every_trial_is_told_once_and_none_is_lost_also_over_a_restart(plan: Plan) -> None:
    with TemporaryDirectory() as folder:
        journal = Journal.begin(Path(folder) / "study", {"seed": 0})
        first = a_book(journal=journal)
        adds_up(plan, first, *run_plan(plan, first))
        first.close()
        opened, _, kept = Journal.go_on(Path(folder) / "study")
        second = a_book(journal=opened)
        second.take_up(kept)
        body, _ = run_plan(plan, second, goes_well=True)
        second.close()
    assert [record.number for record in second.all()] == list(range(plan.trials))
    ran = Counter(number for number, _ in body.ran)
    for record in second.all():
        before = first.records.get(record.number)
        assert record.state.has_ended
        if before is not None:
            assert (record.params, record.seed) == (before.params, before.seed)
        if before is not None and before.state.has_ended:
            assert record == before
            assert ran[record.number] == 0, "what had ended isn't run again"
        else:
            assert ran[record.number] == 1
