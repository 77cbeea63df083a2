"""The openvino runtime on the same files as the onnx runtime, as ONNX and as OpenVINO's IR."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import NAMES, detector, own_metadata, write_detectors, yolov8_base
from test_onnx_runtime import boxes_graph, named
from test_quantised_models import float_model, static

from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images
from onnx_builder import build_model
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import MissingExtra, ModelError, SpecError, Unavailable
from visiondyno.predictions import Detections, Image
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.model_cards import write_card
from visiondyno.runtimes.openvino import OpenVinoRuntime
from visiondyno.runtimes.openvino_file import read_openvino
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import InputCard, ModelCard, OutputCard
from visiondyno.vision.decode import decode_image

openvino = pytest.importorskip("openvino")


def as_ir(path: Path, *, half: bool = False, name: str | None = None) -> Path:
    """The ONNX file as OpenVINO's own, beside it; `half`: its weights stored in fp16."""
    out = path.with_name(f"{name or path.stem}.xml")
    openvino.save_model(openvino.Core().read_model(path), out, compress_to_fp16=half)
    return out


class TestOpenVinoRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        files = [Path(one) for one in write_detectors(tmp_path)]
        ir = [as_ir(one) for one in files if one.stem in ("fixed-4", "dynamic", "classifier")]
        references = tuple(f"openvino:{one}" for one in files) + tuple(map(str, ir))
        return Target(OpenVinoRuntime(), references, "no-such-model.xml")


# ---- what is loaded


def test_it_is_described_as_it_runs(tmp_path: Path) -> None:
    files = {Path(one).stem: Path(one) for one in write_detectors(tmp_path)}
    ir = as_ir(files["fixed-4"])
    with load_model(str(ir), LoadOptions(intra_op_threads=1)) as model:
        said = model.description
        assert said.runtime == "openvino 2026.4.1"
        assert said.provider == "CPU"
        assert said.precision == "fp32"
        assert said.batch_size == 4
        assert said.parameters == 2 * 7 * 6
        assert said.card.classes == NAMES
        assert said.card_source["classes"] == "metadata"
        assert said.file_bytes == sum(
            ir.with_suffix(one).stat().st_size for one in (".xml", ".bin")
        )
        assert model.files == (ir, ir.with_suffix(".bin"))
        assert "OpenVINO uses 1 thread." in said.notes
        assert model.graph is not None
        assert model.graph.inputs[0].datatype == "FP32"
        assert model.graph.inputs[0].shape == (4, 3, 32, 32)
    first = said.digest
    weights = ir.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with load_model(str(ir)) as model:
        assert model.description.digest != first
    with load_model(f"openvino:{files['dynamic']}") as model:
        assert model.description.batch_size is None


def convolution(folder: Path) -> Path:
    """A classifier with layers that OpenVINO may compute in bfloat16."""
    return float_model(folder / "classifier.onnx")


def test_bfloat16_only_where_it_was_asked_for(tmp_path: Path) -> None:
    path = convolution(tmp_path)
    with load_model(f"openvino:{path}") as model:
        assert model.description.precision == "fp32"
        exact = model.predict(some_images(4))
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in can:
        with pytest.raises(Unavailable, match=r"computes nothing of classifier\.onnx in bf16"):
            load_model(f"openvino-bf16:{path}")
        return
    with load_model(f"openvino-bf16:{path}") as model:
        assert model.description.precision == "bf16"
        assert any("bf16 was asked for" in note for note in model.description.notes)
        rough = model.predict(some_images(4))
    differences = [
        np.abs(a.probabilities - b.probabilities).max()  # type: ignore[union-attr]
        for a, b in zip(exact, rough, strict=True)
    ]
    assert 0 < max(differences) < 0.05


def test_stored_and_computed_precision_are_told_apart(tmp_path: Path) -> None:
    path = convolution(tmp_path)
    half = as_ir(path, half=True)
    assert read_openvino(half).precision == "fp16"
    assert read_openvino(half).parameters == read_openvino(path).parameters
    card = card_path(half)
    write_card(half)
    assert card.is_file()
    with load_model(str(half)) as model:
        assert model.description.precision == "fp32"
        note = "The file's weights are fp16; OpenVINO computes in fp32."
        assert note in model.description.notes


def test_quantised_models_compute_in_integers(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType

    path = convolution(tmp_path)
    quantised = static(path, tmp_path / "qdq.onnx", QuantFormat.QDQ, QuantType.QInt8)
    ir = as_ir(quantised, name="qdq-ir")
    assert read_openvino(ir).precision == "int8"
    for reference in (f"openvino:{quantised}", str(ir)):
        with load_model(reference) as model, load_model(str(path)) as exact:
            assert model.description.precision == "int8"
            for left, right in zip(
                model.predict(some_images(5)), exact.predict(some_images(5)), strict=True
            ):
                np.testing.assert_allclose(
                    left.probabilities,  # type: ignore[union-attr]
                    right.probabilities,  # type: ignore[union-attr]
                    atol=0.05,
                )


def test_weights_only_in_8_bits_are_mixed(tmp_path: Path) -> None:
    base, _ = yolov8_base()
    path = build_model(tmp_path / "m.onnx", base, metadata=own_metadata(detector("yolov8")))
    model = onnx.load(path)
    (stored,) = [one for one in model.graph.initializer if one.name == "base"]
    array = numpy_helper.to_array(stored)
    model.graph.initializer.remove(stored)
    scale = np.float32(np.abs(array).max() / 127)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.rint(array / scale).astype(np.int8), "stored"),
            numpy_helper.from_array(scale, "scale"),
        ]
    )
    node = helper.make_node("DequantizeLinear", ["stored", "scale"], ["base"])
    model.graph.node.insert(0, node)
    onnx.save(model, path)
    assert read_openvino(as_ir(path)).precision == "mixed"


def test_a_folder_of_ultralytics_is_a_model(tmp_path: Path) -> None:
    base, slope = yolov8_base()
    folder = tmp_path / "yolov8n_openvino_model"
    folder.mkdir()
    path = build_model(folder / "yolov8n.onnx", base, slope=slope)
    ir = as_ir(path)
    path.unlink()
    said = {
        "description": "Ultralytics YOLOv8n model",
        "license": "AGPL-3.0",
        "stride": 32,
        "task": "detect",
        "imgsz": [32, 32],
        "names": dict(enumerate(NAMES)),
        "args": {"nms": False},
    }
    metadata = folder / "metadata.yaml"
    metadata.write_text(yaml.safe_dump(said))
    with load_model(str(folder)) as model:
        assert model.description.card.classes == NAMES
        assert model.description.card.license == "AGPL-3.0"
        assert model.description.card_source["head"] == "metadata"
        assert model.files == (ir, ir.with_suffix(".bin"), metadata)
        by_folder = model.predict(some_images(2))
    with load_model(str(ir)) as model:
        for left, right in zip(by_folder, model.predict(some_images(2)), strict=True):
            assert_same(left, right)
    metadata.write_text("names: [")
    with pytest.raises(ModelError, match=r"metadata.yaml can't be read; export the model again"):
        load_model(str(ir))
    (folder / "other.xml").write_text("")
    with pytest.raises(ModelError, match=r"holds 2 \.xml files; give the path"):
        load_model(str(folder))


# ---- what is refused


@pytest.mark.parametrize(
    ("content", "weights", "sentence"),
    [
        ("", True, "isn't an OpenVINO model; give the .xml of an OpenVINO export"),
        ("<html>Not found</html>", True, "isn't an OpenVINO model"),
        ('<?xml version="1.0"?><net name="m" version="11"><layers>', True, "can't read"),
        ('<?xml version="1.0"?><net name="m" version="11">', False, "weights in m.bin, which"),
    ],
)
def test_what_is_no_model_is_one_sentence(
    content: str, weights: bool, sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.xml"
    path.write_text(content)
    if weights:
        path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_what_openvino_can_not_run_is_one_sentence(tmp_path: Path) -> None:
    base, _ = yolov8_base()
    path = build_model(tmp_path / "m.onnx", base, metadata=own_metadata(detector("yolov8")))
    model = onnx.load(path)
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(ModelError) as caught:
        load_model(f"openvino:{path}")
    assert "OpenVINO 2026.4.1 can't" in str(caught.value)
    assert "NoSuchOperator" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_devices_and_bare_names(tmp_path: Path) -> None:
    path = write_detectors(tmp_path)[0]
    with pytest.raises(Unavailable, match="OpenVINO doesn't run on NVIDIA's GPUs"):
        load_model(f"openvino:{path}", LoadOptions(device="cuda:1"))
    with pytest.raises(SpecError, match="use cpu, cuda or cuda:N"):
        load_model(f"openvino:{path}", LoadOptions(device="GPU"))
    with pytest.raises(ModelError, match=r"names no file; give the path of an \.xml"):
        load_model("openvino:yolov8n")


def test_a_missing_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_detectors(tmp_path)[0]
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[openvino\]'"):
        load_model(f"openvino:{path}")
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[openvino\]'"):
        read_openvino(Path(path))


def test_importing_the_module_imports_no_openvino() -> None:
    code = "import sys, visiondyno.runtimes.openvino; sys.exit('openvino' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_a_second_input_for_the_size_is_fed_by_openvino(tmp_path: Path) -> None:
    path = boxes_graph(tmp_path / "m.onnx", sized=True, alone=False)
    options = named(path, 0)
    image = [np.zeros((64, 128, 3), np.uint8)]
    with load_model(str(path), options) as one, load_model(f"openvino:{path}", options) as other:
        for left, right in zip(one.predict(image), other.predict(image), strict=True):
            assert_same(left, right)


def test_a_graph_without_heavy_layers_tells_the_hint(tmp_path: Path) -> None:
    """Also of tensors that have no type in NumPy: there is no graph to hand out."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["output"], axes=[2, 3], keepdims=0),
        helper.make_node("Cast", ["images"], ["rough"], to=TensorProto.BFLOAT16),
    ]
    outputs = [
        info("output", TensorProto.FLOAT, ["n", 3]),
        info("rough", TensorProto.BFLOAT16, ["n", 3, 32, 32]),
    ]
    images = info("images", TensorProto.FLOAT, ["n", 3, 32, 32])
    graph = helper.make_graph(nodes, "m", [images], outputs)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    ir = as_ir(tmp_path / "m.onnx")
    facts = read_openvino(ir)
    assert [one.dtype for one in facts.outputs] == ["float32", "unknown"]
    card = ModelCard(
        task="classification",
        head="classification",
        classes=NAMES,
        input=InputCard(height=32, width=32),
        output=OutputCard(roles=("predictions", "unused")),
        activation="softmax",
    )
    with load_model(str(ir), LoadOptions(card=card)) as model:
        assert model.description.precision == "fp32"
        assert model.description.parameters == 0
        assert model.graph is None


# ---- beside ONNX Runtime


def nearest(found: Detections, other: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Of each box, the distance to the nearest box of its class (pixels), and of their scores."""
    apart = np.abs(found.boxes_xyxy[:, None] - other.boxes_xyxy[None]).max(axis=2)
    apart[found.class_ids[:, None] != other.class_ids[None]] = np.inf
    scores = np.abs(found.scores[:, None] - other.scores[None])
    best = (apart + scores).argmin(axis=1)
    rows = np.arange(len(found))
    return apart[rows, best], scores[rows, best]


def assert_boxes_agree(reference: str, images: list[Image], confidence: float) -> None:
    boxes = 0
    with load_model(reference) as by_onnx, load_model(f"openvino:{reference}") as by_openvino:
        for image in images:
            left, right = (
                one.predict([image], confidence=confidence)[0] for one in (by_onnx, by_openvino)
            )
            assert isinstance(left, Detections)
            assert isinstance(right, Detections)
            boxes += len(left)
            for one, other in ((left, right), (right, left)):
                # A score within 1e-3 of the confidence may fall on either side of it.
                sure = one.scores > confidence + 1e-3
                pixels, scores = nearest(one, other)
                assert (pixels[sure] <= 0.5).all()
                assert (scores[sure] <= 1e-3).all()
    assert boxes >= 50


def test_a_shipped_detector_gives_the_boxes_of_onnx_runtime() -> None:
    path = resolve_reference("visiondyno:street-n").path
    data = open_dataset("street:demo:12")
    files = [data.sample(index).path for index in range(len(data))]
    images = [decode_image(one.read_bytes(), one.name) for one in files]
    assert_boxes_agree(str(path), images, 0.05)


@pytest.mark.slow
def test_yolox_gives_the_boxes_of_onnx_runtime(shared_testdata: Path) -> None:
    folder = shared_testdata / "images" / "coco128" / "images"
    images = [decode_image(one.read_bytes(), one.name) for one in sorted(folder.iterdir())[:20]]
    assert_boxes_agree(str(shared_testdata / "models" / "yolox_nano_416.onnx"), images, 0.05)


def test_metadata_of_a_card_survives_the_conversion(tmp_path: Path) -> None:
    path = Path(write_detectors(tmp_path)[2])
    ir = as_ir(path)
    assert json.loads(read_openvino(ir).metadata["visiondyno.model"])["classes"] == list(NAMES)
