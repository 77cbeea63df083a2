"""Depth: perfect maps score perfectly, alignment undoes what it says, holes are mute."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visiondyno.errors import DatasetError, ModelError, OperationFailed
from visiondyno.predictions import DepthMap, DepthTruth
from visiondyno.specs.model_card import DepthCard
from visiondyno.vision.accuracy import DepthScoring, align_depth, paired_difference, score
from visiondyno.vision.accuracy.depth import score_depth

METRIC = DepthCard(output="depth", alignment="none")
AFFINE = DepthCard(output="depth", alignment="scale_and_shift")
MIDAS = DepthCard(output="inverse_depth", alignment="scale_and_shift")
CARDS = [
    DepthCard(output=output, alignment=alignment)
    for output in ("depth", "inverse_depth")
    for alignment in ("none", "median_scale", "scale_and_shift")
]

metres = st.floats(0.5, 60, width=32)
maps = hnp.arrays(np.float32, (4, 5), elements=metres)


def truths_of(depths):
    """Truths whose reader gives these arrays, and the reader."""
    stored = {Path(f"{index:03d}.png"): depth for index, depth in enumerate(depths)}
    return [DepthTruth(path, 0.001) for path in stored], lambda truth: stored[truth.path]


def values(depths, outputs, card):
    truths, read = truths_of(depths)
    accuracy = score_depth(truths, [DepthMap(o) for o in outputs], card, read, resamples=100)
    return {name: measure.value for name, measure in accuracy.measures.items()}


def as_output(depth, card):
    return 1 / depth if card.output == "inverse_depth" else depth


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.output}-{card.alignment}")
@given(depths=st.lists(maps, min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_a_perfect_prediction_has_no_error(card, depths):
    found = values(depths, [as_output(depth, card) for depth in depths], card)
    assert found["abs_rel"] == pytest.approx(0, abs=1e-5)
    assert found["rmse"] == pytest.approx(0, abs=1e-3)
    assert found["delta1"] == found["accuracy"] == 1


@given(
    depth=maps,
    scale=st.floats(0.01, 100) | st.floats(-100, -0.01),
    shift=st.floats(-100, 100),
    card=st.sampled_from([AFFINE, MIDAS]),
)
@settings(deadline=None)
def test_scale_and_shift_make_any_affine_prediction_perfect(depth, scale, shift, card):
    target = as_output(depth.astype(np.float64), card)
    # Where the map is flat but for a hair, float32 loses the hair in the shift.
    assume(np.ptp(target) * abs(scale) > 1e-3 * (abs(shift) + np.abs(target * scale).max()))
    output = (scale * target + shift).astype(np.float32)
    found = values([depth], [output], card)
    assert found["abs_rel"] == pytest.approx(0, abs=2e-2)
    assert found["delta1"] == 1


@given(depth=maps, scale=st.floats(0.01, 100), output=st.sampled_from(["depth", "inverse_depth"]))
@settings(deadline=None)
def test_the_ratio_of_medians_undoes_a_scale(depth, scale, output):
    card = DepthCard(output=output, alignment="median_scale")
    found = values([depth], [(as_output(depth, card) * scale).astype(np.float32)], card)
    assert found["abs_rel"] == pytest.approx(0, abs=1e-4)


@given(depth=maps, output=maps, scale=st.floats(0.25, 4))
@settings(deadline=None)
def test_ratios_don_t_depend_on_the_unit_and_rmse_does(depth, output, scale):
    before = values([depth], [output], METRIC)
    after = values([depth * np.float32(scale)], [output * np.float32(scale)], METRIC)
    assert after["abs_rel"] == pytest.approx(before["abs_rel"], rel=1e-4, abs=1e-6)
    assert after["rmse"] == pytest.approx(before["rmse"] * scale, rel=1e-4, abs=1e-4)


@given(depth=maps, output=maps, card=st.sampled_from([METRIC, AFFINE]))
@settings(deadline=None)
def test_it_is_what_the_formulas_say(depth, output, card):
    d, g = output.astype(np.float64).ravel(), depth.astype(np.float64).ravel()
    if card is AFFINE:
        assume(np.ptp(d) > 1e-2)
        matrix = np.column_stack((d, np.ones_like(d)))
        d = matrix @ np.linalg.lstsq(matrix, g, rcond=None)[0]
    ratio = np.where(d > 0, np.maximum(d / g, g / np.where(d > 0, d, 1)), np.inf)
    assume((np.abs(ratio - 1.25) > 1e-5).all())
    found = values([depth], [output], card)
    assert found["abs_rel"] == pytest.approx(np.mean(np.abs(d - g) / g), rel=1e-4, abs=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((d - g) ** 2)), rel=1e-4, abs=1e-4)
    assert found["delta1"] == pytest.approx(np.mean(ratio < 1.25))


@given(depth=maps, output=maps, hole=hnp.arrays(bool, (4, 5)), card=st.sampled_from(CARDS))
@settings(deadline=None)
def test_pixels_without_measured_depth_have_no_say(depth, output, hole, card):
    assume(not hole.all())
    for unmeasured in (np.nan, 0.0, np.inf):
        holed = np.where(hole, np.float32(unmeasured), depth)
        one, other = output.copy(), output.copy()
        other[hole] = 1e4
        assert values([holed], [one], card) == values([holed], [other], card)


@given(depths=st.lists(maps, min_size=2, max_size=5), data=st.data())
@settings(deadline=None)
def test_images_count_alike_however_many_pixels_were_measured(depths, data):
    outputs = [data.draw(maps) for _ in depths]
    depths[0] = depths[0].copy()
    depths[0][1:] = np.nan
    each = [values([d], [o], METRIC) for d, o in zip(depths, outputs, strict=True)]
    together = values(depths, outputs, METRIC)
    for name in ("abs_rel", "rmse", "delta1"):
        assert together[name] == pytest.approx(np.mean([one[name] for one in each]))


def test_an_inverse_depth_of_nothing_is_the_farthest_depth_and_is_counted():
    depth = np.array([[1, 2, 4, 8]], np.float32)
    card = DepthCard(output="inverse_depth", alignment="none")
    output = np.array([[1, 0.5, -1, 0.01]], np.float32)
    aligned = align_depth(output, depth, card, "a.png")
    np.testing.assert_allclose(aligned.depth, [[1, 2, 8, 8]])
    assert aligned.without_depth == 1
    truths, read = truths_of([depth])
    found = score_depth(truths, [DepthMap(output)], card, read, resamples=100)
    assert "25.00% of the pixels had an inverse depth of 0 or less" in found.measures["rmse"].method


def test_a_negative_depth_is_wrong_and_not_a_crash():
    found = values([np.full((2, 2), 2, np.float32)], [np.full((2, 2), -1, np.float32)], METRIC)
    assert found == {"accuracy": 0, "abs_rel": 1.5, "rmse": 3, "delta1": 0}


def test_a_negative_scale_is_told_since_the_card_may_be_wrong():
    depth = np.array([[1, 2], [4, 8]], np.float32)
    truths, read = truths_of([depth])
    found = score_depth(truths, [DepthMap(1 / depth)], AFFINE, read, resamples=100)
    assert "best scale was negative" in found.measures["abs_rel"].method
    assert "negative" not in score_depth(
        truths, [DepthMap(1 / depth)], MIDAS, read, resamples=100
    ).measures["abs_rel"].method  # fmt: skip


def test_a_flat_prediction_is_aligned_to_the_mean():
    depth = np.array([[1, 3]], np.float32)
    aligned = align_depth(np.full((1, 2), 7, np.float32), depth, AFFINE, "a.png")
    np.testing.assert_allclose(aligned.depth, [[2, 2]])


def test_an_image_without_measured_depth_is_named():
    truths, read = truths_of([np.ones((2, 2), np.float32), np.full((2, 2), np.nan, np.float32)])
    with pytest.raises(DatasetError, match=r"001\.png has no pixel of measured depth"):
        score_depth(truths, [DepthMap(np.ones((2, 2), np.float32))] * 2, METRIC, read)


@pytest.mark.parametrize(
    ("output", "card", "error", "words"),
    [
        (np.ones((2, 3), np.float32), METRIC, OperationFailed, "3×2"),
        (np.full((2, 2), np.inf, np.float32), METRIC, ModelError, "aren't finite"),
        (np.zeros((2, 2), np.float32), DepthCard(alignment="median_scale"), ModelError, "median"),
    ],
)
def test_what_can_t_be_scored_says_why(output, card, error, words):
    truths, read = truths_of([np.ones((2, 2), np.float32)])
    with pytest.raises(error, match=words) as raised:
        score_depth(truths, [DepthMap(output)], card, read)
    assert "000.png" in str(raised.value)


def test_numbers_of_maps_and_truths_must_agree():
    truths, read = truths_of([np.ones((2, 2), np.float32)])
    with pytest.raises(OperationFailed, match="2 depth maps"):
        score_depth(truths, [DepthMap(np.ones((2, 2), np.float32))] * 2, METRIC, read)


def noisy(rng, depths, error):
    return [(d * np.exp(rng.normal(0, error, d.shape))).astype(np.float32) for d in depths]


def test_a_worse_model_differs_by_more_than_the_interval_and_images_are_ranked_by_abs_rel():
    rng = np.random.default_rng(5)
    depths = [rng.uniform(1, 20, (12, 12)).astype(np.float32) for _ in range(60)]
    truths, read = truths_of(depths)
    scoring = DepthScoring(METRIC, read)
    good, bad = (
        score("depth", truths, [DepthMap(o) for o in noisy(rng, depths, error)], (), depth=scoring)
        for error in (0.1, 0.2)
    )
    for measure, sign in (("abs_rel", -1), ("rmse", -1), ("delta1", 1), ("accuracy", 1)):
        value, interval = paired_difference(good, bad, measure)
        assert interval is not None
        assert sign * value > 0
        assert min(sign * interval[0], sign * interval[1]) > 0
        low, high = good.measures[measure].interval
        assert low <= good.measures[measure].value <= high
        assert good.measures[measure].n == 60
    assert bad.measures["rmse"].interval[1] - bad.measures["rmse"].value > 0
    severities = [errors.badness for errors in bad.image_errors]
    assert np.mean(severities) == pytest.approx(bad.measures["abs_rel"].value)
    wrong = sum(errors.errors for errors in bad.image_errors)
    assert wrong / (60 * 144) == pytest.approx(1 - bad.measures["delta1"].value)


def test_few_images_have_values_and_no_intervals():
    found = values([np.ones((2, 2), np.float32)], [np.full((2, 2), 1.1, np.float32)], METRIC)
    assert found["abs_rel"] == pytest.approx(0.1)
    truths, read = truths_of([np.ones((2, 2), np.float32)])
    one = score_depth(truths, [DepthMap(np.ones((2, 2), np.float32))], METRIC, read)
    assert one.measures["abs_rel"].interval is None
