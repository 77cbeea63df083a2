"""Bad ONNX files and graphs that fail, each with its sentence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_cases import detector, own_metadata, write_detectors, yolov8_base

from contracts.runtime_contract import some_images
from onnx_builder import build_model
from visiondyno.errors import ModelError
from visiondyno.runtimes.registry import load_model


def written(folder: Path, content: bytes) -> Path:
    (folder / "bad.onnx").write_bytes(content)
    return folder / "bad.onnx"


def good_bytes(folder: Path) -> bytes:
    return Path(write_detectors(folder)[0]).read_bytes()


def edited(folder: Path, edit) -> Path:  # type: ignore[no-untyped-def]
    model = onnx.load(write_detectors(folder)[0])
    edit(model)
    return written(folder, model.SerializeToString())


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [1, 2]))


def outside_weights(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def bad_card(folder: Path, text: str) -> Path:
    path = build_model(folder / "bad.onnx", np.zeros((1, 7, 21), np.float32))
    (folder / "bad.model.yaml").write_text(text)
    return path


def base_model(folder: Path, shape: tuple[int, ...], **built: object) -> Path:
    return build_model(folder / "bad.onnx", np.zeros(shape, np.float32), **built)  # type: ignore[arg-type]


CARD = "task: detection\nhead: {head}\nclasses: [a, b, c]\ninput: {{height: {h}, width: 32}}\n"
BAD_FILES = {
    "empty": (lambda f: written(f, b""), "is empty"),
    "text": (lambda f: written(f, b"hello\n" * 99), "isn't an ONNX file"),
    "html": (lambda f: written(f, b"<html>404</html>"), "an error page"),
    "zip": (lambda f: written(f, b"PK\x03\x04" + bytes(50)), "PyTorch .pt"),
    "lfs": (lambda f: written(f, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "random": (lambda f: written(f, bytes(range(200, 256)) * 9), "isn't an ONNX file"),
    "truncated": (lambda f: written(f, good_bytes(f)[:-40]), "truncated or damaged"),
    "header only": (lambda f: written(f, good_bytes(f)[:2]), "truncated or damaged"),
    "folder": (lambda f: f, "is a folder"),
    "operator": (
        lambda f: edited(f, lambda m: setattr(m.graph.node[-1], "op_type", "Magic")),
        "can't load .*Magic",
    ),
    "opset": (lambda f: edited(f, lambda m: setattr(m.opset_import[0], "version", 999)), "opset"),
    "ir": (lambda f: edited(f, lambda m: setattr(m, "ir_version", 99)), "IR version"),
    "two inputs": (lambda f: edited(f, second_input), "exactly one input.*'sizes'"),
    "outside": (lambda f: edited(f, outside_weights), "outside its folder"),
    "text model": (lambda f: base_model(f, (1, 7), size=(4, 4), dtype="int64"), "can't be fed"),
    "grey": (lambda f: base_model(f, (1, 7, 21), channels=1), "doesn't take colour"),
    "unknown head": (lambda f: base_model(f, (1, 2, 3, 4, 5)), r"known kind \('output' \[1, 2, 3"),
    "map": (lambda f: base_model(f, (1, 21, 32, 32)), "Segmentation masks and the heat maps"),
    "one row": (lambda f: base_model(f, (1, 3, 7)), "write a model card by hand"),
    "no count": (lambda f: base_model(f, (1, 30, 6)), "says neither its classes"),
    "card not yaml": (lambda f: bad_card(f, "task: [\n"), "isn't valid YAML at line 2"),
    "card not text": (lambda f: bad_card(f, "task: 5\n"), "'task'"),
    "card unknown field": (
        lambda f: bad_card(f, CARD.format(head="yolov8", h=32) + "hat: 1\n"),
        "'hat'",
    ),
    "card wrong head": (
        lambda f: bad_card(f, CARD.format(head="classification", h=32)),
        "task 'detection', but head 'classification'",
    ),
    "card other head": (lambda f: bad_card(f, CARD.format(head="fastestdet", h=32)), "reads an"),
    "card wrong size": (
        lambda f: bad_card(f, CARD.format(head="yolov8", h=64)),
        "input height 64, but the graph takes 32",
    ),
    "card wrong classes": (
        lambda f: bad_card(f, CARD.format(head="yolov8", h=32).replace(", c]", "]")),
        "has 3 classes, but 2 class names",
    ),
    "metadata not json": (
        lambda f: base_model(f, (1, 7, 21), metadata={"visiondyno.model": "{"}),
        "isn't JSON",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_named_in_a_sentence(kind: str, tmp_path: Path) -> None:
    build, message = BAD_FILES[kind]
    path = build(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(path))
    said = str(caught.value)
    assert path.stem in said
    assert "\n" not in said
    assert len(said) < 500


def test_nan_output_is_named(tmp_path: Path) -> None:
    base, _ = yolov8_base()
    base[0, 5, 2] = np.nan
    path = build_model(tmp_path / "nan.onnx", base, metadata=own_metadata(detector("yolov8")))
    with load_model(str(path)) as model, pytest.raises(ModelError, match="'output' holds NaN"):
        model.predict(some_images(1))


def test_a_graph_that_fails_while_running(tmp_path: Path) -> None:
    path = build_model(
        tmp_path / "free.onnx",
        yolov8_base()[0],
        batch=None,
        metadata=own_metadata(detector("yolov8")),
    )
    model = onnx.load(path)
    # A reshape that holds for no batch.
    for tensor in model.graph.initializer:
        if tensor.name == "column":
            tensor.CopyFrom(numpy_helper.from_array(np.array([7, 1, 1], np.int64), "column"))
    onnx.save(model, path)
    with load_model(str(path)) as loaded, pytest.raises(ModelError, match="stopped while running"):
        loaded.predict(some_images(1))
