"""Who wins in which category, and why; models within the interval of the best are called tied."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visiondyno.measurements.measure import Interval
from visiondyno.report.comparison import ModelReport, Winner
from visiondyno.report.differences import (
    READING_TOLERANCE,
    READINGS,
    Paired,
    difference,
    excludes_zero,
    higher_is_better,
    is_rankable,
    log_ratio,
)
from visiondyno.report.format import listed, measure_text, number, title
from visiondyno.report.green import ALPHA
from visiondyno.report.layout import display_names
from visiondyno.report.origins import apart

SPEED = "latency_p90_ms"

OVERALL_WEIGHTS = {
    "accuracy": 0.5,
    SPEED: 0.3,
    "memory": 0.1,
    "energy_joules_per_image": 0.1,
}
"""Exponents of the weighted geometric mean; `memory` is VRAM on a GPU, else RAM."""

BALANCE_WEIGHTS = {"accuracy": 0.5, SPEED: 0.5}

GREEN_EXPONENTS = {"accuracy": ALPHA, "energy_joules_per_image": 1.0}
"""Two green scores differ by the logarithm of this product's ratio: the reference cancels out."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Models to be ranked, with the resamples that pair their accuracies."""

    models: Sequence[ModelReport]
    paired: Paired
    device: str

    def name(self, model: ModelReport) -> str:
        """What the model is called in explanations."""
        return display_names(self.models)[model.reference]

    @property
    def memory_measure(self) -> str:
        """VRAM where every model ran on a GPU and had it measured, else RAM."""
        on_gpu = self.device.startswith("cuda")
        return "peak_vram_bytes" if on_gpu and self.has("peak_vram_bytes") else "peak_rss_bytes"

    def has(self, measure: str) -> bool:
        """Whether every model has a measured, positive value, and these may be compared."""
        return apart(measure, self.models) is None and all(
            is_rankable(model.measures.get(measure)) and (model.measures[measure].value or 0) > 0
            for model in self.models
        )


def find_winners(contest: Contest) -> tuple[Winner, ...]:
    """The five categories in order; none at all where fewer than two models took part."""
    if len(contest.models) < 2:
        return ()
    return (
        _overall(contest),
        _by_measure(contest, "accuracy", "accuracy", "Highest accuracy"),
        _balance(contest),
        _by_measure(contest, "memory", contest.memory_measure, "Most memory-efficient"),
        _greenest(contest),
    )


def _by_measure(contest: Contest, category: str, measure: str, heading: str) -> Winner:
    able = [model for model in contest.models if is_rankable(model.measures.get(measure))]
    if not able:
        why = f"No winner: {title(measure)} was not measured for any model."
        return _winner(category, heading, (), measure, why)
    if (where := apart(measure, able)) is not None:
        why = f"No winner: {title(measure)} was measured {where} and can't be compared."
        return _winner(category, heading, (), measure, why)
    sign = -1 if higher_is_better(measure) else 1
    able.sort(key=lambda model: sign * (model.measures[measure].value or 0.0))
    best = able[0]
    tied = [model for model in able[1:] if _is_tie(best, model, measure, contest.paired)]
    text = f"{contest.name(best)}: {measure_text(measure, best.measures[measure])}."
    if tied:
        others = listed(
            [f"{contest.name(m)} ({measure_text(measure, m.measures[measure])})" for m in tied]
        )
        rule = (
            f"within {READING_TOLERANCE:.0%}"
            if measure in READINGS
            else "the 95 % interval of the difference holds 0"
        )
        text = f"{text[:-1]}; a tie with {others}: {rule}."
    return _winner(category, heading, (best, *tied), measure, text)


def _is_tie(best: ModelReport, other: ModelReport, measure: str, paired: Paired) -> bool:
    if measure == "green_score":
        return _score_tie(best, other, GREEN_EXPONENTS, paired)
    found = difference(best, other, measure, paired)
    return found is not None and found.tie


def _greenest(contest: Contest) -> Winner:
    heading = "Greenest"
    if (where := apart("green_score", contest.models)) is not None:
        why = f"No winner: energy was measured {where} and can't be compared."
        return _winner("greenest", heading, (), "green_score", why)
    scores = {model.reference: model.measures.get("green_score") for model in contest.models}
    if any(score is not None and score.estimated for score in scores.values()) and not any(
        is_rankable(score) for score in scores.values()
    ):
        why = (
            "No winner: energy is only estimated on this machine, and estimates are kept out of "
            "rankings. A GPU with an energy counter or readable RAPL would measure it."
        )
        return _winner("greenest", heading, (), "green_score", why)
    if not any(is_rankable(score) for score in scores.values()):
        reason = next((s.reason for s in scores.values() if s is not None and s.reason), None)
        why = f"No winner: no model has a green score{f' ({reason})' if reason else ''}."
        return _winner("greenest", heading, (), "green_score", why)
    return _by_measure(contest, "greenest", "green_score", heading)


def _overall(contest: Contest) -> Winner:
    weights = dict(OVERALL_WEIGHTS)
    weights[contest.memory_measure] = weights.pop("memory")
    used = {name: weight for name, weight in weights.items() if contest.has(name)}
    return _weighted(contest, "overall", "Best overall", used)


def _balance(contest: Contest) -> Winner:
    used = {name: weight for name, weight in BALANCE_WEIGHTS.items() if contest.has(name)}
    return _weighted(contest, "balance", "Best speed and accuracy balance", used)


def _weighted(
    contest: Contest, category: str, heading: str, weights: Mapping[str, float]
) -> Winner:
    if (where := apart(SPEED, contest.models)) is not None:
        why = f"No winner: times were measured {where} and can't be compared."
        return _winner(category, heading, (), "weighted geometric mean", why)
    needed = ("accuracy", SPEED)
    missing = [title(name) for name in needed if name not in weights]
    if missing:
        why = f"No winner: {' and '.join(missing)} was not measured above 0 for every model."
        return _winner(category, heading, (), "weighted geometric mean", why)
    total = sum(weights.values())
    shares = {name: weight / total for name, weight in weights.items()}
    scores = {model.reference: _score(model, contest.models, shares) for model in contest.models}
    ordered = sorted(contest.models, key=lambda model: -scores[model.reference])
    best = ordered[0]
    tied = [model for model in ordered[1:] if _score_tie(best, model, shares, contest.paired)]
    measure = " · ".join(f"{title(name)} {share:.0%}" for name, share in shares.items())
    text = f"{contest.name(best)} scores {number(scores[best.reference])}"
    if tied:
        others = listed([f"{contest.name(m)} ({number(scores[m.reference])})" for m in tied])
        text += f"; a tie with {others}: the 95 % interval of the scores' ratio holds 1"
    elif len(ordered) > 1:
        runner = ordered[1]
        text += f", {contest.name(runner)} {number(scores[runner.reference])}"
    text += f". Score: geometric mean of each measure's ratio to the best, weighted {measure}."
    return _winner(category, heading, (best, *tied), measure, text)


def _score(model: ModelReport, models: Sequence[ModelReport], shares: Mapping[str, float]) -> float:
    total = 0.0
    for name, share in shares.items():
        values = [other.measures[name].value or 0.0 for other in models]
        own = model.measures[name].value or 0.0
        ratio = own / max(values) if higher_is_better(name) else min(values) / own
        total += share * math.log(ratio)
    return math.exp(total)


def _score_tie(
    best: ModelReport, other: ModelReport, shares: Mapping[str, float], paired: Paired
) -> bool:
    """Whether the interval of ln(score of best / score of other) holds 0 (MOVER over terms)."""
    value = below = above = 0.0
    for name, share in shares.items():
        found = log_ratio(best, other, name, paired)
        if found is None:
            return True
        ratio, interval = found
        low, high = interval or (None, None)
        if low is None or high is None:
            return True
        if not higher_is_better(name):
            ratio, low, high = -ratio, -high, -low
        value += share * ratio
        below += (share * (ratio - low)) ** 2
        above += (share * (high - ratio)) ** 2
    combined: Interval = (value - math.sqrt(below), value + math.sqrt(above))
    return not excludes_zero(combined)


def _winner(
    category: str, heading: str, models: Sequence[ModelReport], measure: str, explanation: str
) -> Winner:
    return Winner.model_validate(
        {
            "category": category,
            "title": heading,
            "references": tuple(model.reference for model in models),
            "measure": measure,
            "explanation": explanation,
        }
    )
