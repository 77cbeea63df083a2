"""Simulated benchmarks, seeded: how often the 95 % intervals hold the truth.

Each simulated data set draws images from one population of images that differ in difficulty, with
objects that cluster; the truth is the same score over 200,000 images. Matches are drawn instead of
boxes: that boxes give these matches is tested against pycocotools elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

from visiondyno.measurements.half_samples import half_sample_interval, half_samples
from visiondyno.measurements.percentiles import (
    difference_interval,
    mean_interval,
    percentile,
    percentile_interval,
)
from visiondyno.vision.accuracy.average_precision import average_precisions, mean_over_classes
from visiondyno.vision.accuracy.matching import IOU_THRESHOLDS, MatchTable

IMAGES = 200
POPULATION = 200_000


@dataclass(frozen=True)
class Scene:
    """Objects an image of each class, and how well a model finds them."""

    rates: tuple[float, ...]
    quality: tuple[float, ...]
    false_alarms: float


FEW_CLASSES = Scene((1.5, 0.6, 0.3), (1.2, 0.8, 0.3), 1.0)
RARE_CLASSES = Scene(
    (1, 0.3, 0.1, 0.05, 0.05, 0.03, 0.03, 0.02), (1, 1, 0.5, 0.5, 0, 1.5, 0.5, 0.8), 0.5
)
TWENTY_CLASSES = Scene(
    tuple(0.6 * np.exp(-0.15 * np.arange(20))),
    tuple(0.7 + 0.6 * np.sin(np.arange(20))),
    0.5,
)
ONE_CLASS = Scene((0.8,), (2.0,), 0.3)


def simulate(scene: Scene, n_images: int, seed: int, better: float = 0.0) -> MatchTable:
    """Matches of one model; equal seeds are the same images with the same objects."""
    images_rng = np.random.default_rng((seed, 0))
    model_rng = np.random.default_rng((seed, 1 + round(100 * better)))
    difficulty = images_rng.normal(0, 0.6, n_images)
    images, classes, scores, hits = [], [], [], []
    positives = np.zeros((4, len(scene.rates), n_images), np.int64)
    for place, (rate, quality) in enumerate(zip(scene.rates, scene.quality, strict=True)):
        objects = images_rng.poisson(rate * np.exp(images_rng.normal(0, 0.8, n_images)))
        positives[0, place] = objects
        of_object = np.repeat(np.arange(n_images), objects)
        clarity = images_rng.normal(quality, 1, len(of_object)) - difficulty[of_object]
        clarity += better + model_rng.normal(0, 0.5, len(of_object))
        found = clarity > -1
        iou = 0.5 + 0.18 * (clarity + model_rng.normal(0, 0.7, len(clarity)))
        score = clarity + model_rng.normal(0, 0.8, len(clarity))
        alarms = np.repeat(
            np.arange(n_images), model_rng.poisson(scene.false_alarms * np.exp(0.5 * difficulty))
        )
        images += [of_object[found], alarms]
        classes.append(np.full(found.sum() + len(alarms), place))
        scores += [score[found], model_rng.normal(-1, 1.2, len(alarms))]
        hits.append(iou[found] >= IOU_THRESHOLDS[:, None])
        hits.append(np.zeros((len(IOU_THRESHOLDS), len(alarms)), np.bool_))
    return table_of(images, classes, scores, hits, positives)


def table_of(images, classes, scores, hits, positives: NDArray[np.int64]) -> MatchTable:
    image, of_class, score = (np.concatenate(part) for part in (images, classes, scores))
    order = np.lexsort((image, -score, of_class))
    hit = np.zeros((4, len(IOU_THRESHOLDS), len(image)), np.bool_)
    hit[0] = np.concatenate(hits, axis=1)[:, order]
    return MatchTable(
        n_images=positives.shape[2],
        n_classes=positives.shape[1],
        images=image[order],
        classes=of_class[order],
        scores=score[order],
        sources=np.zeros(len(image), np.int64),
        hits=hit,
        counted=np.ones_like(hit),
        taken=np.full(len(image), -1, np.int64),
        positives=positives,
    )


def maps(table: MatchTable, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    ap = average_precisions(table, weights, areas=("all",))
    return {
        "map_50_95": mean_over_classes(ap.by_area["all"]),
        "map_50": mean_over_classes(ap.ap_50),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "data_sets"),
    [
        pytest.param(FEW_CLASSES, 150, id="few"),
        pytest.param(RARE_CLASSES, 150, id="rare"),
        pytest.param(TWENTY_CLASSES, 100, id="twenty", marks=pytest.mark.exhaustive),
        pytest.param(ONE_CLASS, 200, id="one"),
    ],
)
def test_map_intervals_cover(scene: Scene, data_sets: int):
    truth = maps(simulate(scene, POPULATION, 1), np.ones((1, POPULATION)))
    draws = half_samples(IMAGES, 300, seed=0)
    covered: dict[str, list[bool]] = {name: [] for name in truth}
    for data_set in range(data_sets):
        table = simulate(scene, IMAGES, 1000 + data_set)
        values, resampled = maps(table, np.ones((1, IMAGES))), maps(table, draws)
        for name, true in truth.items():
            low, high = half_sample_interval(values[name][0], resampled[name], IMAGES)
            covered[name].append(low <= true[0] <= high)
    shares = {name: np.mean(held) for name, held in covered.items()}
    print(shares)
    assert shares["map_50_95"] >= 0.93
    assert shares["map_50"] >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("better", [0.0, 0.3], ids=["equal", "better"])
def test_intervals_of_paired_differences_cover_and_are_narrower(better: float):
    truth = [
        maps(simulate(FEW_CLASSES, POPULATION, 1, b), np.ones((1, POPULATION)))["map_50_95"][0]
        for b in (0.01, better + 0.02)
    ]
    draws, ones = half_samples(IMAGES, 200, seed=0), np.ones((1, IMAGES))
    covered, narrower = [], []
    for data_set in range(100):
        pair = [simulate(FEW_CLASSES, IMAGES, 1000 + data_set, b) for b in (0.01, better + 0.02)]
        a, b = (maps(table, ones)["map_50_95"][0] for table in pair)
        a_draws, b_draws = (maps(table, draws)["map_50_95"] for table in pair)
        low, high = half_sample_interval(a - b, a_draws - b_draws, IMAGES, (-1, 1))
        covered.append(low <= truth[0] - truth[1] <= high)
        unpaired = difference_interval(
            a,
            half_sample_interval(a, a_draws, IMAGES),
            b,
            half_sample_interval(b, b_draws, IMAGES),
        )
        narrower.append(high - low < unpaired[1] - unpaired[0])
    print(np.mean(covered))
    assert np.mean(covered) >= 0.93
    assert np.mean(narrower) > 0.95


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [100, 500, 1500])
def test_percentile_intervals_cover(q: float, n: int):
    rng = np.random.default_rng(7)
    true = np.exp(2 + 0.5 * stats.norm.ppf(q))
    covered: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(2000):
        samples = rng.lognormal(2, 0.5, n)
        for in_order, held in covered.items():
            low, high = percentile_interval(samples, q, in_order=in_order)
            held.append((low is None or low <= true) and (high is None or true <= high))
    # Exactly 95 % for independent samples: half of all simulations of it would show less.
    assert np.mean(covered[False]) >= 0.94
    assert np.mean(covered[True]) >= 0.95


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_percentile_intervals_cover_under_autocorrelation(q: float):
    """AR(1) log-latencies with coefficient 0.6: the ranks of independent samples hold 76–95 %."""
    rng = np.random.default_rng(11)
    true = np.exp(2 + 0.5 * stats.norm.ppf(q))
    covered: dict[bool, list[bool]] = {True: [], False: []}
    for _ in range(1000):
        latencies = np.exp(2 + 0.5 * autoregressive(rng, 1000, 0.6) * 0.8)
        for in_order, held in covered.items():
            low, high = percentile_interval(latencies, q, in_order=in_order)
            held.append((low is None or low <= true) and (high is None or true <= high))
    shares = {in_order: np.mean(held) for in_order, held in covered.items()}
    print(shares)
    assert shares[True] >= 0.94
    assert shares[False] < shares[True] - 0.03


def autoregressive(rng: np.random.Generator, n: int, coefficient: float) -> NDArray[np.float64]:
    """A stationary AR(1) series of unit shocks: variance 1 / (1 − coefficient²)."""
    shocks = rng.normal(0, 1, n + 100)
    return signal.lfilter([1.0], [1.0, -coefficient], shocks)[100:]


def test_mean_intervals_cover_under_autocorrelation():
    """AR(1) with coefficient 0.6, where an interval of independent samples holds only 2 in 3."""
    rng = np.random.default_rng(3)
    covered = {"batches": [], "independent": []}
    for _ in range(1000):
        series = 10 + autoregressive(rng, 1000, 0.6)
        low, high = mean_interval(series)
        covered["batches"].append(low <= 10 <= high)
        half = 1.96 * series.std() / np.sqrt(len(series))
        covered["independent"].append(abs(series.mean() - 10) <= half)
    assert np.mean(covered["batches"]) >= 0.93
    assert np.mean(covered["independent"]) < 0.75


def test_differences_of_percentiles_cover():
    """MOVER on the medians of two independent series."""
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(2000):
        a, b = rng.lognormal(2.0, 0.5, 400), rng.lognormal(2.2, 0.4, 300)
        low, high = difference_interval(
            percentile(a, 0.5),
            percentile_interval(a, 0.5),
            percentile(b, 0.5),
            percentile_interval(b, 0.5),
        )
        covered.append(low <= np.exp(2.0) - np.exp(2.2) <= high)
    assert np.mean(covered) >= 0.95
