"""`export` of ONNX files: what is asked for is got, and a wrong graph is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_builder import build_model
from visiondyno import worker
from visiondyno.errors import DatasetError, MissingExtra, ModelError, SpecError, Unavailable
from visiondyno.operations.context import OperationContext
from visiondyno.operations.export import stem_of
from visiondyno.operations.model_check import MadeFile, check_made
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.made_model import read_made
from visiondyno.runtimes.model_cards import METADATA_KEY, read_graph_file
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.onnx_gpu import TENSORRT
from visiondyno.runtimes.registry import load_model

CARD = {
    "schema": "visiondyno.model/1",
    "task": "classification",
    "head": "classification",
    "classes": ["a", "b", "c"],
    "input": {"height": 32, "width": 32, "resize": "stretch"},
    "activation": "softmax",
}
BASE = np.array([[0.1, 0.7, 0.2]], np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)


def classifier(folder: Path, **more: Any) -> Path:
    metadata = {METADATA_KEY: json.dumps(CARD)}
    return build_model(folder / "three.onnx", BASE, slope=BASE, metadata=metadata, **more)


def export(**payload: Any) -> dict[str, Any]:
    return worker.run({"operation": "export"} | payload, OperationContext())


def graph_of(answer: dict[str, Any]) -> onnx.ModelProto:
    data = WorkerFiles.of_this_worker().read(answer["model"], "The exported model")
    return onnx.load_from_string(data)


def answers(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run(None, {"images": images})[0]
    return found


def test_a_fixed_batch_is_made_free_and_the_opset_asked_for_is_got(tmp_path: Path) -> None:
    answer = export(model=str(classifier(tmp_path, batch=1)), opset=18)
    graph = graph_of(answer)
    assert answer["opset"] == 18
    assert {entry.version for entry in graph.opset_import if not entry.domain} == {18}
    images = np.random.default_rng(0).random((5, 3, 32, 32), np.float32)
    expected = BASE * (1 + images.mean(axis=(1, 2, 3)))[:, None]
    for count in (1, 2, 5):
        assert answers(graph, images[:count]) == pytest.approx(expected[:count], abs=1e-5)
    assert list(answer["files"].values()) == [answer["model"]]
    assert list(answer["files"]) == ["three.onnx"]
    assert answer["check"]["data"] == "noise"
    assert answer["checked_samples"] == 8
    assert any("noise" in note for note in answer["notes"])


def test_a_batch_size_is_fixed(tmp_path: Path) -> None:
    graph = graph_of(export(model=str(classifier(tmp_path, batch=None)), batch_size=3))
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_a_free_size_is_fixed_and_a_fixed_one_refused(tmp_path: Path) -> None:
    answer = export(model=str(classifier(tmp_path, batch=None, size=(None, None))), image_size=64)
    graph = graph_of(answer)
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    assert [dims[2].dim_value, dims[3].dim_value] == [64, 64]
    card = json.loads({p.key: p.value for p in graph.metadata_props}[METADATA_KEY])
    assert card["input"]["height"] == 64
    assert card["source"] == "exported from three.onnx"
    with pytest.raises(SpecError, match="32x32 pixels, which is fixed in its graph"):
        export(model=str(classifier(tmp_path)), image_size=64)


def learnt(path: Path) -> Path:
    """A graph with a batch of 2 that only constants of that size can follow."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["means"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Reshape", ["means", "column"], ["m"]),
            helper.make_node("Add", ["m", "rows"], ["output"]),
        ],
        "learnt",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [2, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [2, 3])],
        [
            numpy_helper.from_array(np.array([2, 1], np.int64), "column"),
            numpy_helper.from_array(np.tile(BASE, (2, 1)), "rows"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(CARD))
    onnx.save(model, path)
    return path


def test_a_batch_that_a_graph_knows_by_heart_is_told(tmp_path: Path) -> None:
    path = learnt(tmp_path / "learnt.onnx")
    with pytest.raises(ModelError, match=r"batch size, 2, built into its graph; give 'batch_size'"):
        export(model=str(path))
    assert export(model=str(path), batch_size=2)["max_abs_difference"] == 0


def test_a_file_with_other_weights_is_refused(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    changed = onnx.load(str(path))
    (base,) = [one for one in changed.graph.initializer if one.name == "base"]
    base.CopyFrom(numpy_helper.from_array(BASE + np.float32(0.01), "base"))
    wrong = tmp_path / "wrong.onnx"
    onnx.save(changed, wrong)
    with load_model(str(path), LoadOptions()) as source:
        with pytest.raises(ModelError, match=r"differs by up to 0\.01 from its source's"):
            check_made(source, MadeFile(wrong, "fp32"), None, OperationContext())
        told = check_made(source, MadeFile(wrong, "fp16"), None, OperationContext())
    assert told.flat["max_abs_difference"] == pytest.approx(0.01, rel=1e-3)


def test_a_file_that_answers_infinity_is_refused(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    base = np.full((1, 3), np.inf, np.float32)
    metadata = {METADATA_KEY: json.dumps(CARD)}
    wrong = build_model(tmp_path / "wrong.onnx", base, slope=BASE, metadata=metadata)
    with load_model(str(path), LoadOptions()) as source, pytest.raises(ModelError, match="NaN or"):
        check_made(source, MadeFile(wrong, "fp16"), None, OperationContext())


def test_boxes_and_scores_are_compared_on_real_images() -> None:
    answer = export(
        model="visiondyno:street-n", precision="fp16", data="street:val", check_images=8
    )
    check = answer["check"]
    assert check["images"] == 8
    assert answer["size_bytes"] < 0.7 * answer["source_size_bytes"]
    assert check["agreement"]["boxes"] >= 50
    assert check["agreement"]["matched"] > 0.98
    assert 0 < check["agreement"]["max_score_difference"] < 0.05
    assert abs(check["metric_differences"]["map_50_95"]["difference"]) < 0.02
    assert check["metrics"]["map_50_95"] == pytest.approx(
        check["source_metrics"]["map_50_95"]
        + check["metric_differences"]["map_50_95"]["difference"]
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_openvino_carries_its_card(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    answer = export(
        model=str(classifier(tmp_path, batch=None)), format="openvino", precision=precision
    )
    stem = "three-fp16" if precision == "fp16" else "three"
    assert list(answer["files"]) == [f"{stem}.xml", f"{stem}.bin"]
    for name, reference in answer["files"].items():
        data = WorkerFiles.of_this_worker().read(reference, "A file")
        (tmp_path / name).write_bytes(data)
    with load_model(str(tmp_path / f"{stem}.xml"), LoadOptions()) as model:
        assert model.description.card.classes == ("a", "b", "c")
        assert model.description.card_source["classes"] == "metadata"
        assert model.description.batch_size is None


def test_without_a_provider_tensorrt_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = onnxruntime.get_available_providers()
    if TENSORRT in here:
        pytest.skip("this machine has TensorRT")
    expected = Unavailable if "CUDAExecutionProvider" in here else MissingExtra
    with pytest.raises(expected, match="'format': 'tensorrt' needs"):
        export(model=str(classifier(tmp_path)), format="tensorrt")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(Unavailable, match="TensorRT provider, which isn't in this"):
        export(model=str(classifier(tmp_path)), format="tensorrt")


@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        ({"model": "fake:detection"}, SpecError, "fake:detection can't be exported"),
        ({"model": "no/such.onnx"}, ModelError, "no model file no/such.onnx"),
        ({"model": "x.onnx", "opset": 3}, SpecError, "'opset'"),
        ({"model": "x.onnx", "format": "tflite"}, SpecError, "'format'"),
        ({"model": "x.onnx", "format": "openvino", "opset": 17}, SpecError, "leave it out"),
        ({"model": "x.onnx", "batch_size": 0}, SpecError, "'batch_size'"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    wanted: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        export(**wanted)


def test_an_opset_that_onnx_cannot_convert_to_is_told() -> None:
    with pytest.raises(ModelError, match="can't be converted to 11"):
        export(model="visiondyno:street-n", opset=11)


@pytest.mark.parametrize(
    ("reference", "stem"),
    [
        ("visiondyno:street-n", "street-n"),
        ("ultralytics:yolov8n.yaml", "yolov8n"),
        ("transformers:PekingU/rtdetr_v2_r18vd", "rtdetr_v2_r18vd"),
        ("torchvision:resnet50@IMAGENET1K_V2", "resnet50-IMAGENET1K_V2"),
        ("torch:package.nets:make", "make"),
    ],
)
def test_files_are_called_as_their_model(reference: str, stem: str) -> None:
    assert stem_of(reference) == stem


def test_a_folder_is_called_by_its_whole_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "detector-v1.2"
    folder.mkdir()
    assert stem_of(str(folder)) == "detector-v1.2"
    monkeypatch.chdir(folder)
    assert stem_of(".") == "detector-v1.2"


def test_a_free_size_is_fixed_at_the_cards_own(tmp_path: Path) -> None:
    answer = export(model=str(classifier(tmp_path, batch=None, size=(None, None))), image_size=32)
    dims = graph_of(answer).graph.input[0].type.tensor_type.shape.dim
    assert [dims[2].dim_value, dims[3].dim_value] == [32, 32]


def test_a_free_size_with_channels_last_is_fixed_too(tmp_path: Path) -> None:
    card = {**CARD, "input": {**CARD["input"], "layout": "nhwc"}}  # type: ignore[dict-item]
    path = build_model(
        tmp_path / "last.onnx", BASE, slope=BASE, batch=None, size=(None, None), layout="nhwc",
        metadata={METADATA_KEY: json.dumps(card)},
    )  # fmt: skip
    dims = graph_of(export(model=str(path), image_size=48)).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in dims.dim][1:] == [48, 48, 3]


def test_batches_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    free = classifier(tmp_path, batch=None, size=(None, None))
    with pytest.raises(SpecError, match=r"1024 images of 4096x4096 are 17,180 million pixels"):
        export(model=str(free), image_size=4096, batch_size=1024)


def test_wrong_data_are_found_before_the_work(tmp_path: Path) -> None:
    stages: list[str] = []
    context = OperationContext(on_progress=lambda told: stages.append(told["stage"]))
    payload = {"operation": "export", "model": str(classifier(tmp_path)), "data": "nowhere"}
    with pytest.raises(DatasetError, match="nowhere"):
        worker.run(payload, context)
    assert "reading the model" not in stages


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_files_say_what_they_were_made_of(form: str, tmp_path: Path) -> None:
    if form == "openvino":
        pytest.importorskip("openvino")
    source = classifier(tmp_path)
    answer = export(model=str(source), format=form)
    (tmp_path / "made").mkdir()
    paths = [tmp_path / "made" / name for name in answer["files"]]
    for path, reference in zip(paths, answer["files"].values(), strict=True):
        path.write_bytes(WorkerFiles.of_this_worker().read(reference, "A file"))
    made = read_made(read_graph_file(paths[0]).metadata)
    assert made is not None
    assert made.source == "three.onnx"
    assert made.source_digest == answer["source_digest"] == read_onnx(source).digest
    assert made.how == {"format": form, "precision": "fp32"}
    assert str(tmp_path).encode() not in paths[0].read_bytes()


@pytest.mark.torch
def test_half_precision_says_where_it_is_no_faster(tmp_path: Path) -> None:
    answer = export(model=str(classifier(tmp_path)), precision="fp16")
    assert any("no faster" in note for note in answer["notes"])
