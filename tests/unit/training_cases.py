"""Small modules, samples and hyperparameters for the tests of training.

The tests take torch from here: without it, their modules are skipped as a whole.
"""

from typing import Any

import pytest
from pydantic import TypeAdapter

from visiondyno.specs.training import Hyperparameters, ModelConfig
from visiondyno.training.data import TensorSamples
from visiondyno.training.modules import build_module
from visiondyno.training.session import TrainingSession

torch = pytest.importorskip("torch")
nn = torch.nn

# Small modules are faster so, and other tests keep their cores.
torch.set_num_threads(1)

CPU = torch.device("cpu")
CLASSES = 3

MLP = {
    "type": "sequential",
    "layers": [
        {"type": "linear", "in_features": 4, "out_features": 8},
        {"type": "batch_norm1d", "num_features": 8},
        {"type": "relu"},
        {"type": "dropout", "p": 0.25},
        {"type": "linear", "in_features": 8, "out_features": CLASSES},
    ],
}


def model_config(payload: dict[str, Any]) -> Any:
    """`payload` as a typed model config."""
    return TypeAdapter(ModelConfig).validate_python(payload)


def sequential(*layers: dict[str, Any]) -> Any:
    """A sequence of layers."""
    return model_config({"type": "sequential", "layers": list(layers)})


def linear(inputs: int, outputs: int) -> Any:
    """One linear layer."""
    return sequential({"type": "linear", "in_features": inputs, "out_features": outputs})


def class_samples(count: int = 40, features: int = 4, classes: int = CLASSES) -> TensorSamples:
    """Noise whose first features tell the class."""
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(count, features, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    values[torch.arange(count), labels % features] += 2
    return TensorSamples(values, labels)


def session(
    payload: dict[str, Any] | None = None, *, seed: int = 0, **hyper: Any
) -> TrainingSession:
    """A session of the MLP, or of `payload`, on the processor."""
    parts = {"batch_size": 16, "learning_rate": 0.05} | hyper
    if parts["learning_rate"] is None:
        del parts["learning_rate"]
    module = build_module(model_config(payload or MLP), seed=seed)
    return TrainingSession(module, Hyperparameters(**parts), CPU, seed=seed, total_steps=30)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether all weights and buffers are equal, bit by bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
