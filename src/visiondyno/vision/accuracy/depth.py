"""How well depth maps fit measured depth: AbsRel, RMSE and delta1 (Eigen et al. 2014).

With d the predicted and g the measured depth of a pixel, in metres, over the pixels that have a
measured depth: AbsRel is the mean of |d − g| / g, RMSE the root of the mean of (d − g)², delta1
the share of pixels with max(d / g, g / d) < 1.25. Each is taken of every image, and the mean over
images is the measure: an image counts once, however many of its pixels were measured.

Before that, each image's output x becomes s·x + t in its own space (depth, or inverse depth in
1/m), as the model card says: by least squares (scale and shift; Ranftl et al. 2020, MiDaS), by
s = median(g) / median(x) (Eigen et al. 2014), or not at all. An inverse depth is inverted after
that; where it is below that of the image's farthest measured depth, that farthest depth is taken
(MiDaS's depth cap), since an inverse depth of 0 or less has none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import DatasetError, ModelError, OperationFailed
from visiondyno.measurements.half_samples import (
    INTERVAL_METHOD,
    half_sample_interval,
    half_samples,
)
from visiondyno.measurements.measure import Measure, Measures, measured
from visiondyno.predictions import DepthMap, DepthTruth, FloatArray
from visiondyno.specs.model_card import DepthCard
from visiondyno.vision.accuracy.base import Accuracy, ImageErrors

DepthReader = Callable[[DepthTruth], FloatArray]
"""Gives (height, width) float32 metres, NaN where nothing was measured."""

DELTA1_RATIO = 1.25

_Doubles = NDArray[np.float64]

_MEANINGS = {
    "abs_rel": "mean of |d − g| / g",
    "rmse": "root of the mean of (d − g)²",
    "delta1": "share of pixels with max(d / g, g / d) < 1.25",
}
_ALIGNMENTS = {
    "none": "without alignment",
    "median_scale": "each image scaled by the ratio of medians",
    "scale_and_shift": "each image aligned by least squares in scale and shift",
}


@dataclass(frozen=True, slots=True, eq=False)
class AlignedDepth:
    """One image's prediction laid over its measured depth.

    Attributes:
        depth: (height, width) float32 metres.
        scale: s of the alignment.
        without_depth: pixels with measured depth whose aligned inverse depth is 0 or less.
    """

    depth: FloatArray
    scale: float
    without_depth: int


@dataclass(frozen=True, slots=True)
class _ImageScore:
    abs_rel: float
    rmse: float
    delta1: float
    wrong_pixels: int
    pixels: int
    without_depth: int
    turned: bool


def score_depth(
    truths: Sequence[DepthTruth],
    predictions: Sequence[DepthMap],
    card: DepthCard,
    read: DepthReader,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Accuracy:
    """Score depth maps against measured depth, image by image.

    Only one image's maps are held at a time, if `predictions` reads them when asked.

    Args:
        truths: one an image.
        predictions: one an image, in the same order, of the image's size.
        card: what the model's output means and how it is aligned.
        read: gives an image's measured depth.
        resamples: how many half-samples of the images the intervals rest on.
        seed: of the drawing; equal seeds and images pair models.

    Raises:
        OperationFailed: the numbers or sizes of maps differ.
        DatasetError: an image has no measured depth; the message names it.
        ModelError: a map has values that aren't numbers, or can't be scaled.
    """
    if len(truths) != len(predictions) or not truths:
        raise OperationFailed(
            f"{len(predictions)} depth maps can't be scored against {len(truths)} images' depth.",
            stage="score",
        )
    scores = [
        _score_image(truths[index], predictions[index], card, read) for index in range(len(truths))
    ]
    values = {
        "abs_rel": np.array([score.abs_rel for score in scores]),
        "rmse": np.array([score.rmse for score in scores]),
        "delta1": np.array([score.delta1 for score in scores]),
    }
    weights = half_samples(len(scores), resamples, seed)
    resampled = {name: _means(weights, of_images) for name, of_images in values.items()}
    resampled["accuracy"] = resampled["delta1"]
    return Accuracy(
        task="depth",
        n_images=len(scores),
        seed=seed,
        measures=_measures(scores, values, resampled, card),
        per_class={},
        confusion=None,
        precision_recall=None,
        image_errors=tuple(
            ImageErrors(misses=score.wrong_pixels, false_alarms=0, severity=score.abs_rel)
            for score in scores
        ),
        resampled=resampled,
        depth=card,
    )


def align_depth(output: FloatArray, truth: FloatArray, card: DepthCard, name: str) -> AlignedDepth:
    """One image's output as metres; see the module's docstring.

    Args:
        output: (height, width) as the model gave it.
        truth: (height, width) metres, NaN where nothing was measured.
        card: what the output means and how it is aligned.
        name: of the image, for messages.

    Raises:
        OperationFailed: the sizes differ.
        DatasetError: the image has no measured depth.
        ModelError: the output has values that aren't numbers, or can't be scaled.
    """
    if output.shape != truth.shape:
        raise OperationFailed(
            f"The predicted depth of {name} is {output.shape[1]}×{output.shape[0]} and its "
            f"measured depth {truth.shape[1]}×{truth.shape[0]} pixels; they must be equal.",
            stage="score",
        )
    known = np.isfinite(truth) & (truth > 0)
    if not known.any():
        raise DatasetError(f"{name} has no pixel of measured depth; leave the image out.")
    x, g = output[known].astype(np.float64), truth[known].astype(np.float64)
    if not np.isfinite(x).all():
        raise ModelError(
            f"The predicted depth of {name} holds values that aren't finite numbers; check the "
            "export."
        )
    inverse = card.output == "inverse_depth"
    scale, shift = _fit(x, 1 / g if inverse else g, card, name)
    aligned = output.astype(np.float64) * scale + shift
    without_depth = 0
    if inverse:
        without_depth = int((aligned[known] <= 0).sum())
        aligned = 1 / np.maximum(aligned, 1 / g.max())
    return AlignedDepth(aligned.astype(np.float32), scale, without_depth)


def _fit(x: _Doubles, target: _Doubles, card: DepthCard, name: str) -> tuple[float, float]:
    if card.alignment == "none":
        return 1.0, 0.0
    if card.alignment == "median_scale":
        middle = float(np.median(x))
        if middle <= 0:
            raise ModelError(
                f"The predicted depth of {name} has a median of {middle:.3g} and can't be scaled; "
                "set 'alignment: scale_and_shift' in the model card if it is known up to a shift."
            )
        return float(np.median(target)) / middle, 0.0
    x_mean, target_mean = float(x.mean()), float(target.mean())
    spread = x - x_mean
    variance = float(spread @ spread)
    # Of an output that is the same everywhere (but for rounding), only the shift can be fitted.
    if variance <= (1e-6 * abs(x_mean)) ** 2 * len(x):
        return 0.0, target_mean
    scale = float(spread @ (target - target_mean)) / variance
    return scale, target_mean - scale * x_mean


def _score_image(
    truth: DepthTruth, prediction: DepthMap, card: DepthCard, read: DepthReader
) -> _ImageScore:
    measured_depth = read(truth)
    aligned = align_depth(prediction.depth, measured_depth, card, truth.path.name)
    known = np.isfinite(measured_depth) & (measured_depth > 0)
    d, g = aligned.depth[known].astype(np.float64), measured_depth[known].astype(np.float64)
    gap = d - g
    # Written without a division by d: a depth of 0 or less is wrong.
    right = (d < DELTA1_RATIO * g) & (g < DELTA1_RATIO * d)
    return _ImageScore(
        abs_rel=float(np.mean(np.abs(gap) / g)),
        rmse=float(np.sqrt(np.mean(gap * gap))),
        delta1=float(np.mean(right)),
        wrong_pixels=int((~right).sum()),
        pixels=len(g),
        without_depth=aligned.without_depth,
        turned=aligned.scale < 0,
    )


def _means(weights: _Doubles, values: _Doubles) -> _Doubles:
    """(resamples,): the mean over the images of each half-sample; NaN where it holds none."""
    count = weights.sum(axis=1)
    means: _Doubles = np.divide(
        weights @ values, count, out=np.full(len(count), np.nan), where=count > 0
    )
    return means


def _measures(
    scores: Sequence[_ImageScore],
    values: dict[str, _Doubles],
    resampled: dict[str, _Doubles],
    card: DepthCard,
) -> Measures:
    how = _how(scores, card)
    measures = {
        name: _measure(name, values[name], resampled[name], f"{_MEANINGS[name]}, {how}")
        for name in values
    }
    accuracy = _measure(
        "accuracy", values["delta1"], resampled["delta1"], f"delta1: {_MEANINGS['delta1']}, {how}"
    )
    return {"accuracy": accuracy, **measures}


def _how(scores: Sequence[_ImageScore], card: DepthCard) -> str:
    space = "inverse depth" if card.output == "inverse_depth" else "depth"
    parts = ["of each image, then the mean over images", f"{space}, {_ALIGNMENTS[card.alignment]}"]
    if without := sum(score.without_depth for score in scores):
        share = without / sum(score.pixels for score in scores)
        parts.append(
            f"{share:.2%} of the pixels had an inverse depth of 0 or less and were put at the "
            "farthest measured depth"
        )
    if turned := sum(score.turned for score in scores):
        parts.append(
            f"in {turned} images the best scale was negative: check 'output' in the model card"
        )
    return "; ".join(parts)


def _measure(name: str, values: _Doubles, resampled: _Doubles, method: str) -> Measure:
    value, n = float(values.mean()), len(values)
    bounds = (0.0, 1.0) if name in ("accuracy", "delta1") else (0.0, np.inf)
    interval = half_sample_interval(value, resampled, n, bounds=bounds)
    if interval is not None:
        method = f"{method}; {INTERVAL_METHOD}"
    return measured(name, value, method, interval=interval, n=n)
