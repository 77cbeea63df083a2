"""Small models of Keras on torch for the tests of training.

Tests that take from here are skipped without Keras or torch.
"""

import json
import os
from typing import Any

import pytest
from training_cases import model_config

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
L = keras.layers


def described(model: Any) -> dict[str, Any]:
    """The config that Keras writes of a model."""
    content: dict[str, Any] = json.loads(model.to_json())
    return content


def config_of(model: Any) -> Any:
    """The model as a typed model config."""
    return model_config({"type": "keras", "model": described(model)})


def mlp() -> Any:
    """Three classes of four features, with dropout and statistics of batches."""
    return keras.Sequential(
        [
            L.Input((4,)),
            L.Dense(8),
            L.BatchNormalization(),
            L.Activation("relu"),
            L.Dropout(0.25),
            L.Dense(3),
        ]
    )
