"""A trial that takes its time, for our workers (`module:function`), and what it is asked."""

import time
from typing import Any

from visiondyno.operations.context import OperationContext


def run(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    """Sleep, as long as the training that this stands for would take, and answer with a score."""
    time.sleep(job_input["seconds"])
    return {"score": score(job_input["params"])}


def suggest(trial: Any) -> dict[str, Any]:
    """Six parameters of Optuna's trial: two on a logarithmic scale, two whole, two of choices."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        "width": trial.suggest_int("width", 8, 128),
        "blocks": trial.suggest_int("blocks", 1, 4),
        "optimizer": trial.suggest_categorical("optimizer", ["adam", "adamw", "sgd"]),
        "kernel": trial.suggest_categorical("kernel", [3, 5]),
    }


def score(params: dict[str, Any]) -> float:
    """A smooth score of the parameters, so that the sampler has something to learn."""
    return float(-abs(params["width"] - 64) / 64 - abs(params["learning_rate"] - 1e-3))
