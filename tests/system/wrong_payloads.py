"""Payloads of trainings with one thing wrong each, and the words that name it.

Tests that take from here are skipped without torch.
"""

import base64
import hashlib
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from visiondyno.state import encode, to_safetensors, to_text

torch = pytest.importorskip("torch")

Payload = dict[str, Any]


def linear(inputs: int, outputs: int) -> Payload:
    return {"type": "linear", "in_features": inputs, "out_features": outputs}


def sequential(*layers: Payload) -> Payload:
    return {"type": "sequential", "layers": list(layers)}


def good(operation: str = "train", **changes: Any) -> Payload:
    """A right payload, but for `changes`; None takes a part out."""
    payload: Payload = {
        "operation": operation,
        "model_config": sequential(linear(4, 8), {"type": "relu"}, linear(8, 3)),
        "training_data": data(),
        "hyperparameters": {"learning_rate": 0.01, "batch_size": 4},
        "threads": 1,
    } | changes
    return {name: value for name, value in payload.items() if value is not None}


def data(count: int = 8, **changes: Any) -> Payload:
    features = [[float(row), 1.0, 2.0, 3.0] for row in range(count)]
    return {"features": features, "labels": [row % 3 for row in range(count)]} | changes


def hyper(**changes: Any) -> Payload:
    return good(hyperparameters={"batch_size": 4} | changes)


def labelled(labels: list[Any], **hyperparameters: Any) -> Payload:
    return good(training_data=data(labels=labels), hyperparameters=hyperparameters)


def with_state(state: dict[str, Any], format_name: str = "safetensors") -> Payload:
    text = base64.b64encode(to_safetensors(state)).decode()
    return good(model_state=text, model_state_format=format_name)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def saved_by_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"0.weight": torch.zeros(8, 4)}, buffer)
    return buffer.getvalue()


def delta_without_base() -> Payload:
    generator = np.random.default_rng(0)
    base = {"0.weight": generator.normal(size=(200, 40)).astype(np.float32)}
    found = encode({"0.weight": base["0.weight"] + np.float32(1e-7)}, base=base)
    assert found.format.startswith("delta")
    return good(model_state=to_text(found), model_state_format=found.format)


def damaged_program() -> Payload:
    program = torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(2, 4),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return exported(buffer.getvalue()[:-300])


def exported(program: bytes) -> Payload:
    return good(model_config={"type": "exported", "program": text_of(program)})


def of_library(kind: str, name: str, **arguments: Any) -> Payload:
    return good(model_config={"type": kind, "name": name, "arguments": arguments})


DETECTION_DATA = "of boxes"
"""Stands for a data set of boxes, which the test has to write."""

BLOB = "sha256:" + hashlib.sha256(b"nothing").hexdigest()
NAN_FEATURE = data(features=[[1.0, 2.0, 3.0, 4.0]] * 7 + [[1.0, float("nan"), 3.0, 4.0]])

CASES: dict[str, tuple[Callable[[], Payload], list[str]]] = {
    "unknown layer": (
        lambda: good(model_config=sequential({"type": "liner", "in_features": 4})),
        ["layer 0 (liner)", "'linear'"],
    ),
    "unknown layer argument": (
        lambda: good(model_config=sequential({"type": "linear", "in_featurs": 4})),
        ["layer 0 (linear)", "'in_featurs'", "'in_features'"],
    ),
    "missing layer argument": (
        lambda: good(model_config=sequential({"type": "linear", "in_features": 4})),
        ["layer 0 (linear)", "'out_features' must be given"],
    ),
    "layer argument of another type": (
        lambda: good(model_config=sequential(linear("four", 3))),  # type: ignore[arg-type]
        ["layer 0 (linear)", "argument 'in_features'", '"four"'],
    ),
    "mismatched layers": (
        lambda: good(model_config=sequential(linear(4, 8), {"type": "relu"}, linear(9, 3))),
        ["layer 2 (linear)", "expects 9 values", "got samples of shape (8,)"],
    ),
    "layers and features mismatched": (
        lambda: good(model_config=sequential(linear(5, 3))),
        ["layer 0 (linear)", "expects 5 values", "got samples of shape (4,)"],
    ),
    "an image model for vectors": (
        lambda: of_library("torchvision", "resnet18", num_classes=3),
        ["'model_config'", "shape (4, 4)", "'training_data'"],
    ),
    "no layer": (lambda: good(model_config=sequential()), ["model_config", "layers"]),
    "unknown type of model": (
        lambda: good(model_config={"type": "tensorflow", "name": "a"}),
        ["model_config", "sequential", "tensorflow"],
    ),
    "no model": (lambda: good(model_config=None), ["model_config"]),
    "unknown model of torchvision": (
        lambda: of_library("torchvision", "resnet19"),
        ["'model_config.name'", "resnet19", "'resnet18'"],
    ),
    "weights from the net": (
        lambda: of_library("torchvision", "resnet18", weights="DEFAULT"),
        ["'weights' can't be given", "'model_state'"],
    ),
    "repository of transformers": (
        lambda: of_library("transformers", "google/vit-base-patch16-224"),
        ["'model_config.name'", "repository", "nothing is downloaded"],
    ),
    "unknown loss": (
        lambda: hyper(loss_function="cross_entrpy"),
        ["'hyperparameters.loss_function'", "cross_entrpy", "'cross_entropy'"],
    ),
    "unknown optimizer": (
        lambda: hyper(optimizer="adm"),
        ["'hyperparameters.optimizer'", "adm", "'adam'"],
    ),
    "unknown optimizer argument": (
        lambda: hyper(optimizer_arguments={"beta": 0.9}),
        ["'hyperparameters.optimizer_arguments' of adam", "'beta'", "'betas'"],
    ),
    "optimizer argument out of range": (
        lambda: hyper(optimizer_arguments={"betas": [2.0, 0.9]}),
        ["'hyperparameters.optimizer_arguments' of adam", "2.0"],
    ),
    "momentum for an optimizer without": (
        lambda: hyper(momentum=0.9),
        ["'hyperparameters.momentum'", "adam takes none"],
    ),
    "unknown scheduler": (
        lambda: hyper(scheduler="cosine_anealing"),
        ["'hyperparameters.scheduler'", "cosine_anealing", "'cosine_annealing'"],
    ),
    "scheduler without its arguments": (
        lambda: hyper(scheduler="step"),
        ["'hyperparameters.scheduler_arguments' of step", "'step_size' must be given"],
    ),
    "scheduler that needs a function": (
        lambda: hyper(scheduler="lambda"),
        ["'hyperparameters.scheduler'", "function"],
    ),
    "typo in a hyperparameter": (
        lambda: hyper(learning_rte=0.1),
        ["hyperparameters.learning_rte", "did you mean 'learning_rate'?"],
    ),
    "learning rate below zero": (
        lambda: hyper(learning_rate=-1.0),
        ["hyperparameters.learning_rate", "greater than 0"],
    ),
    "huge learning rate": (
        lambda: good(
            epochs=3, hyperparameters={"optimizer": "sgd", "learning_rate": 1e30, "batch_size": 4}
        ),
        ["In epoch 1, batch 2 of 2", "the loss is", "'learning_rate'"],
    ),
    "label too high": (
        lambda: labelled([0, 1, 2, 0, 1, 3, 0, 1]),
        ["'training_data.labels'", "labels[5] is 3", "from 0 to 2", "3 outputs"],
    ),
    "negative label": (
        lambda: labelled([0, 1, -1, 0, 1, 2, 0, 1]),
        ["'training_data.labels'", "labels[2] is -1", "from 0 to 2"],
    ),
    "labels with fractions": (
        lambda: labelled([0.0, 1.5, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0]),
        ["'training_data.labels'", "whole numbers", "labels[1] is 1.5", "'mse'"],
    ),
    "labels of another shape": (
        lambda: labelled([[0.0, 1.0]] * 8, loss_function="mse"),
        ["'training_data.labels'", "(3,)", "(2,)"],
    ),
    "labels in words": (
        lambda: labelled(["car"] * 8),
        ["training_data", "'labels[0]'", "'car'"],
    ),
    "labels beyond the numbers": (
        lambda: good(
            training_data=data(labels=[[1e39, 0.0, 0.0]] * 8),
            hyperparameters={"loss_function": "mse"},
        ),
        ["training_data.labels", "[0][0]", "finite"],
    ),
    "wrong validation labels": (
        lambda: good(validation_data=data(labels=[9] * 8)),
        ["'validation_data.labels'", "labels[0] is 9"],
    ),
    "feature that is no number": (
        lambda: good(training_data=NAN_FEATURE),
        ["training_data", "'features[7][1]' is nan"],
    ),
    "ragged features": (
        lambda: good(training_data=data(features=[[1.0] * 4] * 7 + [[1.0] * 3])),
        ["training_data", "'features[7]'", "4 values", "3 values"],
    ),
    "no samples": (
        lambda: good(training_data={"features": [], "labels": []}),
        ["training_data", "'features' holds no sample"],
    ),
    "fewer labels than features": (
        lambda: good(training_data=data(labels=[0, 1])),
        ["training_data", "8 samples", "'labels' 2"],
    ),
    "no training data": (lambda: good(training_data=None), ["training_data"]),
    "unknown data set": (
        lambda: good(training_data="mnits:train"),
        ["training_data", "mnits"],
    ),
    "data set of boxes": (
        lambda: good(training_data=DETECTION_DATA),
        ["training_data", "detection"],
    ),
    "unknown blob of data": (
        lambda: good(training_data=BLOB),
        ["training_data", BLOB, "VISIONDYNO_BLOBS_URL"],
    ),
    "a batch that is never full": (
        lambda: hyper(batch_size=16, drop_last=True),
        ["'training_data' holds 8 samples", "'batch_size'"],
    ),
    "one sample to normalise by": (
        lambda: good(
            model_config=sequential(linear(4, 3), {"type": "batch_norm1d", "num_features": 3}),
            hyperparameters={"batch_size": 7},
        ),
        ["layer 1 (batch_norm1d)", "'batch_size'", "'drop_last'"],
    ),
    "state of another model": (
        lambda: with_state({"0.weight": np.zeros((8, 4), np.float32)}),
        ["model state", "lacks '0.bias'"],
    ),
    "state of another shape": (
        lambda: with_state(
            {
                "0.weight": np.zeros((8, 5), np.float32),
                "0.bias": np.zeros(8, np.float32),
                "2.weight": np.zeros((3, 8), np.float32),
                "2.bias": np.zeros(3, np.float32),
            }
        ),
        ["model state", "'0.weight' is float32 [8, 5]", "[8, 4]"],
    ),
    "torch.save as state": (
        lambda: good(model_state=text_of(saved_by_torch())),
        ["'model_state'", "pickle", "safetensors"],
    ),
    "pickle as state": (
        lambda: good(model_state=text_of(pickle.dumps({"0.weight": [0.0]}))),
        ["'model_state'", "pickle", "safetensors"],
    ),
    "12 MB inline": (
        lambda: good(model_state=text_of(bytes(9_000_000))),
        ["'model_state'", "9,000,000 bytes", "sha256:"],
    ),
    "state that isn't base64": (
        lambda: good(model_state="not base64 at all!"),
        ["'model_state'", "base64"],
    ),
    "damaged state": (
        lambda: good(model_state=text_of(to_safetensors({"a": np.zeros(9)})[:-5])),
        ["'model_state'", "bytes"],
    ),
    "unknown format of a state": (
        lambda: with_state({"a": np.zeros(1)}, "gguf"),
        ["model_state_format", "'gguf'", "safetensors"],
    ),
    "unknown blob as state": (
        lambda: good(model_state=BLOB),
        ["'model_state'", BLOB, "VISIONDYNO_BLOBS_URL"],
    ),
    "delta to a state that isn't here": (delta_without_base, ["'model_state'", "delta", "entire"]),
    "int8 without a base": (
        lambda: good(state_reply={"lossy": "int8-delta"}),
        ["'state_reply.lossy'", "int8-delta", "'model_state'"],
    ),
    "no epoch": (lambda: good(epochs=0), ["epochs", "greater than or equal to 1"]),
    "stopping by an unknown metric": (
        lambda: good(
            validation_data=data(), early_stopping={"monitor": "val_mae"}, epochs=2
        ),
        ["'early_stopping.monitor'", "'val_mae'", "'val_accuracy'"],
    ),
    "stopping by validation without any": (
        lambda: good(early_stopping={"monitor": "val_loss"}),
        ["early_stopping.monitor", "'validation_data'"],
    ),
    "two seeds": (
        lambda: good(seed=1, hyperparameters={"seed": 2}),
        ["'seed' is 1", "'hyperparameters.seed' 2"],
    ),
    "no such GPU": (lambda: good(device="cuda:63"), ["'device'", "'cuda:63'", "GPUs"]),
    "no such device": (lambda: good(device="tpu"), ["device", "auto"]),
    "several GPUs where there aren't": (
        lambda: good(device="cpu", hyperparameters={"data_parallel": True}),
        ["'hyperparameters.data_parallel'"],
    ),
    "damaged program": (damaged_program, ["'model_config.program'"]),
    "a pickle as program": (lambda: exported(saved_by_torch()), ["'model_config.program'"]),
    "unknown blob as program": (
        lambda: good(model_config={"type": "exported", "program": BLOB}),
        ["'model_config'", BLOB, "VISIONDYNO_BLOBS_URL"],
    ),
    "an empty batch": (lambda: {"operation": "batch", "operations": []}, ["operations"]),
    "unknown operation": (lambda: good("trian"), ["'operation'", "'trian'", "train_epoch"]),
    "unknown field": (lambda: good(epoch=3), ["'epoch'", "did you mean 'epochs'?"]),
    "optimizer state that is no reference": (
        lambda: good("train_epoch", optimizer_state="mine"),
        ["optimizer_state"],
    ),
    "evaluating without data": (
        lambda: good("evaluate", training_data=None),
        ["validation_data"],
    ),
    "evaluating wrong labels": (
        lambda: good("evaluate", training_data=None, validation_data=data(labels=[-5] * 8)),
        ["'validation_data.labels'", "labels[0] is -5"],
    ),
    "one epoch of wrong layers": (
        lambda: good("train_epoch", model_config=sequential(linear(4, 2), linear(3, 3))),
        ["layer 1 (linear)", "expects 3 values"],
    ),
}  # fmt: skip
