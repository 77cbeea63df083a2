"""`--baseline` and `--fail-if`: what regresses fails, what can't be judged is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comparison_factory import detector_comparison, environment
from visiondyno.errors import RegressionFound, SpecError
from visiondyno.measurements.measure import measured
from visiondyno.report.baseline import Condition, check_baseline, parse_conditions
from visiondyno.report.comparison import LeftOut

BASE = detector_comparison()


def changed(measure, change, *, index=0, interval=None):
    """The comparison with one model's measure moved."""
    models = list(BASE.models)
    old = models[index].measures[measure]
    new = measured(measure, old.value + change, old.method, interval=interval)
    models[index] = models[index].model_copy(
        update={"measures": {**models[index].measures, measure: new}}
    )
    return BASE.model_copy(update={"models": tuple(models)})


def check(new, *expressions, old=BASE):
    return check_baseline(new, old, parse_conditions(expressions))


@given(
    st.sampled_from(["map_50_95", "latency_p90_ms"]),
    st.sampled_from(["<", "<=", ">", ">="]),
    st.floats(-1000, 1000, allow_nan=False),
    st.booleans(),
    st.sampled_from(["", " "]),
)
def test_a_condition_reads_back(measure, operator, number, relative, gap):
    text = f"{measure}{gap}{operator}{gap}{number!r}{'%' if relative else ''}"
    assert parse_conditions([text]) == (Condition(measure, operator, number, relative),)


def test_several_conditions_by_comma_or_repetition():
    together = parse_conditions(["map_50<-0.01,latency_p90_ms>10%"])
    assert together == parse_conditions(["map_50<-0.01", "latency_p90_ms > 10 %"])
    assert str(together[1]) == "latency_p90_ms>10%"


@pytest.mark.parametrize(
    "text", ["", "map_50", "map_50<", "map_50==1", "map_50<x", "<1", "map_50<1;", "map_50<nan"]
)
def test_a_bad_condition_says_what_form_it_needs(text):
    with pytest.raises(SpecError, match="MEASURE OP NUMBER"):
        parse_conditions([text])


def test_no_condition_at_all_is_refused():
    with pytest.raises(SpecError, match="needs a condition"):
        parse_conditions([])


def test_an_unknown_measure_gets_a_suggestion():
    with pytest.raises(SpecError, match="did you mean map_50_95"):
        parse_conditions(["map_5095<0"])
    with pytest.raises(SpecError, match="known are accuracy"):
        parse_conditions(["zzz<0"])


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_operators_mean_what_they_say(change, threshold):
    for operator, expected in (
        ("<", change < threshold),
        ("<=", change <= threshold),
        (">", change > threshold),
        (">=", change >= threshold),
    ):
        assert Condition("f1", operator, threshold, relative=False).holds(change) is expected


def test_no_change_is_no_regression():
    check(BASE, "map_50_95<-0.01", "latency_p90_ms>5%").raise_if_regressed()


def test_a_regression_names_model_measure_and_size():
    found = check(changed("map_50_95", -0.03, interval=(0.44, 0.52)), "map_50_95<-0.01")
    with pytest.raises(RegressionFound) as caught:
        found.raise_if_regressed()
    message = caught.value.message
    assert message.startswith("1 regression against the baseline: visiondyno:street-s: map_50_95")
    assert "−0.0300" in message
    assert "could be chance" in message
    assert "[fails map_50_95<-0.01]" in message
    assert caught.value.exit_code == 3


def test_a_change_beyond_its_interval_is_not_chance():
    found = check(changed("map_50_95", -0.3, interval=(0.2, 0.22)), "map_50_95<-0.01")
    change = found.changes[0]
    assert not change.within_interval
    assert "not chance alone" in change.sentence()


def test_percentages_are_relative_to_the_baseline():
    value = BASE.models[0].measures["latency_p90_ms"].value
    slower = changed("latency_p90_ms", value * 0.2)
    assert check(slower, "latency_p90_ms>19%").changes[0].failed
    assert not check(slower, "latency_p90_ms>21%").changes[0].failed
    assert "its interval is unknown" in check(slower, "latency_p90_ms>19%").changes[0].sentence()


def test_every_failing_model_is_listed():
    everything = check(changed("map_50_95", 0.0), "map_50_95<=0", "latency_p50_ms>=0")
    with pytest.raises(RegressionFound, match="6 regressions"):
        everything.raise_if_regressed()


def test_a_model_that_fails_now_is_a_regression():
    gone = BASE.models[1].reference
    left = LeftOut(reference=gone, stage="load", reason="truncated file")
    new = BASE.model_copy(update={"models": BASE.models[:1], "left_out": (left,)})
    with pytest.raises(RegressionFound, match=r"no longer measured \(truncated file\)"):
        check(new, "map_50_95<-0.01").raise_if_regressed()


def test_models_of_one_side_only_are_warned_about():
    fewer = BASE.model_copy(update={"models": BASE.models[:2]})
    assert any("isn't in the baseline" in w for w in check(BASE, "f1<-1", old=fewer).warnings)
    assert any("took no part" in w for w in check(fewer, "f1<-1").warnings)


def test_nothing_in_common_is_refused():
    fewer = BASE.model_copy(update={"models": BASE.models[:1]})
    others = BASE.model_copy(update={"models": BASE.models[1:]})
    with pytest.raises(SpecError, match="none of these models"):
        check(fewer, "f1<-1", old=others)


def test_other_data_is_refused():
    data = BASE.dataset.model_copy(update={"digest": "sha256:" + "cd" * 32})
    with pytest.raises(SpecError, match="other data"):
        check(BASE.model_copy(update={"dataset": data}), "map_50_95<-0.01")
    fewer = BASE.dataset.model_copy(update={"classes": {"car": 412}})
    with pytest.raises(SpecError, match="same --classes"):
        check(BASE.model_copy(update={"dataset": fewer}), "map_50_95<-0.01")


@pytest.mark.parametrize(
    "update",
    [
        {"environment": environment("another")},
        {"spec": BASE.spec.model_copy(update={"threads": 4})},
        {"spec": BASE.spec.model_copy(update={"device": "cuda"})},
    ],
)
def test_times_of_another_machine_are_refused_and_accuracy_warns(update):
    elsewhere = BASE.model_copy(update=update)
    with pytest.raises(SpecError, match="latency_p90_ms can't be judged"):
        check(elsewhere, "latency_p90_ms>10%", "map_50_95<-0.01")
    found = check(elsewhere, "map_50_95<-0.01")
    assert any("another" in warning for warning in found.warnings)
    found.raise_if_regressed()


def test_changed_packages_and_noise_are_warned_about():
    packages = {**BASE.environment.packages, "onnxruntime": "2.0"}
    new = BASE.model_copy(
        update={
            "environment": BASE.environment.model_copy(update={"packages": packages}),
            "verdict": BASE.verdict.model_copy(update={"quiet": False}),
        }
    )
    text = " ".join(check(new, "latency_p90_ms>10%").warnings)
    assert "onnxruntime 1.31.1 → 2.0" in text
    assert "not quiet during the new comparison" in text


def test_what_was_not_measured_cannot_pass_in_silence():
    with pytest.raises(SpecError, match=r"was not measured in this comparison \(no NVIDIA GPU\)"):
        check(BASE, "peak_vram_bytes>1")


def test_a_percentage_of_zero_is_refused():
    zero = changed("f1", -BASE.models[0].measures["f1"].value)
    with pytest.raises(SpecError, match="no percentage exists"):
        check(BASE, "f1<-1%", old=zero)
    assert check(BASE, "f1<-1", old=zero).changes[0].relative_percent is None
