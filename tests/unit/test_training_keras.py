"""Models of Keras as torch modules: their weights and numbers, resuming, and hostile ones."""

import contextlib
import copy
import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_cases import CPU, class_samples, model_config, same_weights, torch

from visiondyno.errors import MissingExtra, SpecError, Unavailable
from visiondyno.specs.operations import parse
from visiondyno.specs.training import Hyperparameters
from visiondyno.specs.training_operations import TrainEpochInput
from visiondyno.state import from_module, load_into
from visiondyno.training.checks import output_shape
from visiondyno.training.data import TensorSamples
from visiondyno.training.keras_config import LAYERS, checked_config
from visiondyno.training.modules import build_module
from visiondyno.training.session import TrainingSession

pytestmark = [
    pytest.mark.torch,
    # Of Keras itself, with NumPy 2.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*"),
]

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
L = keras.layers


def described(model: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(model.to_json())
    return content


def config_of(model: Any) -> Any:
    return model_config({"type": "keras", "model": described(model)})


def mlp() -> Any:
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


def test_every_known_layer_is_one_of_keras() -> None:
    assert all(issubclass(getattr(L, name), L.Layer) for name in LAYERS)
    runs_code_or_reads_files = {
        "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup",
        "IntegerLookup", "TextVectorization", "Wrapper", "Layer", "Hashing", "HashedCrossing",
    }  # fmt: skip
    assert not LAYERS & runs_code_or_reads_files


# ---- what is refused


def with_layer(layer: dict[str, Any]) -> dict[str, Any]:
    """A Sequential model with `layer` after its Input."""
    content = described(mlp())
    content["config"]["layers"].insert(1, layer)
    return content


@functools.cache
def mlp_text() -> str:
    return json.dumps(described(mlp()))


def with_setting(index: int, key: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(mlp_text())
    content["config"]["layers"][index]["config"][key] = value
    return content


def calling(module: str, name: str, *args: Any) -> dict[str, Any]:
    """A functional model with a function in a layer's place (CVE-2025-1550)."""
    content = described(keras.Model(taken := L.Input((4,)), L.Dense(3)(taken)))
    entry = {
        "module": module, "class_name": "function", "config": name, "registered_name": name,
        "name": "call", "inbound_nodes": [{"args": list(args), "kwargs": {}}],
    }  # fmt: skip
    content["config"]["layers"].append(entry)
    return content


def entry(module: Any, name: Any, config: Any = None, **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config or {}} | more


def touching(path: Path) -> Any:
    """A layer whose code writes a file."""
    target = str(path)
    return L.Lambda(lambda x: (open(target, "w").close(), x)[1])  # noqa: PTH123


def test_code_in_a_keras_model_never_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    hostile = described(keras.Sequential([L.Input((4,)), touching(touched)]))
    touched.unlink()
    keras.saving.deserialize_keras_object(copy.deepcopy(hostile), safe_mode=False)
    assert touched.exists(), "the code in it runs where nobody looks"
    touched.unlink()
    with pytest.raises(SpecError, match=r"names 'Lambda' of 'keras.layers', which isn't taken"):
        build_module(model_config({"type": "keras", "model": hostile}))
    assert not touched.exists()


@pytest.mark.parametrize("safe_mode", [True, False])
def test_each_known_attack_by_a_keras_config_is_refused(tmp_path: Path, safe_mode: bool) -> None:
    """Also where the process has switched Keras's own safety off."""
    touched = tmp_path / "touched"
    secret = tmp_path / "secret.txt"
    secret.write_text("a\nb\n")
    vocabulary = {"name": "s", "vocabulary": str(secret), "num_oov_indices": 1}
    code = {"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}}
    download = ["touched", secret.as_uri(), None, False, None, None, ".", "auto", False]
    attacks = [
        calling("os", "mkdir", str(touched)),  # CVE-2025-1550
        calling("posix", "mkdir", str(touched)),
        calling("builtins", "eval", f"open({str(touched)!r}, 'w')"),
        calling("keras.utils", "get_file", *download, str(tmp_path)),  # CVE-2025-8747
        calling("keras.src.utils.file_utils", "get_file", *download, str(tmp_path)),
        calling("keras.config", "enable_unsafe_deserialization"),  # CVE-2025-9906
        with_layer(entry("keras.config", "enable_unsafe_deserialization")),
        with_layer(entry("keras.layers", "StringLookup", vocabulary)),  # CVE-2025-12058
        with_layer(entry("keras.layers", "TFSMLayer", {"filepath": str(tmp_path)})),
        with_layer(entry("keras.layers", "TorchModuleWrapper", {"module": "gASV"})),
        with_layer(entry("keras.models", "load_model", {"filepath": str(secret)})),
        with_layer(entry("subprocess", "Popen", {"args": ["touch", str(touched)]})),
        with_layer(entry("keras.src.layers.core.lambda_layer", "Lambda", {"function": code})),
        with_layer(entry(None, "Lambda", {"function": code})),
        with_layer({"class_name": "Lambda", "config": {"function": "code"}}),  # CVE-2024-3660
        with_layer(entry("my_package", "Evil", registered_name="my_package>Evil")),
        with_layer(entry("keras.src.ops.nn", "partial")),
        with_layer(entry("keras.src.ops.nn", "backend")),
        with_layer(entry("keras.layers", "Dense", "units")),
        with_layer(entry("keras.layers", ["Dense"], {"units": 1})),
        with_setting(1, "activation", code),
        with_setting(1, "activation", entry("builtins", "function", "eval")),
        with_setting(1, "activation", entry("keras.activations", "function", "deserialize")),
        with_setting(1, "kernel_initializer", entry("keras.initializers", "get")),
        with_setting(1, "kernel_initializer", entry("keras.layers", "Lambda", {"function": code})),
        with_setting(1, "x", [[{"y": entry("os", "mkdir")}]]),
        with_setting(1, "x", {"spec_name": "TensorSpec", "module": "os", "config": []}),
        with_setting(1, "x", entry(None, "__numpy__", {"value": ["a"], "dtype": "object"})),
        with_setting(1, "x", entry(None, "__bytes__", {"value": "a"})),
        entry("keras.models", "Model", {"layers": []}),
        entry("keras", "Lambda", {"function": code}),
        {},
    ]
    if not safe_mode:
        keras.config.enable_unsafe_deserialization()
    try:
        for attack in attacks:
            payload = copy.deepcopy(attack)
            with pytest.raises(SpecError, match=r"^'model_config\.model' ") as caught:
                build_module(model_config({"type": "keras", "model": payload}))
            assert "\n" not in caught.value.message
            assert payload == attack
            assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.txt"]
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)


def test_an_object_that_the_process_has_registered_isnt_reached() -> None:
    @keras.saving.register_keras_serializable("hostile")
    class Registered(L.Layer):
        def call(self, inputs: Any) -> Any:
            raise AssertionError("it was reached")

    content = described(keras.Sequential([L.Input((4,)), L.Identity()]))
    renamed = copy.deepcopy(content)
    renamed["config"]["layers"][1]["registered_name"] = "hostile>Registered"
    module = build_module(model_config({"type": "keras", "model": renamed}))
    assert module(torch.zeros(1, 4)).shape == (1, 4)
    content["config"]["layers"][1] |= {"class_name": "Registered", "module": "tests"}
    with pytest.raises(SpecError, match="'Registered'"):
        build_module(model_config({"type": "keras", "model": content}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_name", "module", "config", "spec_name", "dtype", "name"]),
            inner | st.sampled_from(["keras.layers", "Dense", "function", "__numpy__", "relu"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(index=st.integers(0, 5), key=st.sampled_from(["dtype", "activation", "x"]), value=JSON)
def test_any_setting_of_a_keras_layer_is_copied_or_refused(
    index: int, key: str, value: Any
) -> None:
    for content in (with_setting(index, key, value), entry(value, value, value), {key: value}):
        before = copy.deepcopy(content)
        with contextlib.suppress(SpecError):
            checked_config(content)
        assert content == before


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: with_setting(1, "kernel_regularizer", "l2"), ["kernel_regularizer", "weight_dec"]),
        (lambda: with_setting(1, "bias_constraint", {"a": 1}), ["bias_constraint", "don't apply"]),
        (lambda: with_setting(1, "quantization_config", {}), ["quantised"]),
        (lambda: with_setting(1, "dtype", "int8_from_float32"), ["'int8_from_float32'"]),
        (lambda: with_setting(1, "dtype", entry("keras", "DTypePolicy", {"name": "float16"})),
         ["'float16'", "mixed_precision"]),
        (lambda: with_setting(1, "name", "a.b"), ["'a.b'"]),
        (lambda: with_setting(1, "name", "a/b"), ["can't make a model", "a/b"]),
        (lambda: with_setting(1, "units", -1), ["can't make a model", "units"]),
        (lambda: with_setting(1, "sise", 1), ["can't make a model", "sise"]),
        (lambda: with_setting(1, "x", deep(99)), ["deeper than 64"]),
        (lambda: with_setting(1, "x", [[]] * 100_001), ["100,000"]),
        (lambda: with_setting(5, "units", 2**31), ["GB", "layers smaller"]),
        (lambda: with_layer(stateful()), ["stateful"]),
        (lambda: described(keras.Sequential([L.Dense(3)])), ["begin it with an Input"]),
        (lambda: described(two_inputs()), ["2 inputs and 1 outputs"]),
    ],
)  # fmt: skip
def test_what_training_by_torch_cant_keep_of_keras_is_named(content: Any, words: list[str]) -> None:
    with pytest.raises(SpecError, match=r"'model_config\.model'") as caught:
        build_module(model_config({"type": "keras", "model": content()}))
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message


def stateful() -> dict[str, Any]:
    return entry("keras.layers", "LSTM", {"units": 2, "stateful": True})


def two_inputs() -> Any:
    first, second = L.Input((4,)), L.Input((4,))
    return keras.Model([first, second], L.Add()([first, second]))


def test_a_keras_model_isnt_compiled() -> None:
    payload = {
        "operation": "train_epoch",
        "model_config": {"type": "keras", "model": described(mlp())},
        "training_data": {"features": [[1, 2, 3, 4]], "labels": [0]},
        "hyperparameters": {"compile": True},
    }
    with pytest.raises(
        SpecError, match=r"'hyperparameters\.compile' can't be used with a model of"
    ):
        parse(TrainEpochInput, payload, "x")


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
