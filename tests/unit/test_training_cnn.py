"""A classifier described in a line is the sequence of layers that it says."""

from typing import Any

import pytest
from pydantic import ValidationError
from training_cases import torch

from visiondyno.errors import SpecError
from visiondyno.specs.training import CnnConfig, SequentialConfig
from visiondyno.training.cnn import layers_of
from visiondyno.training.modules import build_module

pytestmark = pytest.mark.torch


def config(shape: tuple[int, int, int], **fields: Any) -> CnnConfig:
    return CnnConfig.model_validate({"type": "cnn", "image_shape": shape, "classes": 10, **fields})


def kinds(sequence: SequentialConfig) -> list[str]:
    return [layer.type for layer in sequence.layers]


def test_it_has_the_layers_that_it_says() -> None:
    asked = config((3, 8, 8), blocks=1, convolutions=2, width=6, kernel=5, hidden=7, dropout=0.5)
    convolution = {"type": "conv2d", "out_channels": 6, "kernel_size": 5, "padding": 2}
    block = [{"type": "batch_norm2d", "num_features": 6}, {"type": "relu"}]
    expected = {"type": "sequential", "layers": [
        convolution | {"in_channels": 3}, *block,
        convolution | {"in_channels": 6}, *block,
        {"type": "max_pool2d", "kernel_size": [2, 2]},
        {"type": "flatten"},
        {"type": "dropout", "p": 0.5},
        {"type": "linear", "in_features": 96, "out_features": 7},
        {"type": "relu"},
        {"type": "dropout", "p": 0.5},
        {"type": "linear", "in_features": 7, "out_features": 10},
    ]}  # fmt: skip
    assert layers_of(asked) == SequentialConfig.model_validate(expected)
    plain = config((1, 4, 4), blocks=1, batch_norm=False, activation="gelu", dropout=0)
    assert kinds(layers_of(plain)) == ["conv2d", "gelu", "max_pool2d", "flatten", "linear"]
    module = build_module(asked, seed=3)
    same = build_module(layers_of(asked), seed=3)
    for own, other in zip(module.parameters(), same.parameters(), strict=True):
        assert own.equal(other)


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ((1, 1, 1), {"blocks": 3}),
        ((1, 5, 1), {"blocks": 4}),
        ((3, 2, 200), {"blocks": 1}),
        ((3, 224, 224), {"blocks": 2}),
        ((3, 35, 33), {"blocks": 1, "kernel": 31}),
    ],
)
def test_any_size_of_images_fits(shape: tuple[int, int, int], fields: dict[str, Any]) -> None:
    asked = config(shape, width=2, hidden=3, **fields)
    module = build_module(asked)
    assert module(torch.zeros(1, *shape)).shape == (1, 10), "a batch of one, in training"
    flat = next(layer for layer in layers_of(asked).layers if layer.type == "linear")
    assert flat.arguments["in_features"] <= 2 * 16 * 16


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kernel": 4}, "a kernel must be odd"),
        ({"blocks": 0}, "blocks"),
        ({"activation": "softmax"}, "activation"),
        ({"image_shape": (0, 8, 8)}, "image_shape"),
        ({"widht": 3}, "widht"),
    ],
)
def test_what_is_no_such_classifier_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config((1, 8, 8), **fields)


def test_one_that_is_too_large_is_refused_before_it_is_made() -> None:
    with pytest.raises(SpecError, match="make the layers smaller"):
        build_module(config((1, 8, 8), width=4096, kernel=31, convolutions=4, blocks=8))
