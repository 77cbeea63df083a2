"""The green score: its formula, its promises, and when a model isn't rated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comparison_factory import detector_comparison
from visiondyno.measurements.measure import measured, not_measured
from visiondyno.report.green import alpha_sensitivity, green_score, rate_green, with_green_scores

accuracies = st.floats(0.001, 1)
energies = st.floats(1e-4, 1e4)
alphas = st.sampled_from([1.0, 2.0, 3.0])


@given(accuracies, energies, alphas)
def test_the_reference_scores_fifty(accuracy, energy, alpha):
    assert green_score(accuracy, accuracy, energy, energy, alpha) == 50


@given(accuracies, accuracies, accuracies, energies, energies, alphas)
def test_more_accuracy_never_scores_less(a, b, reference, base, energy, alpha):
    low, high = sorted([a, b])
    scores = [green_score(x, reference, base, energy, alpha) for x in (low, high)]
    assert scores[0] <= scores[1]


@given(accuracies, accuracies, energies, energies, energies, alphas)
def test_more_energy_never_scores_more(accuracy, reference, base, a, b, alpha):
    low, high = sorted([a, b])
    scores = [green_score(accuracy, reference, base, e, alpha) for e in (low, high)]
    assert scores[0] >= scores[1]


@given(accuracies, accuracies, energies, energies, st.sampled_from([1e-3, 3600.0, 2.5]))
def test_the_unit_of_energy_does_not_matter(accuracy, reference, base, energy, unit):
    plain = green_score(accuracy, reference, base, energy)
    assert green_score(accuracy, reference, base * unit, energy * unit) == pytest.approx(plain)


@given(accuracies, accuracies, energies, energies, alphas)
def test_it_stays_between_zero_and_hundred(accuracy, reference, base, energy, alpha):
    assert 0 <= green_score(accuracy, reference, base, energy, alpha) <= 100


def test_each_doubling_of_work_per_joule_adds_ten():
    assert green_score(0.4, 0.4, 2.0, 1.0) == pytest.approx(60)
    assert green_score(0.4, 0.4, 1.0, 2.0) == pytest.approx(40)
    assert green_score(0.8, 0.4, 1.0, 1.0, alpha=2) == pytest.approx(70)
    assert green_score(0.8, 0.4, 1.0, 1.0, alpha=3) == pytest.approx(80)
    assert green_score(0.0, 0.4, 1.0, 1.0) == 0


@pytest.mark.parametrize("bad", [(-1, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="positive"):
        green_score(*bad)


def measures(accuracy, joules, *, estimated=False, interval=True):
    return {
        "accuracy": measured(
            "accuracy",
            accuracy,
            "test",
            interval=(accuracy * 0.9, accuracy * 1.1) if interval else None,
        ),
        "energy_joules_per_image": measured(
            "energy_joules_per_image",
            joules,
            "test",
            interval=(joules * 0.95, joules * 1.05) if interval else None,
            estimated=estimated,
        ),
    }


def test_below_half_the_references_accuracy_a_model_is_not_rated():
    score = rate_green(measures(0.19, 0.001), measures(0.4, 1))
    assert score.value is None
    assert "under 50%" in score.reason
    assert rate_green(measures(0.2, 1), measures(0.4, 1)).value == pytest.approx(30)


def test_an_estimate_on_either_side_makes_an_estimated_score():
    assert rate_green(measures(0.4, 1, estimated=True), measures(0.4, 1)).estimated
    assert rate_green(measures(0.4, 1), measures(0.4, 1, estimated=True)).estimated
    assert not rate_green(measures(0.4, 1), measures(0.4, 1)).estimated


def test_what_was_not_measured_is_not_rated_and_never_zero():
    whole = measures(0.4, 1)
    no_energy = whole | {"energy_joules_per_image": not_measured("energy_joules_per_image", "no")}
    no_accuracy = whole | {"accuracy": not_measured("accuracy", "no labels")}
    for model, word in ((no_energy, "energy"), (no_accuracy, "accuracy")):
        for score in (rate_green(model, whole), rate_green(whole, model)):
            assert score.value is None
            assert word in score.reason
    assert rate_green(whole, measures(0.0, 1)).value is None
    assert rate_green({}, whole).value is None


def test_the_interval_holds_the_score_and_needs_all_four():
    reference = measures(0.4, 1)
    score = rate_green(measures(0.5, 0.5), reference)
    assert score.interval[0] < score.value < score.interval[1]
    assert rate_green(measures(0.5, 0.5, interval=False), reference).interval is None
    assert rate_green(reference, reference).interval is None


def test_adding_models_changes_no_score():
    comparison = detector_comparison(energy="measured")
    few, many = comparison.models[:2], comparison.models
    reference = many[0].reference
    for a, b in zip(
        with_green_scores(few, reference), with_green_scores(many, reference), strict=False
    ):
        assert a.measures["green_score"] == b.measures["green_score"]


def test_alpha_can_swap_two_models():
    rows = (
        ("base", 0.4, 10, 100, 1.0),
        ("sharp", 0.6, 10, 100, 2.0),
        ("thrifty", 0.4, 10, 100, 0.8),
    )
    models = detector_comparison(rows, energy="measured").models
    scores = alpha_sensitivity(models, "base")
    sharp, thrifty = (scores[f"visiondyno:{name}"] for name in ("sharp", "thrifty"))
    assert sharp[1.0].value < thrifty[1.0].value
    assert sharp[3.0].value > thrifty[3.0].value
    with pytest.raises(KeyError):
        alpha_sensitivity(models, "nobody")
