"""Differences, winners and fronts: ties are called ties, and estimates decide nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comparison_factory import (
    MANY,
    classifier_comparison,
    detector_comparison,
    failing_comparison,
    many_detectors_comparison,
)
from visiondyno.measurements.measure import measured, not_measured
from visiondyno.report.comparison import ConfusionMatrix, ModelReport
from visiondyno.report.differences import difference, excludes_zero, log_ratio, tie_text
from visiondyno.report.layout import best_references, display_names
from visiondyno.report.ranking import pareto_front, rank
from visiondyno.report.winners import OVERALL_WEIGHTS
from visiondyno.specs.operations import BenchmarkInput
from visiondyno.vision.accuracy.base import Accuracy
from visiondyno.vision.accuracy.pairing import paired_difference

IMAGES = 200
SPEC = BenchmarkInput(models=("a",), data="d")


def model(name, **values):
    """A report whose measures are given as value or (value, low, high)."""
    found = {}
    for key, value in values.items():
        if isinstance(value, tuple):
            found[key] = measured(key, value[0], "test", interval=value[1:], n=IMAGES)
        elif value is None:
            found[key] = not_measured(key, "not here")
        else:
            found[key] = measured(key, value, "test", n=IMAGES)
    return ModelReport(reference=name, name=name, description={}, measures=found)


def winner(ranking, category):
    return next(w for w in ranking.winners if w.category == category)


def test_pairing_finds_a_difference_that_single_intervals_hide():
    shared = np.random.default_rng(1).normal(0, 0.05, 1000)
    own = np.random.default_rng(2).normal(0, 0.002, 1000)
    a = model("a", map_50_95=(0.50, 0.40, 0.60))
    b = model("b", map_50_95=(0.48, 0.38, 0.58))
    paired = {"a": {"map_50_95": 0.50 + shared}, "b": {"map_50_95": 0.48 + shared + own}}
    apart = difference(a, b, "map_50_95")
    together = difference(a, b, "map_50_95", paired)
    assert apart.tie
    assert not together.tie
    assert "paired" in together.method
    assert "MOVER" in apart.method
    assert together.interval[0] < together.value < together.interval[1]


def test_the_report_and_the_scoring_give_the_same_paired_interval():
    rng = np.random.default_rng(3)
    pair = []
    for value in (0.52, 0.47):
        pair.append(
            Accuracy(
                task="detection",
                n_images=IMAGES,
                seed=0,
                measures={"map_50": measured("map_50", value, "test", n=IMAGES)},
                per_class={},
                confusion=ConfusionMatrix(labels=(), counts=()),
                precision_recall=None,
                image_errors=(),
                resampled={"map_50": value + rng.normal(0.01, 0.02, 500)},
            )
        )
    value, interval = paired_difference(pair[0], pair[1], "map_50")
    found = difference(
        model("a", map_50=0.52),
        model("b", map_50=0.47),
        "map_50",
        {name: accuracy.resampled for name, accuracy in zip("ab", pair, strict=True)},
    )
    assert found.value == pytest.approx(value)
    assert found.interval == pytest.approx(interval)


def test_resamples_without_a_value_are_left_out_and_too_few_images_say_nothing():
    values = np.append(np.random.default_rng(5).normal(0.5, 0.02, 200), np.nan)
    paired = {"a": {"f1": values}, "b": {"f1": values[::-1] * 0.5}}
    found = difference(model("a", f1=0.5), model("b", f1=0.25), "f1", paired)
    assert all(math.isfinite(bound) for bound in found.interval)
    few = {"a": {"f1": values}, "b": {"f1": values}}
    a, b = (model(n, f1=0.5) for n in "ab")
    a, b = (
        m.model_copy(update={"measures": {"f1": m.measures["f1"].model_copy(update={"n": 5})}})
        for m in (a, b)
    )
    assert tie_text(difference(a, b, "f1", few)) == "undecided"


def test_a_model_against_itself_is_a_tie():
    values = np.random.default_rng(4).normal(0.5, 0.1, 200)
    a, b = model("a", accuracy=0.5), model("b", accuracy=0.5)
    found = difference(a, b, "accuracy", {"a": {"accuracy": values}, "b": {"accuracy": values}})
    assert found.interval == (0, 0)
    assert found.tie


def test_accuracy_is_paired_by_the_main_measures_resamples():
    noise = np.random.default_rng(5).normal(0, 0.01, 500)
    a, b = (model(n, accuracy=v, top1=v) for n, v in (("a", 0.9), ("b", 0.7)))
    paired = {"a": {"top1": 0.9 + noise}, "b": {"top1": 0.7 + noise}}
    assert "paired" in difference(a, b, "accuracy", paired).method


def test_an_unknown_interval_is_undecided_never_a_win():
    found = difference(model("a", load_ms=1.0), model("b", load_ms=99.0), "load_ms")
    assert found.tie
    assert tie_text(found) == "undecided"


def test_memory_readings_tie_within_two_percent():
    base = model("a", peak_rss_bytes=100.0)
    assert tie_text(difference(base, model("b", peak_rss_bytes=101.9), "peak_rss_bytes")) == "tie"
    found = difference(base, model("b", peak_rss_bytes=103.0), "peak_rss_bytes")
    assert tie_text(found) == "differs"
    assert found.interval is None


def test_estimates_and_gaps_have_no_difference():
    real = model("a", energy_joules_per_image=1.0)
    guess = ModelReport(
        reference="b",
        name="b",
        description={},
        measures={
            "energy_joules_per_image": measured(
                "energy_joules_per_image", 2.0, "assumed", estimated=True
            )
        },
    )
    assert difference(real, guess, "energy_joules_per_image") is None
    assert (
        difference(real, model("c", energy_joules_per_image=None), "energy_joules_per_image")
        is None
    )
    assert log_ratio(real, guess, "energy_joules_per_image") is None
    assert log_ratio(model("d", f1=0.0), model("e", f1=0.5), "f1") is None


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_swapping_two_models_mirrors_their_difference(x, y, half_x, half_y):
    a = model("a", latency_p90_ms=(x, x - x * half_x, x + half_x))
    b = model("b", latency_p90_ms=(y, y - y * half_y, y + half_y))
    one, other = difference(a, b, "latency_p90_ms"), difference(b, a, "latency_p90_ms")
    assert one.value == pytest.approx(-other.value)
    assert one.interval[0] == pytest.approx(-other.interval[1])
    assert one.tie == other.tie


def test_an_open_side_can_still_exclude_zero():
    assert excludes_zero((0.1, None))
    assert excludes_zero((None, -0.1))
    assert not excludes_zero((None, 0.1))
    assert not excludes_zero(None)


def test_the_standing_example():
    comparison = detector_comparison(energy="measured")
    assert winner(comparison, "accuracy").references == ("visiondyno:street-s",)
    assert winner(comparison, "overall").references == ("visiondyno:street-n",)
    assert winner(comparison, "memory").references == ("visiondyno:street-n",)
    assert winner(comparison, "greenest").references == ("visiondyno:street-n",)
    overall = winner(comparison, "overall")
    assert "Energy 10%" in overall.measure
    assert "weighted" in overall.explanation


def test_the_overall_score_is_the_stated_geometric_mean():
    comparison = detector_comparison(energy="absent")
    shares = {k: v for k, v in OVERALL_WEIGHTS.items() if not k.startswith("energy")}
    total = sum(shares.values())
    s, n, _ = comparison.models
    ratio = {
        "accuracy": n.measures["accuracy"].value / s.measures["accuracy"].value,
        "latency_p90_ms": 1,
        "memory": 1,
    }
    score = math.exp(sum(shares[k] / total * math.log(ratio[k]) for k in shares))
    assert f"street-n scores {score:.3f}" in winner(comparison, "overall").explanation


def test_ties_are_called_ties():
    found = winner(classifier_comparison(), "accuracy")
    assert found.references == ("visiondyno:digit-cnn", "visiondyno:digit-mlp")
    assert "a tie with digit-mlp" in found.explanation


def test_equal_models_tie_everywhere_they_can():
    same = {"accuracy": (0.5, 0.4, 0.6), "latency_p90_ms": (9.0, 8.0, 10.0), "peak_rss_bytes": 1e8}
    ranking = rank([model("a", **same), model("b", **same)], {}, SPEC)
    for category in ("overall", "accuracy", "balance", "memory"):
        assert winner(ranking, category).references == ("a", "b")


def test_estimated_energy_has_no_winner_and_says_why():
    found = winner(detector_comparison(energy="estimated"), "greenest")
    assert found.references == ()
    assert "estimate" in found.explanation
    absent = winner(detector_comparison(energy="absent"), "greenest")
    assert absent.references == ()
    assert "not measured" in absent.explanation


def test_greenest_ties_by_work_per_joule_not_by_the_reference():
    """The reference's 50 has no interval, yet a far worse model must not tie with it."""
    found = winner(many_detectors_comparison(), "greenest")
    assert len(found.references) < len(MANY)
    assert many_detectors_comparison().models[-1].reference not in found.references


def test_without_latency_or_accuracy_nobody_is_best_overall():
    ranking = rank([model("a", accuracy=0.5), model("b", accuracy=0.0)], {}, SPEC)
    for category in ("overall", "balance"):
        assert winner(ranking, category).references == ()
        assert "No winner" in winner(ranking, category).explanation
    assert winner(ranking, "memory").references == ()


def test_one_model_wins_nothing():
    assert failing_comparison().winners == ()


def test_memory_means_vram_on_a_gpu():
    spec = SPEC.model_copy(update={"device": "cuda:0"})
    a = model("a", peak_vram_bytes=1e9, peak_rss_bytes=9e9)
    b = model("b", peak_vram_bytes=2e9, peak_rss_bytes=1e9)
    assert winner(rank([a, b], {}, spec), "memory").references == ("a",)
    assert winner(rank([a, b], {}, SPEC), "memory").references == ("b",)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
@settings(max_examples=200)
def test_the_front_is_exactly_what_no_model_beats(points):
    models = [
        model(f"m{i}", latency_p50_ms=float(x), accuracy=y / 10) for i, (x, y) in enumerate(points)
    ]
    front = pareto_front(models, "latency_p50_ms", "accuracy")
    for i, (x, y) in enumerate(points):
        beaten = any((a <= x and b >= y) and (a, b) != (x, y) for a, b in points)
        assert (f"m{i}" in front.references) is not beaten
    xs = [points[int(ref[1:])][0] for ref in front.references]
    assert xs == sorted(xs)


def test_fronts_leave_out_gaps_and_mark_estimates():
    assert pareto_front([model("a", accuracy=None)], "latency_p50_ms", "accuracy") is None
    assert (
        pareto_front([model("a", accuracy=None, latency_p50_ms=1.0)], "latency_p50_ms", "accuracy")
        is None
    )
    fronts = {front.x: front for front in detector_comparison().pareto}
    assert fronts["energy_joules_per_image"].estimated
    assert not fronts["latency_p90_ms"].estimated


def test_the_best_are_marked_only_where_something_was_decided():
    comparison = detector_comparison()
    assert best_references(comparison, "accuracy") == {"visiondyno:street-s"}
    assert best_references(comparison, "cost_usd_per_1000_images") == frozenset()
    assert best_references(comparison, "green_score") == frozenset()
    assert best_references(comparison, "cpu_percent") == frozenset()
    assert best_references(classifier_comparison(), "accuracy") == frozenset()


def test_names_shown_are_short_but_tell_models_apart():
    models = [
        ModelReport(reference=ref, name=name, description={}, measures={})
        for ref, name in (
            ("a/n.onnx", "a/n.onnx"),
            ("b/n.onnx", "b/n.onnx"),
            ("c/m.onnx", "c/m.onnx"),
        )
    ]
    assert list(display_names(models).values()) == ["a/n.onnx", "b/n.onnx", "m.onnx"]
    twins = [m.model_copy(update={"name": "same"}) for m in models]
    assert list(display_names(twins).values()) == ["a/n.onnx", "b/n.onnx", "c/m.onnx"]
