"""The litert runtime on small files of every kind that TensorFlow's converter writes.

They are made by scripts/litert_test_models.py.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import NAMES, detector, own_metadata, write_detectors

from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images
from visiondyno.errors import MissingExtra, ModelError, SpecError, Unavailable
from visiondyno.predictions import Classification
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.exported_metadata import metadata_behind
from visiondyno.runtimes.litert import LiteRtRuntime
from visiondyno.runtimes.litert_file import read_litert
from visiondyno.runtimes.model_cards import guess_card, write_card
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import InputCard, ModelCard, Quantisation

pytest.importorskip("ai_edge_litert")

MODELS = Path(__file__).parents[1] / "litert_models"
ULTRALYTICS = {
    "description": "Ultralytics YOLOv8n model",
    "license": "AGPL-3.0",
    "stride": 32,
    "task": "detect",
    "imgsz": [32, 32],
    "names": dict(enumerate(NAMES)),
    "args": {"nms": False},
    "end2end": False,
}


def said_behind(name: str, folder: Path, said: dict[str, Any]) -> Path:
    """A copy of the model with `said` in an archive behind it, as Ultralytics' exporters do."""
    path = folder / f"{name}.tflite"
    shutil.copy(MODELS / path.name, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps(said))
    return path


def write_litert_detectors(folder: Path) -> tuple[str, ...]:
    names = ("detector-1", "detector-4", "detector-any")
    nhwc = own_metadata(detector("yolov8", layout="nhwc"))
    paths = [said_behind(name, folder, nhwc) for name in names]
    paths.append(said_behind("detector-nchw", folder, own_metadata(detector("yolov8"))))
    return tuple(map(str, paths))


class TestLiteRtRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        classifier = tmp_path / "classifier.tflite"
        shutil.copy(MODELS / classifier.name, classifier)
        references = (*write_litert_detectors(tmp_path), str(classifier))
        return Target(LiteRtRuntime(), references, "no-such-model.tflite")


def test_every_layout_and_batch_agrees_with_the_onnx_file(tmp_path: Path) -> None:
    images = some_images(5)
    onnx_file = next(one for one in write_detectors(tmp_path) if "dynamic" in one)
    expected = load_model(onnx_file).predict(images)
    for reference in write_litert_detectors(tmp_path):
        with load_model(reference) as model:
            for left, right in zip(expected, model.predict(images), strict=True):
                assert_same(left, right)


def test_description_of_a_tflite_file(tmp_path: Path) -> None:
    sizes = {}
    for reference in write_litert_detectors(tmp_path):
        with load_model(reference, LoadOptions(intra_op_threads=2)) as model:
            said = model.description
            sizes[Path(reference).stem] = said.batch_size
            assert said.runtime == "ai-edge-litert 2.3.0"
            assert said.provider == "XNNPACK"
            assert said.precision == "fp32"
            assert said.parameters == 2 * 7 * 6
            assert said.card_source["classes"] == "metadata"
            assert said.file_bytes == Path(reference).stat().st_size
            assert model.files == (Path(reference),)
            assert not any("one thread" in note for note in said.notes)
    assert sizes == {
        "detector-1": 1, "detector-4": 4, "detector-any": None, "detector-nchw": 2,
    }  # fmt: skip
    with load_model(reference) as model:
        assert any("LiteRT uses one thread" in note for note in model.description.notes)


# ---- quantised


def probabilities_of(name: str) -> np.ndarray:
    with load_model(str(MODELS / f"{name}.tflite")) as model:
        found = model.predict(some_images(12))
    assert all(isinstance(one, Classification) for one in found)
    return np.stack([one.probabilities for one in found])  # type: ignore[union-attr]


def test_quantised_tflite_files_are_named_and_agree_with_their_original() -> None:
    expected = probabilities_of("classifier")
    assert np.ptp(expected, axis=0).max() > 0.02, "the model must tell images apart"
    kinds = {
        "classifier": "fp32", "classifier-half": "fp32", "classifier-dynamic": "int8",
        "classifier-int8": "int8", "classifier-uint8": "int8", "classifier-inside-int8": "int8",
    }  # fmt: skip
    for name, precision in kinds.items():
        facts = read_litert(MODELS / f"{name}.tflite")
        assert (name, facts.precision) == (name, precision)
        assert facts.output_operators == ("Softmax",)
        np.testing.assert_allclose(probabilities_of(name), expected, atol=0.03)


def test_integers_at_the_edges_are_read_from_the_file() -> None:
    for dtype, zero_point in (("int8", -128), ("uint8", 0)):
        path = MODELS / f"classifier-{dtype}.tflite"
        card, sources, _ = guess_card(path)
        assert card.input.dtype == dtype
        scale = Quantisation(scale=0.003921569, zero_point=zero_point)
        assert card.input.quantisation == scale
        assert card.output is not None
        assert card.output.quantisation == (Quantisation(scale=1 / 256, zero_point=-128),) or (
            dtype == "uint8"
            and card.output.quantisation == (Quantisation(scale=1 / 256, zero_point=0),)
        )
        assert sources["output"] == "shape"
        assert card.activation == "none"


def test_weights_that_are_widened_first_are_mixed(tmp_path: Path) -> None:
    """The file with halves, told that they were integers."""
    from ai_edge_litert import schema_py_generated as schema

    path = tmp_path / "stored.tflite"
    content = bytearray((MODELS / "classifier-half.tflite").read_bytes())
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        if tensor.Type() == schema.TensorType.FLOAT16:
            table = tensor._tab
            field = table.Pos + table.Offset(6)
            content[field] = schema.TensorType.INT8
    path.write_bytes(bytes(content))
    assert read_litert(path).precision == "mixed"


# ---- cards


def test_ultralytics_boxes_are_fractions_of_the_input(tmp_path: Path) -> None:
    path = said_behind("detector-any", tmp_path, ULTRALYTICS)
    card, sources, _ = guess_card(path)
    assert card.classes == NAMES
    assert card.head == "yolov8"
    assert card.output is not None
    assert card.output.boxes == "cxcywh_normalised"
    assert sources["head"] == "metadata"
    plain = card.model_copy(update={"output": card.output.model_copy(update={"boxes": None})})
    images = some_images(3)
    with load_model(str(path)) as model, load_model(str(path), LoadOptions(card=plain)) as pixels:
        prepared = model.preprocess(images)
        (output,) = model.infer(prepared)
        fractions = output / np.array([32] * 4 + [1] * 3, np.float32)[:, None]
        found = model.postprocess([fractions], prepared)
        for left, right in zip(found, pixels.postprocess([output], prepared), strict=True):
            assert_same(left, right)


def test_ultralytics_end_to_end_boxes_depend_on_the_exporter(tmp_path: Path) -> None:
    said = ULTRALYTICS | {"end2end": True}
    for name, form in (("detector-any", "xyxy_normalised"), ("detector-nchw", None)):
        path = said_behind(name, tmp_path, said)
        card, _, _ = guess_card(path)
        assert card.head == "end_to_end"
        # None: pixels, as the head reads them by itself.
        assert (card.output.boxes if card.output else None) == form


def test_ultralytics_integers_are_fed_as_quantised(tmp_path: Path) -> None:
    said = ULTRALYTICS | {"task": "classify", "imgsz": [16, 16]}
    path = said_behind("classifier-uint8", tmp_path, said)
    card, _, _ = guess_card(path)
    assert card.input.scale == 1 / 255
    assert card.input.quantisation == Quantisation(scale=0.003921569, zero_point=0)


def test_metadata_behind_a_file_is_read_with_care(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.txt", "car")
    assert metadata_behind(path) == {}
    for text, said in (
        ("{'names': {0: 'car'}, 'stride': 32}", {"names": "{0: 'car'}", "stride": "32"}),
        ('{"names": {"0": "car", "x": 1}}', {"names": "{0: 'car', 'x': 1}"}),
        ("__import__('os')", {}),
        ("[1]", {}),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("temp_meta.txt", text)
        assert metadata_behind(path) == said
    path.write_bytes(path.read_bytes()[:-30])
    assert metadata_behind(path) == {}


def test_a_card_beside_a_tflite_file(tmp_path: Path) -> None:
    path = tmp_path / "classifier.tflite"
    shutil.copy(MODELS / path.name, path)
    assert write_card(path) == card_path(path)
    with load_model(str(path)) as model:
        assert model.description.card_source["head"] == "card classifier.model.yaml"
        assert model.description.card.classes == ("class 0", "class 1", "class 2")


# ---- what is refused


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<html>Not found</html>", "isn't a LiteRT model; give a .tflite export"),
        ((MODELS / "classifier.tflite").read_bytes()[:5000], "is truncated or damaged"),
    ],
    ids=["empty", "page", "truncated"],
)
def test_what_is_no_tflite_file_is_one_sentence(
    content: bytes, sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_is_no_tflite_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read: Is a directory"):
        read_litert(tmp_path)


def test_an_operator_that_litert_lacks_is_one_sentence(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray((MODELS / "detector-1.tflite").read_bytes())
    code = schema.Model.GetRootAs(content, 0).OperatorCodes(0)
    # Its number is written twice; 126 is none of those that this test's file has kernels for.
    table = code._tab
    content[table.Pos + table.Offset(4)] = 126
    path = tmp_path / "m.tflite"
    path.write_bytes(bytes(content))
    card = detector("yolov8", layout="nhwc")
    with pytest.raises(ModelError, match=r"m\.tflite") as caught:
        load_model(str(path), LoadOptions(card=card))
    assert "\n" not in str(caught.value)


def test_litert_runs_on_the_processor_only() -> None:
    path = str(MODELS / "classifier.tflite")
    with pytest.raises(Unavailable, match="LiteRT's Python package has no kernels for NVIDIA"):
        load_model(path, LoadOptions(device="cuda"))
    with pytest.raises(SpecError, match="use cpu, cuda or cuda:N"):
        load_model(path, LoadOptions(device="gpu"))
    with pytest.raises(ModelError, match="names no file"):
        LiteRtRuntime().load("fake:detection", LoadOptions())


def test_a_missing_litert_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    for name in ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[litert\]'"):
        load_model(str(MODELS / "classifier.tflite"))


def test_importing_the_module_imports_no_litert_and_loading_prints_nothing() -> None:
    code = (
        "import sys, visiondyno.runtimes.litert\n"
        "assert 'ai_edge_litert' not in sys.modules\n"
        "from visiondyno.runtimes.registry import load_model\n"
        f"load_model({str(MODELS / 'classifier.tflite')!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_answers_are_copies() -> None:
    card = ModelCard(
        task="classification",
        head="classification",
        classes=("a", "b", "c"),
        input=InputCard(height=16, width=16, resize="stretch", layout="nhwc"),
    )
    path = str(MODELS / "classifier.tflite")
    with load_model(path, LoadOptions(card=card)) as model:
        first = model.infer(model.preprocess(some_images(2)))
        kept = [np.array(one) for one in first]
        model.infer(model.preprocess([np.full((16, 16, 3), 255, np.uint8)] * 3))
        np.testing.assert_array_equal(first[0], kept[0])
