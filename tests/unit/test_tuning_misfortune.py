"""What happens to a study at the seams of its parts: in haste, short of money, after an edit."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tuning_cases import Clock, NoPlace, ScriptedBody, a_book, a_lane, score

from visiondyno.client.async_client import AsyncClient
from visiondyno.errors import (
    BudgetSpent,
    ChildDied,
    Diverged,
    OperationFailed,
    RateLimited,
    SpecError,
    TransportDown,
    VisionDynoError,
)
from visiondyno.places import Place
from visiondyno.tuning.body import JobBody, Result, Told
from visiondyno.tuning.book import Book
from visiondyno.tuning.function_study import FunctionStudy
from visiondyno.tuning.lanes import Lanes
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.trial import State, TrialRecord


class Unbegun(ScriptedBody):
    """One whose trials a worker has only once they say so."""

    async def run(self, record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        return await self._act(record, client, told)


def runner_of(body: ScriptedBody, limits: Limits, at_once: int) -> tuple[StudyRunner, Book]:
    clock, book = Clock(), a_book()
    lanes = Lanes([a_lane("here", at_once, clock)], at_once, sleep=clock.sleep)
    return StudyRunner(book, body, lanes, limits), book


def test_trials_that_cost_too_much_while_others_run_wait_for_these() -> None:
    # Twelve trials of 1; the limit pays for all, but only for two whose most, 5, is set aside.
    left, set_aside = 20.0, 0.0

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        nonlocal left, set_aside
        if set_aside + 5 > left:
            raise BudgetSpent("The next job could pass the limit.")
        set_aside += 5
        told.started(None)
        await asyncio.sleep(0)
        set_aside -= 5
        left -= 1
        return await score(record, client, told)

    async def main() -> Book:
        runner, book = runner_of(Unbegun(act), Limits(12), 8)
        await asyncio.wait_for(runner.run(), 30)
        assert runner.stopped is None
        return book

    book = asyncio.run(main())
    assert {record.state for record in book.all()} == {State.COMPLETED}
    assert {record.attempts for record in book.all()} == {1}


def test_a_limit_of_cost_lets_trials_end_that_are_paid_for() -> None:
    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number >= 3:
            raise BudgetSpent("The next job could pass the limit.")
        for _ in range(20):
            await asyncio.sleep(0)
        return await score(record, client, told)

    async def main() -> None:
        runner, book = runner_of(ScriptedBody(act), Limits(9), 4)
        await asyncio.wait_for(runner.run(), 30)
        assert runner.stopped == "The next job could pass the limit."
        done = [record.number for record in book.all() if record.state is State.COMPLETED]
        assert done == [0, 1, 2]

    asyncio.run(main())


@pytest.mark.parametrize("trial_timeout_s", [None, 0.01])
def test_who_is_in_a_hurry_cuts_no_trial_short_at_its_end(trial_timeout_s: float | None) -> None:
    async def main() -> None:
        ending, may_end, ended = asyncio.Event(), asyncio.Event(), []

        async def act(record: TrialRecord, *_: Any) -> Result:
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await may_end.wait()  # as for a job to be cancelled
                ended.append(record.number)
            return Result()

        limits = Limits(1, trial_timeout_s=trial_timeout_s, grace_s=0.0)
        runner, _ = runner_of(ScriptedBody(act), limits, 1)
        study = asyncio.create_task(runner.run())
        while not runner._attempts:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        if trial_timeout_s is None:
            study.cancel()
        await ending.wait()
        for _ in range(3):
            study.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert not study.done()
        may_end.set()
        with contextlib.suppress(asyncio.CancelledError):
            await study
        assert ended == [0]

    asyncio.run(main())


@pytest.mark.parametrize("error", [Diverged("The loss is inf."), SpecError("No such kernel.")])
def test_what_a_trial_asked_for_speaks_against_no_worker(error: VisionDynoError) -> None:
    assert quarantined_by(error) == []


def test_what_a_worker_did_speaks_against_it() -> None:
    assert quarantined_by(OperationFailed("CUDA error: unspecified launch failure.")) == ["one"]


def quarantined_by(error: VisionDynoError) -> list[str]:
    told: list[str] = []

    class Workers(NoPlace):
        async def quarantine(self, worker: str) -> None:
            told.append(worker)

    class Body(ScriptedBody):
        def result_so_far(self, number: int) -> Result:
            return Result(worker_id="two" if number % 3 == 2 else "one")

    async def act(record: TrialRecord, client: AsyncClient, told: Told) -> Result:
        if record.number % 3 == 2:
            return await score(record, client, told)
        raise error

    async def main() -> None:
        clock = Clock()
        lane = a_lane("here", 1, clock, session=Workers())
        runner = StudyRunner(a_book(), Body(act), Lanes([lane], 1, sleep=clock.sleep), Limits(12))
        await asyncio.wait_for(runner.run(), 30)
        assert runner.stopped is None

    asyncio.run(main())
    return told


def test_while_a_dead_endpoint_rests_its_reserve_is_used_to_its_width() -> None:
    clock = Clock()
    endpoint, reserve = a_lane("there", 4, clock), a_lane("here", 4, clock, is_reserve=True)
    lanes = Lanes([endpoint, reserve], 4)
    for _ in range(4):
        endpoint.failed(TransportDown("It is down."))
    assert lanes.width == 4
    clock.now_s += 1000
    assert lanes.width == 1, "it is tried again first"


def test_a_shorter_pause_takes_back_none_that_was_asked_for() -> None:
    clock = Clock()
    lane = a_lane(clock=clock)
    lane.failed(RateLimited("Too many.", retry_after_s=100.0))
    lane.failed(ChildDied("It died."))
    clock.now_s = 99.0
    assert lane.is_out
    lane.failed(RateLimited("Too many.", retry_after_s=float("inf")))
    clock.now_s = 99.0 + 3700.0
    assert not lane.is_out, "nobody is waited for forever"


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"history": []},
        {"history": [{"epoch": "last"}]},
        {"history": [{"epoch": 1, "train_metrics": None}]},
        {"history": [{"epoch": 1, "train_metrics": {}, "val_metrics": {"accuracy": "high"}}]},
        {"history": 3},
    ],
)
def test_an_answer_of_another_shape_fails_its_trial_alone(output: dict[str, Any]) -> None:
    class Answers:
        async def run(self, *_: Any, **__: Any) -> dict[str, Any]:
            return output

    body = JobBody(parse_objectives(["val_accuracy"]), lambda _: {"operation": "train"})
    client: Any = Answers()
    with pytest.raises(VisionDynoError, match=r"version of this client|gives no 'val_accuracy'"):
        asyncio.run(body.run(TrialRecord(0, 0, {}), client, NobodyListens()))


class NobodyListens:
    def started(self, job_id: str | None) -> None:
        pass

    def suggest(self, name: str, draw: Any) -> Any:
        raise AssertionError(name)

    def event(self, event: Any) -> None:
        pass

    def report(self, step: int, values: Any) -> str | None:
        return None


def one(trial: Any) -> float:
    return float(trial.suggest_float("x", 0, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", []),
        ("values", ["high"]),
        ("values", []),
        ("values", [1, 2]),
        ("started_at", "noon"),
        ("ended_at", 10**400),
        ("asked_at", float("inf")),
        ("lane", [1]),
        ("cost", {}),
        ("cost", {"usd_at_least": 0, "usd_at_most": float("nan")}),
        ("reports", {"first": [1]}),
    ],
)
def test_a_journal_edited_by_hand_is_refused_with_a_sentence(
    tmp_path: Path, field: str, value: Any
) -> None:
    spec = {"trials": 1, "objectives": ["x:maximize"], "sampler": "random"}
    FunctionStudy(one, spec, Place("inline"), folder=tmp_path).run()
    path = tmp_path / "study.jsonl"
    *before, last = path.read_text().splitlines()
    edited = json.loads(last)
    edited["trial"][field] = value
    path.write_text("\n".join([*before, json.dumps(edited), ""]))
    with pytest.raises(SpecError, match="can't be gone on with"):
        FunctionStudy(one, {"trials": 2}, Place("inline"), folder=tmp_path, resume=True).run()
