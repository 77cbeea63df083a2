"""What is taken of a model of Keras: no code, no files, nothing that torch can't keep."""

import contextlib
import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras_cases import L, described, keras, mlp
from training_cases import model_config, torch

from visiondyno.errors import SpecError
from visiondyno.specs.operations import parse
from visiondyno.specs.training_operations import TrainEpochInput
from visiondyno.training.keras_config import LAYERS, checked_config
from visiondyno.training.modules import build_module

pytestmark = [
    pytest.mark.torch,
    # Of Keras itself, with NumPy 2.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*"),
]


def test_every_known_layer_is_one_of_keras() -> None:
    assert all(issubclass(getattr(L, name), L.Layer) for name in LAYERS)
    runs_code_or_reads_files = {
        "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup",
        "IntegerLookup", "TextVectorization", "Wrapper", "Layer", "Hashing", "HashedCrossing",
    }  # fmt: skip
    assert not LAYERS & runs_code_or_reads_files


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
