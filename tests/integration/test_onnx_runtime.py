"""The onnx runtime on built files of every kind, and on two real models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import NAMES, detector, own_metadata, write_detectors, yolov8_base

from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images
from onnx_builder import build_model
from visiondyno.class_names import COCO_80
from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.predictions import Classification, Detections
from visiondyno.runtimes import onnx as onnx_runtime
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.fake import FakeRuntime
from visiondyno.runtimes.model_cards import guess_card
from visiondyno.runtimes.onnx import OnnxRuntime
from visiondyno.runtimes.onnx_binding import BoundSession
from visiondyno.runtimes.registry import load_model
from visiondyno.vision.decode import decode_image


class TestOnnxRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return Target(OnnxRuntime(), write_detectors(tmp_path), "no-such-model.onnx")


class TestOnnxRuntimeOnBoundMemory(RuntimeContract):
    """What runs on a GPU, with its memory on the processor's side."""

    @pytest.fixture
    def target(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
        monkeypatch.setattr(
            onnx_runtime, "_bound", lambda session, _: BoundSession(session, "cpu", captures=True)
        )
        return Target(OnnxRuntime(), write_detectors(tmp_path), "no-such-model.onnx")


class TestFakeRuntime(RuntimeContract):
    @pytest.fixture
    def target(self) -> Target:
        references = ("fake:detection", "fake:detection:5", "fake:classification")
        return Target(FakeRuntime(), references, "fake:nothing")

    def test_seed_and_image_change_the_answer(self) -> None:
        one, other = some_images(2)
        first, second = (FakeRuntime().load(f"fake:detection:{n}", LoadOptions()) for n in (1, 2))
        scores = [m.predict([i])[0].scores.tolist() for m in (first, second) for i in (one, other)]  # type: ignore[union-attr]
        assert len({tuple(one) for one in scores}) == 4

    def test_registry_knows_it(self) -> None:
        image = some_images(1)
        with load_model("fake:classification:3") as model:
            assert isinstance(model.predict(image)[0], Classification)
        with pytest.raises(ModelError, match="can't do detection"):
            load_model("fake:classification", LoadOptions(card=detector("yolov8")))


# ---- what is loaded


def test_layouts_and_types_agree(tmp_path: Path) -> None:
    references = {Path(one).stem: one for one in write_detectors(tmp_path)}
    images = some_images(5)
    expected = load_model(references["dynamic"]).predict(images)
    for name in ("fixed-1", "fixed-4", "nhwc", "uint8", "free-size"):
        for left, right in zip(expected, load_model(references[name]).predict(images), strict=True):
            assert_same(left, right)
    for left, right in zip(expected, load_model(references["half"]).predict(images), strict=True):
        assert isinstance(left, Detections)
        assert isinstance(right, Detections)
        np.testing.assert_allclose(left.boxes_xyxy, right.boxes_xyxy, atol=0.3)


def test_description_tells_batch_size_precision_and_parameters(tmp_path: Path) -> None:
    said = {Path(one).stem: load_model(one).description for one in write_detectors(tmp_path)}
    sizes = {name: one.batch_size for name, one in said.items()}
    assert sizes["fixed-4"] == 4
    assert sizes["dynamic"] is None
    assert said["half"].precision == "fp16"
    assert said["fixed-1"].precision == "fp32"
    assert said["fixed-1"].parameters == 2 * 7 * 6
    assert said["fixed-1"].provider == "CPUExecutionProvider"
    assert said["fixed-1"].card_source["classes"] == "metadata"
    assert said["fixed-1"].file_bytes == (tmp_path / "fixed-1.onnx").stat().st_size


def test_inference_of_the_right_size_copies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(write_detectors(tmp_path)[1], LoadOptions(intra_op_threads=1))
    prepared = model.preprocess(some_images(4))
    seen = []
    run = model._run  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "_run", lambda tensor: seen.append(tensor) or run(tensor))
    model.infer(prepared)
    assert len(seen) == 1
    assert seen[0] is prepared.tensor
    assert prepared.tensor.flags.c_contiguous


def test_two_kinds_of_weights_are_mixed(tmp_path: Path) -> None:
    base, _ = yolov8_base(200)
    path = build_model(tmp_path / "m.onnx", base, metadata=own_metadata(detector("yolov8")))
    model = onnx.load(path)
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones(2_000, np.float16), "more_weights")
    )
    model.graph.node.append(helper.make_node("Identity", ["more_weights"], ["unused"]))
    onnx.save(model, path)
    assert load_model(str(path)).description.precision == "mixed"


def boxes_graph(path: Path, *, sized: bool, alone: bool) -> Path:
    """Boxes, scores and labels that follow from the image's mean, and from a second input.

    `sized`: boxes are fractions times the input `orig_target_sizes`, as RT-DETR's export. `alone`:
    one image, answered without an axis of images, and only boxes scored above the image's mean.
    """
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.1, 0.9, 0.4], [0, 0, 0.5, 1]], np.float32)
    constants = {
        "fractions": boxes if alone else boxes[None],
        "base": np.array([0.3, 0.6, 0.9] if alone else [[0.3, 0.6, 0.9]], np.float32),
        "numbers": np.array([0, 1, 2] if alone else [[0, 1, 2]], np.int64),
        "side": np.array(32, np.float32),
        "row": np.array([-1, 1, 2], np.int64),
    }
    make = helper.make_node
    nodes = [make("ReduceMean", ["images"], ["mean"], axes=[0, 1, 2, 3], keepdims=0)]
    if sized:
        nodes += [
            make("Cast", ["orig_target_sizes"], ["real"], to=TensorProto.FLOAT),
            make("Reshape", ["real", "row"], ["pair"]),
            make("Concat", ["pair", "pair"], ["four"], axis=2),
            make("Mul", ["fractions", "four"], ["boxes"]),
            make("Identity", ["base"], ["scores"]),
            make("Identity", ["numbers"], ["labels"]),
        ]
    else:
        nodes += [
            make("Mul", ["fractions", "side"], ["all"]),
            make("Greater", ["base", "mean"], ["above"]),
            make("Compress", ["all", "above"], ["boxes"], axis=0),
            make("Compress", ["base", "above"], ["scores"], axis=0),
            make("Compress", ["numbers", "above"], ["labels"], axis=0),
        ]
    info = helper.make_tensor_value_info
    inputs = [info("images", TensorProto.FLOAT, [1, 3, 32, 32])]
    if sized:
        inputs.append(info("orig_target_sizes", TensorProto.INT64, [1, 2]))
    count: list[int | str] = ["k"] if alone else [1, 3]
    outputs = [
        info("labels", TensorProto.INT64, count),
        info("boxes", TensorProto.FLOAT, [*count, 4]),
        info("scores", TensorProto.FLOAT, count),
    ]
    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "boxes", inputs, outputs, arrays)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def named(path: Path, first_class: int) -> LoadOptions:
    card, _, _ = guess_card(path)
    assert card.output is not None
    output = card.output.model_copy(update={"first_class": first_class})
    return LoadOptions(card=card.model_copy(update={"classes": NAMES, "output": output}))


def test_a_second_input_for_the_size_is_fed(tmp_path: Path) -> None:
    path = boxes_graph(tmp_path / "m.onnx", sized=True, alone=False)
    images = [np.zeros((64, 128, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)]
    with load_model(str(path), named(path, 0)) as model:
        found = model.predict(images)
    for one, (height, width) in zip(found, ((64, 128), (32, 32)), strict=True):
        assert isinstance(one, Detections)
        expected = np.array([[0, 0, 0.5, 1], [0.3, 0.1, 0.9, 0.4], [0.1, 0.2, 0.5, 0.6]])
        np.testing.assert_allclose(one.boxes_xyxy, expected * ([width, height] * 2), rtol=1e-5)
        assert one.class_ids.tolist() == [2, 1, 0]


def test_images_with_different_numbers_of_boxes(tmp_path: Path) -> None:
    path = boxes_graph(tmp_path / "m.onnx", sized=False, alone=True)
    greys = (200, 0, 120, 255)
    images = [np.full((32, 32, 3), grey, np.uint8) for grey in greys]
    with load_model(str(path), named(path, 0)) as model:
        assert model.description.batch_size == 1
        found = model.predict(images)
        single = [model.predict([image])[0] for image in images]
    assert [len(one) for one in found] == [1, 3, 2, 0]  # type: ignore[arg-type]
    for left, right in zip(found, single, strict=True):
        assert_same(left, right)


def test_external_weights_are_found_counted_and_hashed(tmp_path: Path) -> None:
    base, _ = yolov8_base(300)
    path = build_model(tmp_path / "m.onnx", base, metadata=own_metadata(detector("yolov8")))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.weights", size_threshold=1000)
    weights = tmp_path / "m.weights"
    said = load_model(str(path)).description
    assert said.file_bytes == path.stat().st_size + weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    assert load_model(str(path)).description.digest != said.digest
    weights.unlink()
    with pytest.raises(ModelError, match=r"m\.weights, which isn't beside it"):
        load_model(str(path))


def test_no_warning_reaches_the_terminal(tmp_path: Path) -> None:
    path = write_detectors(tmp_path)[0]
    model = onnx.load(path)
    # ONNX Runtime warns of an unused initializer, and prints why a file can't be loaded.
    model.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "unused"))
    onnx.save(model, path)
    bad = tmp_path / "bad.onnx"
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, bad)
    code = (
        "import sys; from visiondyno.runtimes.registry import load_model\n"
        "from visiondyno.errors import ModelError\n"
        "load_model(sys.argv[1])\n"
        "try: load_model(sys.argv[2])\n"
        "except ModelError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, str(bad)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert done.stderr == ""
    assert "NoSuchOperator" in done.stdout
    assert done.stdout.count("\n") == 1


# ---- devices


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    path = write_detectors(tmp_path)[0]
    with pytest.raises(SpecError, match="use cpu, cuda or cuda:N"):
        load_model(path, LoadOptions(device="gpu"))
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this installation has CUDA")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(Unavailable, match="extra 'gpu'"):
            load_model(path, LoadOptions(device=device))


def test_a_provider_that_did_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    path = write_detectors(tmp_path)[0]
    real = onnxruntime.InferenceSession

    def falls_back(path: str, options: object, providers: object, **said: object) -> object:
        # What ONNX Runtime does where CUDA is built in but can't start.
        assert said == {"enable_fallback": 0}
        assert providers == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(Unavailable, match="couldn't start CUDAExecutionProvider"):
        load_model(path, LoadOptions(device="cuda:1"))


# ---- real models


REAL = {
    # From ../shared/testdata/README.md: AP, AP50, AP of `car`.
    "yolox_nano_416": (0.3384, 0.5202, 0.1070),
    "fastestdet_352": (0.1860, 0.3266, 0.0315),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_models_reach_their_known_accuracy(name: str, shared_testdata: Path) -> None:
    images = shared_testdata / "images" / "coco128"
    truth = json.loads((images / "ground_truth_coco_format.json").read_text())
    rows = []
    with load_model(str(shared_testdata / "models" / f"{name}.onnx")) as model:
        assert model.description.card.classes == COCO_80
        assert model.description.card_source["classes"] == "assumed"
        assert any("assumed to be COCO" in note for note in model.description.notes)
        for entry in truth["images"]:
            path = images / "images" / entry["file_name"]
            found = model.predict([decode_image(path.read_bytes(), str(path))])[0]
            assert isinstance(found, Detections)
            rows.extend(coco_rows(entry["id"], found))
    annotations = COCO(truth)
    scored = COCOeval_faster(annotations, annotations.loadRes(rows), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    precision = scored.eval["precision"][:, :, COCO_80.index("car"), 0, -1]
    reached = (scored.stats[0], scored.stats[1], precision[precision > -1].mean())
    np.testing.assert_allclose(reached, REAL[name], atol=0.003)


def coco_rows(image_id: int, found: Detections) -> list[dict[str, object]]:
    sizes = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": int(class_id),
            "bbox": [*map(float, box[:2]), *map(float, size)],
            "score": float(score),
        }
        for box, size, score, class_id in zip(
            found.boxes_xyxy, sizes, found.scores, found.class_ids, strict=True
        )
    ]
