"""The keras runtime: Keras' own files, converted by Keras itself and run as ONNX."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_cases import NAMES

from contracts.runtime_contract import RuntimeContract, Target, some_images
from visiondyno.errors import MissingExtra, ModelError
from visiondyno.predictions import Classification
from visiondyno.runtimes import conversion, keras, tensorflow
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.conversion import convert, kept
from visiondyno.runtimes.conversion_check import ConversionError, largest_difference
from visiondyno.runtimes.keras import KerasRuntime
from visiondyno.runtimes.keras_conversion import refuse_code
from visiondyno.runtimes.model_cards import write_card
from visiondyno.runtimes.registry import fetch_weights, load_model
from visiondyno.runtimes.saved_model_conversion import chosen_signature
from visiondyno.runtimes.tensorflow import TensorFlowRuntime

pytestmark = pytest.mark.torch

h5py = pytest.importorskip("h5py", reason="the extra 'keras' isn't installed")

SIDE = 16
CARD = """\
schema: visiondyno.model/1
task: classification
head: classification
classes: [car, truck, sign]
input: {height: 16, width: 16, resize: stretch, layout: nhwc}
"""
WRITE = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras
keras.utils.set_random_seed(3)
layers = keras.layers
model = keras.Sequential([
    keras.Input((16, 16, 3)), layers.Conv2D(8, 3, strides=2, activation="relu"),
    layers.BatchNormalization(), layers.GlobalAveragePooling2D(),
    layers.Dense(3, activation="softmax", name="output"),
])
model.save(sys.argv[1] + "/classifier.keras")
model.save(sys.argv[1] + "/old.h5")
model.save_weights(sys.argv[1] + "/only.weights.h5")
image = layers.Input((16, 16, 3))
two = keras.Model([image, layers.Input((4,))], layers.Flatten()(image))
two.save(sys.argv[1] + "/two.keras")
code = keras.Sequential([keras.Input((16, 16, 3)), layers.Lambda(lambda x: x * 2)])
code.save(sys.argv[1] + "/code.keras")
"""


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of models, in a process of its own: Keras has one backend a process.

    What is converted is kept for the whole module.
    """
    import os
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("keras")
    environment = os.environ | {"KERAS_HOME": str(folder / "home")}
    subprocess.run([sys.executable, "-c", WRITE, str(folder)], check=True, env=environment)
    for name in ("classifier", "old"):
        (folder / f"{name}.model.yaml").write_text(CARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


class TestKerasRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, keras_files: Path) -> Target:
        references = (str(keras_files / "classifier.keras"), str(keras_files / "old.h5"))
        return Target(KerasRuntime(), references, "no-such-model.keras")


def test_a_converted_model_says_so(keras_files: Path) -> None:
    path = keras_files / "classifier.keras"
    fetch_weights(str(path))
    with load_model(str(path)) as model:
        said = model.description
        assert said.card.classes == NAMES
        assert said.card_source["classes"] == "card classifier.model.yaml"
        assert said.runtime.startswith("onnxruntime ")
        assert said.file_bytes == path.stat().st_size
        assert said.batch_size is None
        assert model.files == (path,)
        (note,) = [one for one in said.notes if "Converted to ONNX by keras" in one]
        assert "on torch" in note
        assert "(earlier)" in note
        by_keras = model.predict(some_images(3))
    with load_model(str(keras_files / "old.h5")) as model:
        assert model.description.digest != said.digest
        for left, right in zip(by_keras, model.predict(some_images(3)), strict=True):
            assert isinstance(left, Classification)
            assert isinstance(right, Classification)
            np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-6)


def test_a_guessed_input_is_told(keras_files: Path) -> None:
    path = keras_files / "classifier.keras"
    card = card_path(path)
    written = card.read_text()
    card.unlink()
    try:
        with load_model(str(path)) as model:
            assert model.description.card.classes == ("class 0", "class 1", "class 2")
            assert keras.INPUT_NOTE in model.description.notes
            assert model.description.card.activation == "none"
        write_card(path)
        with load_model(str(path)) as model:
            assert keras.INPUT_NOTE not in model.description.notes
    finally:
        card.write_text(written)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("code.keras", "its layer 'Lambda' would run code of its own"),
        ("two.keras", "it has 2 inputs, where an image is one"),
        ("only.weights.h5", "it holds weights alone; save the whole model by model.save()"),
    ],
)
def test_what_can_not_be_converted_is_one_sentence(
    name: str, sentence: str, keras_files: Path
) -> None:
    path = keras_files / name
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert str(caught.value).startswith(f"{path} can't be converted to ONNX: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_what_is_no_file_of_keras(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("<html>Not found</html>")
    with pytest.raises(ModelError, match=r"it is neither a \.keras archive nor an HDF5 file"):
        load_model(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.bin", b"")
    # An archive is none of Keras' under the other name.
    said = {"m.keras": "an archive without a model in it", "m.h5": "neither .* nor an HDF5 file"}
    with pytest.raises(ModelError, match=said[name]):
        load_model(str(path))


@pytest.mark.parametrize(
    "part",
    [
        {"class_name": "TFSMLayer", "module": "keras.layers"},
        {"class_name": "system", "module": "os"},
        {"class_name": "Layer", "module": "kerasque.layers"},
    ],
    ids=["class", "module", "module-like-keras"],
)
def test_parts_that_are_not_keras_own_are_refused(part: dict[str, Any]) -> None:
    fine = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3}}
    refuse_code({"class_name": "Sequential", "module": "keras", "config": {"layers": [fine]}})
    with pytest.raises(ConversionError, match=r"code of its own|only Keras' own are made"):
        refuse_code({"class_name": "Sequential", "config": {"layers": [fine, {"x": [part]}]}})


def test_an_archive_behind_an_hdf5_file_does_not_speak_for_it(tmp_path: Path) -> None:
    path = tmp_path / "both.h5"
    code = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda"}]}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(code)
    fine = {"class_name": "Sequential", "module": "keras", "config": {"layers": []}}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", json.dumps(fine))
    with pytest.raises(ModelError, match="its layer 'Lambda' would run code of its own"):
        load_model(str(path))


# ---- what is kept


def test_a_conversion_that_answers_otherwise_is_refused(
    keras_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = kept_file(keras_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for difference in (0.5, float("nan"), float("inf")):
        model = onnx.load(made)
        del model.metadata_props[:]
        said = json.dumps({"by": "a converter", "difference": difference})
        model.metadata_props.add(key=conversion.METADATA_KEY, value=said)
        wrong = tmp_path / "wrong.onnx"
        onnx.save(model, wrong)
        copy = ["-c", f"import shutil, sys; shutil.copy({str(wrong)!r}, sys.argv[2])"]
        with pytest.raises(ModelError, match=r"by a converter, answers otherwise"):
            convert(tmp_path / "m.keras", "sha256:00", copy)
        assert kept("sha256:00") is None


def kept_file(keras_files: Path) -> Path:
    fetch_weights(str(keras_files / "classifier.keras"))
    return next((keras_files / "cache" / "visiondyno" / "converted").glob("*.onnx"))


def test_a_damaged_conversion_is_made_again(
    keras_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = kept_file(keras_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    copy = ["-c", f"import shutil, sys; shutil.copy({str(made)!r}, sys.argv[2])"]
    first = convert(tmp_path / "m.keras", "sha256:00", copy)
    assert first.is_new
    assert "just now, which is in its load time" in first.note
    again = kept("sha256:00")
    assert again is not None
    assert not again.is_new
    first.path.write_bytes(first.path.read_bytes()[:500])
    assert kept("sha256:00") is None


def test_a_converter_that_dies_or_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "m.keras"
    for code, sentence in (
        ("import os; os.abort()", "its converter died of signal 6"),
        ("pass", "nothing came of it"),
        ("raise SystemExit(3)", "its converter ended with code 3"),
        ("import sys; sys.stderr.write('not so'); raise SystemExit(1)", "not so"),
        ("raise ValueError('a\\nb ' + 'c' * 400)", "a b"),
    ):
        with pytest.raises(ModelError) as caught:
            convert(source, "sha256:00", ["-c", code])
        assert sentence in str(caught.value)
        assert len(str(caught.value)) < 500
    monkeypatch.setattr(conversion, "_LIMIT_S", 0.05)
    with pytest.raises(ModelError, match="couldn't be converted to ONNX within"):
        convert(source, "sha256:00", ["-c", "import time; time.sleep(20)"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(ModelError, match="can't be written"):
        convert(source, "sha256:00", ["-c", "pass"])


def test_the_largest_difference_is_relative_and_never_hidden() -> None:
    one, nan = np.array([[4.0, -8.0]]), np.array([[4.0, np.nan]])
    assert largest_difference([one], [one + 0.4]) == pytest.approx(0.05)
    assert largest_difference([one, one], [one, one * 2]) == pytest.approx(1.0)
    assert largest_difference([one], [one[:, :1]]) == float("inf")
    assert largest_difference([one], [nan]) == float("inf")
    assert largest_difference([nan], [nan]) == float("inf")


# ---- extras


def test_missing_extras_of_keras_name_the_command(
    keras_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = str(keras_files / "classifier.keras")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for hidden, extra in ((("keras",), "keras"), (("torch", "tensorflow"), "torch")):
        monkeypatch.setattr(keras, "find_spec", lambda name, h=hidden: None if name in h else name)
        with pytest.raises(MissingExtra, match=rf"pip install 'visiondyno\[{extra}\]'"):
            load_model(path)


def test_tensorflow_is_tried_where_torch_fails(
    keras_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fails(path: Path, digest: str, command: list[str]) -> None:
        tried.append(command[-1])
        raise ModelError(f"not by {command[-1]}")

    monkeypatch.setattr(keras, "find_spec", lambda name: name)
    monkeypatch.setattr(keras, "convert", fails)
    with pytest.raises(ModelError, match="not by torch"):
        load_model(str(keras_files / "two.keras"))
    assert tried == ["torch", "tensorflow"]


def saved_model(folder: Path) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    (folder / "variables" / "variables.index").write_bytes(b"weights")
    return folder


def test_a_saved_model_without_tensorflow_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorflow, "find_spec", lambda name: None)
    path = saved_model(tmp_path / "model")
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[tensorflow\]'"):
        load_model(str(path))
    with pytest.raises(ModelError, match=r"is no SavedModel; give the folder"):
        TensorFlowRuntime().fetch(str(tmp_path))


def test_a_saved_model_that_was_converted_before_needs_no_tensorflow(
    keras_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kept_file(keras_files)
    monkeypatch.setattr(tensorflow, "find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = saved_model(tmp_path / "model")
    files = (path / "saved_model.pb", path / "variables" / "variables.index")
    copy = ["-c", f"import shutil, sys; shutil.copy({str(made)!r}, sys.argv[2])"]
    convert(path, tensorflow.files_digest(files), copy)
    (tmp_path / "model.model.yaml").write_text(CARD)
    TensorFlowRuntime().fetch(str(path))
    with load_model(str(path), LoadOptions(intra_op_threads=1)) as model:
        assert model.files == (path, *files)
        assert model.description.file_bytes == sum(one.stat().st_size for one in files)
        assert model.description.card.classes == NAMES
    assert write_card(path, force=True) == tmp_path / "model.model.yaml"


def test_a_saved_model_by_tensorflow_itself(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")

    class Module(tf.Module):  # type: ignore[misc]  # it has no types
        @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)])
        def answer(self, images: Any) -> dict[str, Any]:
            return {"output": tf.nn.softmax(tf.reduce_mean(images, axis=[1, 2]))}

    module = Module()
    path = tmp_path / "model"
    tf.saved_model.save(module, str(path), signatures=module.answer)
    with load_model(str(path)) as model:
        (found,) = model.predict([np.zeros((SIDE, SIDE, 3), np.uint8)])
        assert isinstance(found, Classification)
        assert found.probabilities.sum() == pytest.approx(1)
        assert any("Converted to ONNX by tf2onnx" in note for note in model.description.notes)


def test_the_signature_for_serving_is_converted() -> None:
    assert chosen_signature(("serve", "serving_default")) == "serving_default"
    assert chosen_signature(("detect",)) == "detect"
    for names in ((), ("a", "b")):
        with pytest.raises(ConversionError, match="no signature 'serving_default'"):
            chosen_signature(names)
