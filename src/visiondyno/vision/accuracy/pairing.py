"""The difference of two models scored on the same images."""

import math

from visiondyno.measurements.half_samples import FEWEST_IMAGES, half_sample_interval
from visiondyno.measurements.measure import MEASURES, Interval
from visiondyno.vision.accuracy.base import Accuracy


def paired_difference(a: Accuracy, b: Accuracy, measure: str) -> tuple[float, Interval | None]:
    """`a` minus `b` in one measure, with the 95 % interval of models scored on the same images.

    Both share their half-samples, so that what makes an image easy or hard for both cancels.

    Returns:
        The difference and its interval. The interval is None for too few images, and where both
        scores agree in every half-sample; it is the difference itself, twice, where every
        half-sample shows exactly that difference.

    Raises:
        KeyError: `measure` is not one that was resampled.
        ValueError: a or b has no value for it, or they were scored on other images or draws.
    """
    first, second = a.resampled[measure], b.resampled[measure]
    if (a.n_images, a.seed, len(first)) != (b.n_images, b.seed, len(second)):
        raise ValueError("Only scores of the same images, seed and resamples can be paired.")
    a_value, b_value = a.measures[measure].value, b.measures[measure].value
    if a_value is None or b_value is None:
        raise ValueError(f"{measure} was not measured of both, so there is no difference.")
    value = a_value - b_value
    limit = 1.0 if MEASURES[measure].unit == "fraction" else math.inf
    interval = half_sample_interval(value, first - second, a.n_images, bounds=(-limit, limit))
    if interval is None and value != 0 and a.n_images >= FEWEST_IMAGES:
        return value, (value, value)
    return value, interval
