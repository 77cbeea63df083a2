import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.measurements.half_samples import half_sample_interval, half_samples


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 1000))
def test_half_of_the_images_are_drawn_and_the_seed_decides(n: int, resamples: int, seed: int):
    drawn = half_samples(n, resamples, seed)
    assert drawn.shape == (resamples, n)
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    assert (drawn.sum(axis=1) == n // 2).all()
    assert np.array_equal(drawn, half_samples(n, resamples, seed))


def test_every_image_is_drawn_about_equally_often():
    share = half_samples(100, 4000, 0).mean(axis=0)
    assert share == pytest.approx(np.full(100, 0.5), abs=0.04)


@pytest.mark.parametrize("n", [200, 201, 31])
def test_of_a_mean_it_is_the_textbook_interval_widened(n: int):
    values = np.random.default_rng(0).beta(4, 3, n)
    drawn = half_samples(n, 20_000, 0)
    resampled = drawn @ values / (n // 2)
    low, high = half_sample_interval(float(values.mean()), resampled, n)
    textbook = 1.1 * 1.96 * values.std(ddof=1) / np.sqrt(n)
    assert (high - low) / 2 == pytest.approx(textbook, rel=0.03)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.05 * textbook)


def test_a_bias_moves_and_widens_the_interval_and_the_score_stays_inside():
    spread = np.random.default_rng(0).normal(0, 0.01, 1000)
    level = half_sample_interval(0.5, 0.5 + spread, 200)
    biased = half_sample_interval(0.5, 0.55 + spread, 200)
    assert sum(biased) / 2 == pytest.approx(0.45, abs=0.002)
    assert biased[1] - biased[0] > 3 * (level[1] - level[0])
    assert biased[0] < 0.5 < biased[1]


def test_bounds_are_those_of_the_measure():
    wide = np.random.default_rng(0).normal(0.98, 0.05, 500)
    assert half_sample_interval(0.98, wide, 200)[1] == 1
    assert half_sample_interval(0.98, wide, 200, bounds=(-1, 2))[1] > 1


def test_undefined_half_samples_are_left_out():
    values = np.random.default_rng(0).normal(0.5, 0.02, 400)
    holes = np.concatenate([values, np.full(100, np.nan)])
    assert half_sample_interval(0.5, holes, 50) == half_sample_interval(0.5, values, 50)


@pytest.mark.parametrize(
    ("resampled", "n"),
    [([0.4, 0.6, 0.5], 9), ([0.5, 0.5, 0.5], 100), ([np.nan, np.nan], 100), ([0.5], 100)],
    ids=["few images", "no spread", "never defined", "one"],
)
def test_no_interval_where_half_samples_say_nothing(resampled: list[float], n: int):
    assert half_sample_interval(0.5, np.array(resampled), n) is None
