"""Inputs of training: what is taken, and one sentence that names the place of what isn't."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.operations import parse
from visiondyno.specs.training import EarlyStopping, Hyperparameters
from visiondyno.specs.training_operations import (
    EvaluateModuleInput,
    ExportModuleInput,
    TrainEpochInput,
    TrainInput,
)

LAYERS = [{"type": "linear", "in_features": 4, "out_features": 2}]
EPOCH: dict[str, Any] = {
    "operation": "train_epoch",
    "model_config": {"type": "sequential", "layers": LAYERS},
    "training_data": {"features": [[1.0, 2.0, 3.0, 4.0]], "labels": [0]},
    "hyperparameters": {
        "optimizer": "adam",
        "learning_rate": 0.001,
        "loss_function": "cross_entropy",
    },
    "model_state": None,
}


def test_the_documented_train_epoch_is_taken() -> None:
    spec = parse(TrainEpochInput, EPOCH, "train_epoch")
    assert spec.config.layers[0].type == "linear"
    assert spec.config.layers[0].arguments == {"in_features": 4, "out_features": 2}
    assert spec.training_data.features_array().tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert spec.hyperparameters.learning_rate == 0.001
    assert spec.model_state is None
    assert spec.seed_used == 0


def test_the_documented_train_and_evaluate_are_taken() -> None:
    model = {"type": "exported", "program": "sha256:" + "0" * 64}
    train = parse(
        TrainInput,
        {
            "operation": "train",
            "model_config": model,
            "training_data": "mnist:train",
            "validation_data": "mnist:test",
            "hyperparameters": {},
            "epochs": 10,
            "early_stopping": {"monitor": "val_loss", "patience": 3},
            "seed": 5,
        },
        "train",
    )
    assert (train.training_data, train.validation_data, train.seed_used) == (
        "mnist:train",
        "mnist:test",
        5,
    )
    assert train.early_stopping == EarlyStopping(monitor="val_loss", patience=3)
    evaluate = parse(
        EvaluateModuleInput,
        {
            "operation": "evaluate",
            "model_config": model,
            "model_state": "AAAA",
            "validation_data": "digits",
            "hyperparameters": None,
        },
        "evaluate",
    )
    assert evaluate.hyperparameters == Hyperparameters()


def test_an_input_survives_json() -> None:
    spec = parse(TrainEpochInput, EPOCH, "train_epoch")
    text = spec.model_dump_json(by_alias=True)
    assert TrainEpochInput.model_validate_json(text) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 3},
        {"hyperparameters": {"seed": 3}},
        {"seed": 3, "hyperparameters": {"seed": 3}},
    ],
    ids=["top", "hyperparameters", "both alike"],
)
def test_a_seed_is_found_in_either_place(change: dict[str, Any]) -> None:
    payload = EPOCH | {"operation": "train"} | change
    assert parse(TrainInput, payload, "train").seed_used == 3


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (TrainEpochInput, {"model_config": {"type": "keras"}}, ["model_config", "keras"]),
        (TrainEpochInput, {"model_config": {}}, ["'model_config': it names no 'type'; give one"]),
        (TrainEpochInput, {"model_config": {"type": "sequential", "layers": []}}, ["layers"]),
        (TrainEpochInput, {"model_config": {"type": "sequential", "layers": [{}]}},
         ["model_config.sequential.layers.0.type"]),
        (TrainEpochInput, {"training_data": {"features": [], "labels": []}},
         ["training_data", "no sample"]),
        (TrainEpochInput, {"training_data": {"features": [[1], [2]], "labels": [0]}},
         ["2 samples", "'labels' 1"]),
        (TrainEpochInput, {"training_data": {"features": [[1, 2], [3]], "labels": [0, 1]}},
         ["features[1]", "2 values", "got 1 values"]),
        (TrainEpochInput, {"training_data": {"features": [[1, 2], 3], "labels": [0, 1]}},
         ["features[1]", "got 3"]),
        (TrainEpochInput, {"training_data": {"features": [[1, "2"]], "labels": [0]}},
         ["features[0][1]", "got '2'"]),
        (TrainEpochInput, {"training_data": {"features": [[1, [2, 3]]], "labels": [0]}},
         ["features[0][1]", "a list of 2"]),
        (TrainEpochInput, {"training_data": {"features": [[1.0, math.nan]], "labels": [0]}},
         ["features[0][1]", "nan"]),
        (TrainEpochInput, {"training_data": {"features": [[1.0]], "labels": [-math.inf]}},
         ["labels[0]", "-inf"]),
        (TrainEpochInput, {"training_data": {"features": [["x" * 99]], "labels": [0]}},
         ["features[0][0]", "..."]),
        (TrainEpochInput, {"training_data": ""}, ["training_data.reference"]),
        (TrainEpochInput, {"hyperparameters": {"learning_rate": -1}}, ["learning_rate"]),
        (TrainEpochInput, {"hyperparameters": {"lerning_rate": 1}}, ["lerning_rate"]),
        (TrainEpochInput, {"hyperparameters": {"scheduler_step": "batch"}}, ["'scheduler'"]),
        (TrainEpochInput, {"optimizer_state": "AAAA"}, ["optimizer_state"]),
        (TrainEpochInput, {"device": "tpu"}, ["device", "tpu"]),
        (TrainInput, {"operation": "train", "early_stopping": {}},
         ["early_stopping.monitor", "validation_data"]),
        (TrainInput, {"operation": "train", "early_stopping": {"monitor": "loss"}},
         ["early_stopping.monitor", "loss"]),
        (TrainInput, {"operation": "train", "seed": 1, "hyperparameters": {"seed": 2}},
         ["'seed' is 1", "2"]),
        (TrainInput, {"operation": "train", "epochs": 0}, ["epochs"]),
    ],
)  # fmt: skip
def test_a_wrong_input_is_one_sentence_with_its_place(
    kind: type, change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        parse(kind, EPOCH | change, "train")
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    whole=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_inline_numbers_arrive_exactly(shape: list[int], whole: bool, seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    values = generator.normal(size=shape) * 1e6
    expected = np.rint(values).astype(np.int64) if whole else values
    data = InlineData(features=expected.tolist(), labels=[0] * shape[0])
    assert data.features_array().dtype == expected.dtype
    assert np.array_equal(data.features_array(), expected)
    assert data.labels_array().dtype == np.int64


def test_whole_numbers_beyond_64_bits_become_fractions_or_are_refused() -> None:
    data = InlineData(features=[[2**70]], labels=[0])
    assert data.features_array().tolist() == [[float(2**70)]]
    with pytest.raises(ValueError, match="features"):
        InlineData(features=[[10**400]], labels=[0])


def test_samples_without_numbers_have_a_shape() -> None:
    assert InlineData(features=[[], []], labels=[0, 1]).features_array().shape == (2, 0)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_that_lie_too_deep_are_refused() -> None:
    deep = {"x": nested(33)}
    for part in (
        {"hyperparameters": {"optimizer_arguments": deep}},
        {"model_config": {"type": "timm", "name": "resnet18", "arguments": deep}},
        {"model_config": {"type": "sequential", "layers": [{"type": "relu"} | deep]}},
    ):
        with pytest.raises(SpecError, match="deeper than 32"):
            parse(TrainEpochInput, EPOCH | part, "train_epoch")
    assert Hyperparameters(optimizer_arguments={"x": nested(31)}).optimizer == "adam"


@pytest.mark.parametrize("device", ["cuda:\u0663", "cuda:" + "9" * 40, "cuda:-1", "mps"])
def test_an_impossible_device_is_refused(device: str) -> None:
    with pytest.raises(SpecError, match="'device'"):
        parse(TrainEpochInput, EPOCH | {"device": device}, "train_epoch")


@pytest.mark.parametrize("shape", [[2**40], [10**400], [1000] * 8])
def test_a_sample_that_no_memory_holds_is_refused(shape: list[int]) -> None:
    job = {"operation": "export", "model_config": EPOCH["model_config"], "input_shape": shape}
    with pytest.raises(SpecError, match=r"'input_shape'.*1,000,000,000 numbers"):
        parse(ExportModuleInput, job, "export")
