"""From measured models to differences, winners and Pareto fronts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from visiondyno.report.comparison import Difference, ModelReport, ParetoFront, Winner
from visiondyno.report.differences import COMPARED, Paired, difference, higher_is_better
from visiondyno.report.origins import apart
from visiondyno.report.winners import Contest, find_winners
from visiondyno.specs.operations import BenchmarkInput

TRADE_OFFS = (
    ("latency_p50_ms", "accuracy"),
    ("latency_p90_ms", "accuracy"),
    ("energy_joules_per_image", "accuracy"),
)
"""The pairs of measures whose Pareto fronts a report shows: x, y."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Everything a comparison says about its models relative to each other."""

    differences: tuple[Difference, ...]
    winners: tuple[Winner, ...]
    pareto: tuple[ParetoFront, ...]


def rank(models: Sequence[ModelReport], paired: Paired, spec: BenchmarkInput) -> Ranking:
    """Differences of every pair, the winner of each category, and the Pareto fronts.

    Args:
        models: with every measure filled in, `green_score` too.
        paired: model reference → measure → (resamples,) values in half-samples of the images,
            the same half-samples for every model; a model or measure left out is compared unpaired.
        spec: of the comparison; its device decides which memory counts.
    """
    differences = tuple(
        found
        for measure in COMPARED
        for a, b in combinations(models, 2)
        if (found := difference(a, b, measure, paired)) is not None
    )
    fronts = (pareto_front(models, x, y) for x, y in TRADE_OFFS)
    return Ranking(
        differences=differences,
        winners=find_winners(Contest(models, paired, spec.device)),
        pareto=tuple(front for front in fronts if front is not None),
    )


def pareto_front(models: Sequence[ModelReport], x: str, y: str) -> ParetoFront | None:
    """The models that no other beats in both measures.

    None where no model has both, or where they were measured on different machines.

    A model is beaten by another that is at least as good in both and better in one; the values
    alone count, not their intervals. Where any value is estimated, the front is marked so.
    """
    if apart(x, models) is not None or apart(y, models) is not None:
        return None
    points: list[tuple[float, float, str]] = []
    estimated = False
    for model in models:
        x_measure, y_measure = model.measures.get(x), model.measures.get(y)
        if x_measure is None or y_measure is None:
            continue
        if x_measure.value is None or y_measure.value is None:
            continue
        estimated = estimated or x_measure.estimated or y_measure.estimated
        points.append((_cost(x, x_measure.value), _cost(y, y_measure.value), model.reference))
    if not points:
        return None
    front = [point[2] for point in sorted(points) if not any(_beats(o, point) for o in points)]
    return ParetoFront(x=x, y=y, references=tuple(front), estimated=estimated)


def _cost(measure: str, value: float) -> float:
    return -value if higher_is_better(measure) else value


def _beats(other: tuple[float, float, str], point: tuple[float, float, str]) -> bool:
    at_least = other[0] <= point[0] and other[1] <= point[1]
    return at_least and (other[0] < point[0] or other[1] < point[1])
