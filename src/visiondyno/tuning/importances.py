"""How much each parameter of a study mattered."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.trial import Json

if TYPE_CHECKING:
    import optuna

FEWEST_TRIALS = 10
"""Completed ones. The method looks at the best tenth: of fewer trials that would be none."""

METHOD = "PED-ANOVA"
"""Watanabe, Bansal and Hutter 2023, as Optuna computes it: how far the values that a parameter has
in the best tenth of the trials are spread otherwise than in all of them."""


_PARTS = ("low", "high", "log", "choices")


def parameter_importances(study: "optuna.Study", objectives: Sequence[Objective]) -> Json:
    """Shares of importance, of each objective by itself.

    Args:
        study: its completed trials are looked at.
        objectives: of the study, in its order.

    Returns:
        `method`; `trials`, how many were looked at; `of`: objective to parameter to share, the
        largest first, which add up to 1; `reason` why there are none, in a sentence, or None.
    """
    import optuna

    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    found: Json = {"method": METHOD, "trials": len(done), "of": {}, "reason": None}
    if len(done) < FEWEST_TRIALS:
        found["reason"] = (
            f"Importances need {FEWEST_TRIALS} completed trials, and there are {len(done)}."
        )
        return found
    for index, objective in enumerate(objectives):
        shares = _shares(done, index, objective)
        if shares:
            found["of"][objective.name] = shares
    if not found["of"]:
        found["reason"] = "Every trial had the same parameters or the same value."
    return found


def searched(study: "optuna.Study") -> Json:
    """What each parameter was drawn from: `low`, `high` and `log`, or `choices`, by its name."""
    found: Json = {}
    for trial in study.get_trials(deepcopy=False):
        for name, kind in trial.distributions.items():
            if name not in found:
                found[name] = {part: getattr(kind, part) for part in _PARTS if hasattr(kind, part)}
    return found


def _shares(done: Sequence["optuna.trial.FrozenTrial"], index: int, objective: Objective) -> Json:
    """Parameter to share for one objective; empty where nothing differs."""
    import optuna

    # A study of this objective alone: of several, Optuna would have to be told which way is better.
    alone = optuna.create_study(
        direction=objective.direction, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    alone.add_trials(
        [
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.values[index]
            )
            for trial in done
        ]
    )
    if len({trial.values[index] for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    # Unlike Optuna's own normalisation, which says that all did alike where nothing mattered.
    shares = evaluator.evaluate(alone)
    total = sum(shares.values())
    if not total > 0:
        return {}
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return {name: share / total for name, share in ranked}
