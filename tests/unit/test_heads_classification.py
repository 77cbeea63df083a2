"""The classification head makes probabilities as its card says."""

import numpy as np
import pytest

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification
from visiondyno.specs.model_card import InputCard, ModelCard
from visiondyno.vision.heads import HEADS
from visiondyno.vision.preprocess import Geometry

GEOMETRY = Geometry(1, 1, 0, 0, 8, 8)
LOGITS = np.array([[1.0, 2.0, -500.0], [90.0, 90.0, 0.0]], np.float32)


def read(output: np.ndarray, activation: str) -> np.ndarray:
    card = ModelCard.model_validate(
        {
            "task": "classification",
            "head": "classification",
            "classes": ("a", "b", "c"),
            "input": InputCard(height=8, width=8),
            "activation": activation,
        }
    )
    found = HEADS["classification"].decode([output], card, [GEOMETRY] * len(output), 0.0)
    assert all(isinstance(one, Classification) for one in found)
    return np.stack([one.probabilities for one in found])  # type: ignore[union-attr]


def test_softmax_is_stable() -> None:
    e = np.exp(1)
    expected = [[1 / (1 + e), e / (1 + e), 0], [0.5, 0.5, 0]]
    np.testing.assert_allclose(read(LOGITS, "softmax"), expected, atol=1e-6)


def test_sigmoid_answers_for_each_class_by_itself() -> None:
    found = read(LOGITS, "sigmoid")
    scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64).clip(-50)))
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_probabilities_pass_as_they_are_also_with_axes_of_one() -> None:
    values = np.array([[0.25, 0.5, 0.25]], np.float16)
    np.testing.assert_array_equal(read(values, "none"), values)
    np.testing.assert_array_equal(read(values[..., None, None], "none"), values)


def test_logits_that_pass_for_probabilities_are_refused() -> None:
    for wrong in (LOGITS, np.array([[0.5, 0.7, 0.5]], np.float32)):
        with pytest.raises(ModelError, match="activation: softmax"):
            read(wrong, "none")


def test_maps_are_refused() -> None:
    with pytest.raises(ModelError, match="reads an output"):
        read(np.zeros((1, 3, 4, 4), np.float32), "softmax")
    with pytest.raises(ModelError, match="has 4 classes, but 3"):
        read(np.zeros((1, 4), np.float32), "softmax")
