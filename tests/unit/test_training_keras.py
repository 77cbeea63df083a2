"""Models of Keras as torch modules: their weights and numbers, resuming, and Keras itself."""

import json
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from keras_cases import L, config_of, described, keras, mlp
from training_cases import CPU, class_samples, same_weights, torch

from visiondyno.errors import MissingExtra, SpecError, Unavailable
from visiondyno.specs.training import Hyperparameters
from visiondyno.state import from_module, load_into
from visiondyno.training.checks import output_shape
from visiondyno.training.data import TensorSamples
from visiondyno.training.keras_config import checked_config
from visiondyno.training.modules import build_module
from visiondyno.training.session import TrainingSession

pytestmark = [
    pytest.mark.torch,
    # Of Keras itself, with NumPy 2.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*"),
]


def branched() -> Any:
    """Attention, recurrence, shared and nested layers, operations written as arithmetic."""
    taken = L.Input((6, 4))
    flowing = L.Bidirectional(L.LSTM(5, return_sequences=True, dropout=0.1))(taken)
    flowing = L.MultiHeadAttention(2, 3, dropout=0.2)(flowing, flowing)
    inner = keras.Sequential([L.Input((10,)), L.Dense(3, activation="gelu")])
    flowing = L.TimeDistributed(inner)(flowing)
    flowing = L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.GRUCell(2)]))(flowing)
    shared = L.Dense(2, kernel_initializer=keras.initializers.HeNormal(seed=5))
    flowing = L.Add()([shared(flowing), keras.ops.relu(shared(flowing)) * 2 + 1])
    return keras.Model(taken, L.Reshape((2, 1))(flowing)[:, :, 0])


def images() -> Any:
    return keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Rescaling(0.5),
            L.SeparableConv2D(4, 3, activation=keras.activations.silu),
            L.MaxPooling2D(),
            L.LayerNormalization(),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )


SHAPES = {"mlp": (4,), "branched": (6, 4), "images": (8, 8, 1)}

MODELS = {"mlp": mlp, "branched": branched, "images": images}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_keras_model_answers_as_keras_does_and_gives_its_weights_back(name: str) -> None:
    model = MODELS[name]()
    module = build_module(config_of(model), seed=3)
    assert module.training
    state = from_module(module)
    model.set_weights([np.asarray(state[key]) for key in sorted(state)])
    features = torch.randn(5, *SHAPES[name], generator=torch.Generator().manual_seed(1))
    module.eval()
    with torch.no_grad():
        assert torch.equal(module(features), model(features, training=False))
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {
        key for key in state if "moving_" not in key
    }


def drawn_next() -> tuple[Any, ...]:
    """The states of the process's generators of random numbers."""
    numpy = np.random.get_state()  # noqa: NPY002 (the one that Keras draws from)
    return random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_keras_models_weights_are_a_function_of_the_seed(name: str) -> None:
    config = config_of(MODELS[name]())
    random.seed(4)
    before = drawn_next()
    first = build_module(config, seed=3)
    assert drawn_next() == before
    MODELS[name]()  # names and seeds that others draw in the process don't matter
    again, other = build_module(config, seed=3), build_module(config, seed=4)
    assert same_weights(first, again)
    assert first.state_dict().keys() == other.state_dict().keys()
    assert not same_weights(first, other)


def keras_session(config: Any, seed: int = 1) -> TrainingSession:
    hyper = Hyperparameters(batch_size=16, learning_rate=0.05)
    return TrainingSession(build_module(config, seed=0), hyper, CPU, seed=seed)


def test_a_keras_model_with_dropout_resumes_bit_by_bit() -> None:
    config, samples = config_of(mlp()), class_samples()
    whole = keras_session(config)
    metrics = [whole.train_epoch(samples)]
    whole.end_epoch(metrics[0])
    metrics.append(whole.train_epoch(samples))

    first = keras_session(config)
    first.end_epoch(first.train_epoch(samples))
    resumed = keras_session(config)
    resumed.load_state(first.state())
    torch.rand(7)  # whatever else the process draws
    assert resumed.train_epoch(samples) == metrics[1]
    assert same_weights(resumed.module, whole.module)
    other_seed = keras_session(config, seed=2)
    assert other_seed.train_epoch(samples) != metrics[0]


def test_a_keras_models_dropout_and_statistics_follow_the_mode_of_the_module() -> None:
    module = build_module(config_of(mlp()))
    features = class_samples().features(torch.arange(16))
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.eval()
    assert torch.equal(module(features), module(features))
    assert all(torch.equal(buffers[name], b) for name, b in module.named_buffers())
    module.train()
    assert not torch.equal(module(features), module(features))
    assert not any(torch.equal(buffers[name], b) for name, b in module.named_buffers())


def test_a_keras_models_shapes_are_found_without_touching_it() -> None:
    module = build_module(config_of(mlp()))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert output_shape(module, class_samples(), 5) == (5, 3)
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    wrong = TensorSamples(torch.zeros(3, 7), torch.zeros(3))
    with pytest.raises(SpecError, match=r"can't take a batch of shape \(3, 7\)"):
        output_shape(module, wrong, 3)


def test_a_keras_models_state_goes_into_another_of_its_kind() -> None:
    config, samples = config_of(mlp()), class_samples()
    trained = keras_session(config)
    losses = [trained.train_epoch(samples)["loss"] for _ in range(3)]
    assert losses[-1] < losses[0]
    other = build_module(config, seed=9)
    load_into(other, from_module(trained.module))
    assert same_weights(other, trained.module)


def test_a_frozen_keras_layer_stays_as_it_is() -> None:
    model = mlp()
    model.layers[0].trainable = False
    config = config_of(model)
    trained = keras_session(config)
    trained.train_epoch(class_samples())
    fresh = build_module(config, seed=0).state_dict()
    kept = {name for name, t in trained.module.state_dict().items() if torch.equal(t, fresh[name])}
    assert {name for name in fresh if "dense/" in name} <= kept
    assert not {name for name in fresh if "dense_1/" in name} & kept


def test_what_a_keras_model_was_compiled_with_is_left_out() -> None:
    model = mlp()
    model.compile("adam", "mse", metrics=["accuracy"])
    assert "optimizer" in json.dumps(described(model))
    assert "compile_config" not in checked_config(described(model))
    assert build_module(config_of(model))(torch.zeros(2, 4)).shape == (2, 3)


def test_an_absent_keras_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(mlp())
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(MissingExtra, match=r"'visiondyno\[keras\]'"):
        build_module(config)


def test_keras_on_another_backend_is_told_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(mlp())
    # No other backend can be had here: the process only says that it has one.
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(Unavailable, match=r"backend 'tensorflow'.+KERAS_BACKEND=torch"):
        build_module(config)


FRESH_PROCESS = """
import os, sys, json
from pydantic import TypeAdapter
from visiondyno.specs.training import ModelConfig
from visiondyno.training.modules import build_module
config = TypeAdapter(ModelConfig).validate_python(json.loads(sys.stdin.read()))
print(type(build_module(config)).__name__, os.environ.get("KERAS_BACKEND"))
"""


def test_keras_runs_on_torch_whatever_the_environment_says() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS],
        input=json.dumps({"type": "keras", "model": described(mlp())}),
        env=os.environ | {"KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert answer.stdout == "KerasModule tensorflow\n"
