"""What a study takes of a trial's job: values, measurements, cost."""

from pathlib import Path
from typing import Any

import pytest
from body_cases import (
    BETTER,
    GOOD,
    JOULES,
    Heard,
    Json,
    Operation,
    body_of,
    epochs,
    scripted,
    tried,
)

from visiondyno.errors import OperationFailed, SpecError, Unavailable, VisionDynoError
from visiondyno.executors.cost import Cost
from visiondyno.executors.inline import InlineExecutor
from visiondyno.operations.context import OperationContext
from visiondyno.probes.cost import Price
from visiondyno.tuning.body import Result

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


def test_values_come_from_the_output_and_are_numbers() -> None:
    result = tried(
        body_of("val_accuracy", "val_loss"), Heard(), scripted(GOOD, BETTER, notes=["n"])
    )
    assert result.values == (0.8, 0.6)
    assert result.measured["notes"] == ["n"]
    own = body_of("mine:maximize", values_of=lambda output: [output["score"]])
    result = tried(own, Heard(), InlineExecutor(lambda job, context: {"score": 3}))
    assert result.values == (3.0,)
    assert result.measured == {}


def test_an_epoch_without_one_of_the_objectives_is_no_report() -> None:
    heard = Heard()
    without = {"train_metrics": {"loss": 0.5}}
    result = tried(
        body_of("train_loss", "val_loss"), heard, scripted(without, GOOD, without, BETTER)
    )
    assert heard.reports == [(2, (0.5, 0.7)), (4, (0.4, 0.6))]
    assert result.values == (0.4, 0.6)


def test_energy_counts_from_the_first_epoch_on() -> None:
    heard = Heard()
    place = scripted(GOOD, BETTER, measurements={"energy_joules": JOULES})
    result = tried(body_of("val_loss", "energy_joules"), heard, place)
    assert heard.reports == [(1, (0.7, 0.5)), (2, (0.6, 0.5))]
    assert result.values == (0.6, 0.5)
    assert result.measured["measurements"] == {"energy_joules": JOULES}


def test_an_estimate_is_refused_before_the_first_epoch_unless_it_is_allowed() -> None:
    estimate = {"energy_joules": JOULES | {"estimated": True}}
    heard = Heard()
    body = body_of("val_loss", "energy_joules")
    with pytest.raises(Unavailable, match=r"estimate on this worker.*--allow-estimated"):
        tried(body, heard, scripted(GOOD, measurements=estimate))
    assert heard.reports == []
    assert body.result_so_far(7).measured == {"measurements": estimate}
    allowed = body_of("val_loss", "energy_joules", allow_estimated=True)
    assert tried(allowed, heard, scripted(GOOD, measurements=estimate)).values == (0.7, 0.5)
    # Nobody optimises it: it may be what it is.
    other = tried(body_of("val_loss"), Heard(), scripted(GOOD, measurements=estimate))
    assert other.measured["measurements"] == estimate


@pytest.mark.parametrize("own_values", [False, True], ids=["of train", "own"])
def test_an_estimate_is_refused_in_the_output_too(own_values: bool) -> None:
    estimate = {"energy_joules": JOULES | {"estimated": True}}
    options: Json = {"values_of": lambda output: (1.0, 2.0)} if own_values else {}
    place = InlineExecutor(lambda job, context: {"history": [], "measurements": estimate})
    with pytest.raises(Unavailable):
        tried(body_of("val_loss", "energy_joules", **options), Heard(), place)


def test_what_could_not_be_measured_is_told_with_the_reason() -> None:
    nothing = {"latency_ms": {"value": None, "reason": "the memory is full."}}
    with pytest.raises(OperationFailed, match=r"'latency_ms': the memory is full. Leave") as caught:
        tried(body_of("latency_ms"), Heard(), scripted(GOOD, measurements=nothing))
    assert caught.value.stage == "measure"
    with pytest.raises(OperationFailed, match=r"'parameters': its answer holds none. Leave"):
        tried(body_of("parameters"), Heard(), scripted(GOOD))


def test_events_that_were_lost_are_made_up_for_by_the_output() -> None:
    history = [{"epoch": 1, **GOOD}, {"epoch": 2, **BETTER}]
    place = InlineExecutor(lambda job, context: {"history": history})
    result = tried(body_of("val_loss"), Heard(), place)
    assert [one["val_loss"] for one in result.measured["health"]] == [0.7, 0.6]
    assert result.measured["last_epoch"] == history[-1]


class Priced(InlineExecutor):
    """A place that costs, or can't say what."""

    def __init__(self, price: Price | None, run: Operation) -> None:
        super().__init__(run)
        self._price = price

    def cost_of(self, job_id: str) -> Cost | None:
        if self._price is None:
            raise SpecError("By which price isn't known; give --gpu.")
        return Cost(2, 9, self._price)


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
def test_the_cost_is_kept_however_the_trial_ends(fails: bool) -> None:
    def operation(job_input: Json, context: OperationContext) -> Json:
        if fails:
            raise OperationFailed("It broke.")
        return {"history": [{"epoch": 1, **GOOD}]}

    price = Price(0.36, None, "a test")
    for known in (price, None):
        body = body_of("val_loss")
        try:
            tried(body, Heard(), Priced(known, operation))
        except VisionDynoError:
            assert fails
        expected = Cost(2, 9, price).to_json() if known else None
        assert body.result_so_far(7).cost == expected


def test_a_trial_that_never_reached_its_place_has_no_cost() -> None:
    class Away(InlineExecutor):
        async def submit(self, *_: Any, **__: Any) -> str:
            raise OperationFailed("It is away.")

    body = body_of("val_loss")
    with pytest.raises(OperationFailed, match="It is away"):
        tried(body, Heard(), Away(epochs(GOOD)))
    assert body.result_so_far(7) == Result()
    assert body.result_so_far(99) == Result()
