"""Cost and energy as an ended job's answer tells them."""

from typing import Any

import pytest

from visiondyno.api.job_accounts import cost_usd, energy_joules
from visiondyno.job import JobAnswer, JobState
from visiondyno.measurements.measure import measured, not_measured
from visiondyno.probes.cost import find_price


def answer(output: dict[str, Any] | None, execution_ms: int | None = 36_000) -> JobAnswer:
    return JobAnswer(
        id="j", status=JobState.COMPLETED, execution_time_ms=execution_ms, output=output
    )


def comparison(*energies: Any, price: object = None) -> dict[str, Any]:
    models = [{"measures": {"energy_joules_per_image": energy}} for energy in energies]
    return {"comparison": {"spec": {"price": price}, "models": models}}


def joules(value: float, images: int, *, estimated: bool = False) -> dict[str, Any]:
    measure = measured("energy_joules_per_image", value, "a counter", n=images, estimated=estimated)
    return measure.model_dump(mode="json")


def test_cost_is_time_by_the_price_that_the_spec_names() -> None:
    assert cost_usd(answer(comparison(price="0.40"))) == pytest.approx(0.004)
    an_hour = find_price("RTX 4090").usd_per_hour
    assert cost_usd(answer(comparison(price="RTX 4090"))) == pytest.approx(an_hour / 100)


@pytest.mark.parametrize(
    ("output", "execution_ms"),
    [
        (None, 1000),
        ({"text": "hello"}, 1000),
        (comparison(), 1000),
        (comparison(price="a GPU of next year"), 1000),
        (comparison(price=4), 1000),
        (comparison(price="0.40"), None),
        ({"comparison": ["odd"]}, 1000),
    ],
    ids=["failed", "other-output", "no-price", "unknown-price", "number", "no-time", "odd"],
)
def test_what_is_not_told_costs_nothing_that_is_known(
    output: dict[str, Any] | None, execution_ms: int | None
) -> None:
    assert cost_usd(answer(output, execution_ms)) is None


def test_energy_is_that_of_all_models_windows_by_source() -> None:
    told = comparison(joules(0.5, 100), joules(2.0, 10), joules(3.0, 7, estimated=True))
    assert energy_joules(answer(told)) == {
        "counter": pytest.approx(70.0),
        "estimate": pytest.approx(21.0),
    }


def test_energy_of_a_measured_training_is_told_too() -> None:
    measure = measured("energy_joules", 0.25, "a counter", n=40)
    told = {"measurements": {"energy_joules": measure.model_dump(mode="json")}}
    assert energy_joules(answer(told)) == {"counter": pytest.approx(10.0)}


@pytest.mark.parametrize(
    "output",
    [
        None,
        {"measurements": None},
        comparison("odd", {"value": 1}, None),
        comparison(not_measured("energy_joules_per_image", "no counter").model_dump(mode="json")),
        comparison({**joules(1.0, 1), "n": None}),
        comparison({**joules(1.0, 1), "value": -1.0}),
        {"comparison": {"models": "odd"}},
    ],
    ids=["failed", "none", "odd", "not-measured", "no-count", "negative", "odd-models"],
)
def test_energy_that_is_not_told_is_not_counted(output: dict[str, Any] | None) -> None:
    assert energy_joules(answer(output)) == {}
