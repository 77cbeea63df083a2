"""The green score: useful work per joule against a reference model.

    G = clip(50 + 10·log2((A / A_ref)^alpha · (E_ref / E)), 0, 100),  alpha = 2

A is the task's accuracy, E joules per image, both measured on the same machine, data set and
scenario in one session. The reference scores 50; each doubling of useful work per joule adds 10.
The exponent is a choice, and it can swap two models: reports show alpha 1, 2 and 3.
"""

import math
from collections.abc import Mapping, Sequence

from visiondyno.measurements.measure import Interval, Measure, measured, not_measured
from visiondyno.report.comparison import ModelReport
from visiondyno.report.origins import apart

ALPHA = 2.0
ALPHAS = (1.0, 2.0, 3.0)
ACCURACY_GATE = 0.5
"""Least share of the reference's accuracy for a rating. A model that answers nothing costs no
energy: without a gate the cheapest useless model would be called green."""

_ACCURACY = "accuracy"
_ENERGY = "energy_joules_per_image"


def green_score(
    accuracy: float,
    reference_accuracy: float,
    reference_energy: float,
    energy: float,
    alpha: float = ALPHA,
) -> float:
    """The green score, 0 to 100.

    Args:
        accuracy: of the model, a fraction, ≥ 0.
        reference_accuracy: of the reference model, > 0.
        reference_energy: of the reference model, joules per image, > 0.
        energy: of the model, joules per image, > 0.
        alpha: how much more an accuracy ratio counts than an energy ratio.

    Raises:
        ValueError: a number is outside its range.
    """
    if not (accuracy >= 0 and reference_accuracy > 0 and reference_energy > 0 and energy > 0):
        raise ValueError("the green score needs positive energies and accuracies")
    if accuracy == 0:
        return 0.0
    raw = _raw_score(accuracy, reference_accuracy, reference_energy, energy, alpha)
    return min(100.0, max(0.0, raw))


def rate_green(
    model: Mapping[str, Measure], reference: Mapping[str, Measure], alpha: float = ALPHA
) -> Measure:
    """The green score of a model as a measure, or "not rated" with the reason.

    Estimated energy on either side gives an estimated score, which rankings leave out. The
    interval combines the four intervals as if independent (MOVER on the logarithms); accuracies
    measured on the same images are positively correlated, so it is rather too wide.
    """
    accuracy, base_accuracy = _value(model, _ACCURACY), _value(reference, _ACCURACY)
    energy, base_energy = _value(model, _ENERGY), _value(reference, _ENERGY)
    if accuracy is None or base_accuracy is None:
        return not_measured("green_score", "not rated: accuracy was not measured")
    if energy is None or base_energy is None:
        return not_measured("green_score", "not rated: energy was not measured")
    if base_accuracy <= 0 or base_energy <= 0 or energy <= 0:
        return not_measured("green_score", "not rated: the reference has no useful work per joule")
    if accuracy < ACCURACY_GATE * base_accuracy:
        return not_measured(
            "green_score",
            f"not rated: accuracy {accuracy:.3g} is under {ACCURACY_GATE:.0%} of the reference's "
            f"{base_accuracy:.3g}",
        )
    return measured(
        "green_score",
        green_score(accuracy, base_accuracy, base_energy, energy, alpha),
        f"clip(50 + 10·log2((A/A_ref)^{alpha:g} · E_ref/E), 0, 100)",
        interval=None if model is reference else _interval(model, reference, alpha),
        estimated=model[_ENERGY].estimated or reference[_ENERGY].estimated,
    )


def with_green_scores(models: Sequence[ModelReport], reference: str) -> tuple[ModelReport, ...]:
    """The same reports with `green_score` filled in against the model called `reference`.

    A model measured on another machine than that one is not rated.

    Raises:
        KeyError: no such model is among them.
    """
    base = _find(models, reference)
    return tuple(
        model.model_copy(
            update={
                "measures": {
                    **model.measures,
                    "green_score": _rate(model, base),
                }
            }
        )
        for model in models
    )


def alpha_sensitivity(
    models: Sequence[ModelReport], reference: str
) -> dict[str, dict[float, Measure]]:
    """Green scores of each model (by reference) for alpha 1, 2 and 3.

    Raises:
        KeyError: no such reference model.
    """
    base = _find(models, reference)
    return {
        model.reference: {alpha: _rate(model, base, alpha) for alpha in ALPHAS} for model in models
    }


def _rate(model: ModelReport, base: ModelReport, alpha: float = ALPHA) -> Measure:
    where = apart("green_score", (model, base))
    if where is not None:
        reason = f"not rated: its energy and the reference model's were measured {where}"
        return not_measured("green_score", reason)
    return rate_green(model.measures, base.measures, alpha)


def _raw_score(
    accuracy: float, base_accuracy: float, base_energy: float, energy: float, alpha: float
) -> float:
    work = alpha * math.log2(accuracy / base_accuracy)
    return 50 + 10 * (work + math.log2(base_energy / energy))


def _interval(
    model: Mapping[str, Measure], reference: Mapping[str, Measure], alpha: float
) -> Interval | None:
    values = [model[_ACCURACY], reference[_ACCURACY], reference[_ENERGY], model[_ENERGY]]
    below = above = 0.0
    for measure, power in zip(values, (alpha, -alpha, 1.0, -1.0), strict=True):
        low, high = measure.interval or (None, None)
        value = measure.value
        if low is None or high is None or value is None or low <= 0:
            return None
        fall, rise = 10 * math.log2(value / low), 10 * math.log2(high / value)
        if power < 0:
            fall, rise = rise, fall
        below += (power * fall) ** 2
        above += (power * rise) ** 2
    a, a_ref, e_ref, e = (measure.value or 0.0 for measure in values)
    raw = _raw_score(a, a_ref, e_ref, e, alpha)
    return (
        min(100.0, max(0.0, raw - math.sqrt(below))),
        min(100.0, max(0.0, raw + math.sqrt(above))),
    )


def _value(measures: Mapping[str, Measure], name: str) -> float | None:
    return measures[name].value if name in measures else None


def _find(models: Sequence[ModelReport], reference: str) -> ModelReport:
    for model in models:
        if reference in (model.reference, model.name):
            return model
    raise KeyError(reference)
