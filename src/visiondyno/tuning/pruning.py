"""Which running trials promise nothing: Optuna's pruners, and ASHA for any number of objectives."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import SpecError
from visiondyno.tuning.book import Pruner
from visiondyno.tuning.by_name import find_by_name
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.trial import Json, TrialRecord

if TYPE_CHECKING:
    import optuna

_NONE = frozenset({"none", "nop"})
_OURS = frozenset({"asha", "successivehalving"})


class Halving:
    """Asynchronous successive halving (ASHA; Li et al., 2020, arXiv:1810.05934), for Pareto too.

    Rungs lie at `min_steps · reduction^k` steps. A trial that comes to a rung stops there if at
    least `max(1, n // reduction)` of the `n` trials that have come to it so far are better, and
    nobody is waited for. With one objective "better" is a better value, which is ASHA's rule. With
    several it is a better front of the rung's non-dominated sorting (Deb et al., 2002,
    doi:10.1109/4235.996017), so a trial that no other one dominates is never stopped; Optuna's own
    pruners refuse several objectives.

    Args:
        objectives: of the study.
        min_steps: of the first rung, at least 1.
        reduction: of trials from rung to rung, at least 2.

    Raises:
        SpecError: a number isn't what it can be.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, min_steps: int = 1, reduction: int = 3
    ) -> None:
        if min_steps < 1 or reduction < 2:
            raise SpecError(
                f"Pruning with min_steps {min_steps} and reduction {reduction} can't be; give at "
                "least 1 and 2."
            )
        self._signs = np.array([1.0 if one.direction == "minimize" else -1.0 for one in objectives])
        self._min_steps = min_steps
        self._reduction = reduction
        self._rungs: dict[int, dict[int, tuple[float, ...]]] = {}

    def take_up(self, record: TrialRecord) -> None:
        """A trial of an earlier run of this study: its reports count."""
        for step, values in record.reports.items():
            if self._is_rung(step) and not any(math.isnan(value) for value in values):
                self._rungs.setdefault(step, {})[record.number] = values

    def reason(self, trial: "optuna.Trial", step: int, values: Sequence[float]) -> str | None:
        """See `Pruner`."""
        if not self._is_rung(step):
            return None
        rung = self._rungs.setdefault(step, {})
        rung[trial.number] = tuple(values)
        better, allowed = self._better(rung, trial.number), max(1, len(rung) // self._reduction)
        if better < allowed:
            return None
        how = "better" if len(self._signs) == 1 else "on better Pareto fronts"
        return (
            f"Pruned at step {step}: {better} of {len(rung)} trials that came so far are {how}, "
            f"and the best {allowed} go on."
        )

    def _is_rung(self, step: int) -> bool:
        rung = self._min_steps
        while rung < step:
            rung *= self._reduction
        return rung == step

    def _better(self, rung: dict[int, tuple[float, ...]], number: int) -> int:
        """How many of the rung's trials are better than one of them."""
        points = np.array(list(rung.values())) * self._signs  # less is better
        own = list(rung).index(number)
        if points.shape[1] == 1:
            return int((points[:, 0] < points[own, 0]).sum())
        fronts = _fronts(points)
        return int((fronts < fronts[own]).sum())


class OptunasPruner:
    """A pruner of Optuna, for one objective."""

    def __init__(self, pruner: "optuna.pruners.BasePruner") -> None:
        self._pruner = pruner

    def take_up(self, record: TrialRecord) -> None:
        """Nothing: the study's own trials have their reports."""

    def reason(self, trial: "optuna.Trial", step: int, values: Sequence[float]) -> str | None:
        """See `Pruner`."""
        trial.study.pruner = self._pruner
        trial.report(values[0], step)
        if not trial.should_prune():
            return None
        return f"Pruned at step {step} by {type(self._pruner).__name__}."


def make_pruner(name: str, arguments: Json, objectives: Sequence[Objective]) -> Pruner | None:
    """A pruner by name.

    Args:
        name: `asha` for `Halving`, `none`, or a pruner of Optuna: `MedianPruner`, or `median`.
        arguments: its own.
        objectives: of the study.

    Raises:
        SpecError: there is none of this name, it doesn't take these arguments, or it is one of
            Optuna's and there are several objectives.
    """
    import optuna

    plain = name.lower().replace("_", "").replace("-", "").removesuffix("pruner")
    if plain in _NONE:
        return None
    if plain == "asha" or (plain in _OURS and len(objectives) > 1):
        halving: Pruner = _made(Halving, {"objectives": objectives, **arguments})
        return halving
    kind = find_by_name(optuna.pruners, "Pruner", name, ("asha", "none"))
    if len(objectives) > 1:
        raise SpecError(
            f"{kind.__name__} of Optuna takes one objective, and this study has {len(objectives)}; "
            "take the pruner 'asha', or 'none'."
        )
    return OptunasPruner(_made(kind, arguments))


def _made(kind: Any, arguments: Json) -> Any:
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise SpecError(f"The pruner {kind.__name__} can't be made: {error}.") from error


def _fronts(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which front of the non-dominated sorting each point is in, from 0; less is better.

    Efficient non-dominated sort with binary search (Zhang et al., 2015,
    doi:10.1109/TEVC.2014.2308305): in lexicographic order a point is dominated by earlier ones
    only, and by one of a front only where by one of each front before. Equal points share theirs.

    Args:
        points: shape (n, m), without NaN.

    Returns:
        Shape (n,).
    """
    distinct, of_each = np.unique(points, axis=0, return_inverse=True)
    fronts: list[_Front] = []
    found = np.empty(len(distinct), np.int64)
    for index, point in enumerate(distinct):
        found[index] = bisect_left(fronts, True, key=lambda front: not front.dominates(point))
        if found[index] == len(fronts):
            fronts.append(_Front(len(point)))
        fronts[found[index]].add(point)
    return found[of_each.reshape(-1)]


class _Front:
    """Points none of which dominates another, taken in lexicographic order."""

    def __init__(self, objectives: int) -> None:
        self._rows = np.empty((8, objectives - 1))
        self._n = 0

    def add(self, point: NDArray[np.float64]) -> None:
        if self._n == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._n] = point[1:]
        self._n += 1

    def dominates(self, point: NDArray[np.float64]) -> bool:
        """Whether one dominates a later point; in the first objective none is worse."""
        if self._rows.shape[1] == 1:  # the last one has the least
            return bool(self._rows[self._n - 1, 0] <= point[1])
        return bool((self._rows[: self._n] <= point[1:]).all(axis=1).any())
