"""Jobs of training, and what their answers hold.

Tests that take from here are skipped without torch.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from training_cases import MLP, class_samples, torch

from visiondyno.operations.context import OperationContext
from visiondyno.state import decode, from_text
from visiondyno.worker import run


def data(count: int = 40) -> dict[str, Any]:
    """Inline data of three classes."""
    samples = class_samples(count)
    features = samples.features(torch.arange(count))
    return {"features": features.double().tolist(), "labels": samples.labels.tolist()}


HYPER: dict[str, Any] = {"learning_rate": 0.05, "batch_size": 16}

EPOCH: dict[str, Any] = {
    "operation": "train_epoch",
    "model_config": MLP,
    "training_data": data(),
    "hyperparameters": HYPER,
    "threads": 1,
}

TRAIN: dict[str, Any] = EPOCH | {
    "operation": "train",
    "validation_data": data(21),
    "epochs": 4,
}


def done(
    job: dict[str, Any],
    on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
    **context: Any,
) -> Any:
    """The job's output, as it would cross a wire; `context` goes to the operation's context."""
    output = run(json.loads(json.dumps(job)), OperationContext(on_progress, **context))
    return json.loads(json.dumps(output, allow_nan=False))


def carried(answer: dict[str, Any], *more: str) -> dict[str, Any]:
    """What a client sends back of an answer."""
    names = ("model_state", "model_state_format", *more)
    return {name: answer[name] for name in names}


def weights(answer: dict[str, Any]) -> dict[str, Any]:
    """The arrays of the state in an answer."""
    return decode(from_text(answer["model_state"]), answer["model_state_format"])


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the states in two answers are equal, bit by bit."""
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)
