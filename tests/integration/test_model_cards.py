"""Cards come from metadata, from the file beside the model, or from known shapes: in that order."""

import json
from pathlib import Path

import onnx
import pytest
import yaml
from card_cases import ULTRALYTICS, beside, model
from onnx import TensorProto, helper

from visiondyno.class_names import COCO_80
from visiondyno.errors import ModelError
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.card_file import card_path, read_card
from visiondyno.runtimes.model_cards import guess_card, resolve_card, write_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.specs.model_card import DepthCard, DetectionCard, InputCard, ModelCard
from visiondyno.vision.heads import HEADS

# A 64 × 96 input has 8 · 12 + 4 · 6 + 2 · 3 + 1 · 2 = 128 cells of strides 8 to 64, and 129 to 128.
# A 64 × 96 input has 8 · 12 + 4 · 6 + 2 · 3 = 126 cells of strides 8, 16, 32.
SHAPES = {
    "yolov8": ((1, 84, 126), {"head": "yolov8", "resize": "letterbox", "channels": "rgb"}),
    "yolov8, one class": ((1, 5, 126), {"head": "yolov8"}),
    "yolov5": ((1, 378, 85), {"head": "yolov5", "resize": "letterbox", "scale": 1 / 255}),
    "yolov5, one class": ((1, 378, 6), {"head": "yolov5"}),
    "yolox": (
        (1, 126, 85),
        {"head": "yolox", "resize": "letterbox_top_left", "channels": "bgr", "scale": 1.0},
    ),
    "fastestdet": (
        (1, 85, 4, 6),
        {"head": "fastestdet", "resize": "stretch", "interpolation": "area", "channels": "bgr"},
    ),
    "end_to_end": ((1, 300, 6), {"head": "end_to_end", "resize": "letterbox"}),
    "nanodet": (
        (1, 128, 80 + 32),
        {"head": "nanodet", "resize": "stretch", "channels": "bgr", "std": (57.375, 57.12, 58.395)},
    ),
    "depth": ((1, 1, 64, 96), {"head": "depth", "resize": "stretch", "std": (0.229, 0.224, 0.225)}),
    "depth, no channel": ((1, 64, 96), {"head": "depth"}),
    "depth, NHWC": ((1, 64, 96, 1), {"head": "depth"}),
    "classification": (
        (1, 10),
        {"head": "classification", "resize": "shortest_side_crop", "std": (0.229, 0.224, 0.225)},
    ),
    "classification, 1 × 1": ((1, 10, 1, 1), {"head": "classification"}),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_known_shapes(kind: str, tmp_path: Path) -> None:
    shape, expected = SHAPES[kind]
    card, sources, _ = guess_card(model(tmp_path, shape, size=(64, 96)))
    found = {"head": card.head} | card.input.model_dump()
    assert {key: found[key] for key in expected} == expected
    assert (card.input.height, card.input.width) == (64, 96)
    assert sources["head"] == sources["input"] == "shape"
    assert sources["classes"] == "assumed" or card.task == "depth"


def test_families_choose_boxes_as_their_makers_do_but_score_low_confidences(tmp_path: Path) -> None:
    settings = {
        kind: guess_card(model(tmp_path, SHAPES[kind][0], size=(64, 96)))[0].detection
        for kind in SHAPES
    }
    assert settings["yolov8"] == DetectionCard(confidence=0.001, nms_iou=0.7)
    assert settings["yolox"] == DetectionCard(
        nms_iou=0.65, max_candidates=1000, clip_to_image=False
    )
    assert settings["fastestdet"] == DetectionCard(
        confidence=0.01, nms_iou=0.45, several_classes_a_box=False, clip_to_image=False
    )
    assert settings["end_to_end"] == DetectionCard(nms_iou=None)
    assert settings["nanodet"] == DetectionCard(nms_iou=0.6, max_detections=100)
    assert settings["classification"] is settings["depth"] is None


def test_yolox_with_its_decoding_inside_is_read_as_decoded(tmp_path: Path) -> None:
    card, _, _ = guess_card(model(tmp_path, (1, 126, 85), size=(64, 96), final="Exp"))
    assert card.head == "yolov5"
    assert card.input.resize == "letterbox_top_left"
    assert card.input.scale == 1.0


def test_a_softmax_in_the_graph_is_not_done_twice(tmp_path: Path) -> None:
    inside, _, _ = guess_card(model(tmp_path, (1, 10), final="Softmax"))
    assert inside.activation == "none"
    outside, _, notes = guess_card(model(tmp_path, (1, 10)))
    assert outside.activation == "softmax"
    assert any("softmax" in note for note in notes)


def test_unnamed_classes(tmp_path: Path) -> None:
    card, _, notes = guess_card(model(tmp_path, (1, 84, 126)))
    assert card.classes == COCO_80
    assert "80 unnamed classes: assumed to be COCO's." in notes
    card, _, notes = guess_card(model(tmp_path, (1, 6, 126)))
    assert card.classes == ("class 0", "class 1")
    assert any("2 unnamed classes" in note for note in notes)
    # Never COCO for a classifier that happens to have 80 outputs.
    assert guess_card(model(tmp_path, (1, 80)))[0].classes[79] == "class 79"


def test_free_sizes_are_assumed_with_a_note(tmp_path: Path) -> None:
    for shape, side in (((1, 84, 126), 640), ((1, 10), 224)):
        card, _, notes = guess_card(model(tmp_path, shape, size=(None, None), batch=None))
        assert (card.input.height, card.input.width) == (side, side)
        assert any(f"{side}×{side} is assumed" in note for note in notes)


def test_uint8_and_nhwc_are_read_from_the_graph(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 84, 126), dtype="uint8", layout="nhwc")
    card, _, _ = guess_card(path)
    assert (card.input.dtype, card.input.layout, card.input.scale) == ("uint8", "nhwc", 1.0)


def test_ultralytics_metadata(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 126), size=(64, 96), metadata=ULTRALYTICS)
    card, sources, notes = guess_card(path)
    assert (card.task, card.head, card.classes) == ("detection", "yolov8", ("car", "truck"))
    assert card.input == InputCard(height=64, width=96)
    assert card.license == "AGPL-3.0"
    assert card.source == "Ultralytics YOLOv8n model"
    assert {sources[part] for part in ("task", "head", "classes", "input")} == {"metadata"}
    assert sources["detection"] == "assumed"
    assert notes == ()


def test_ultralytics_size_of_a_free_graph(tmp_path: Path) -> None:
    free = {"size": (None, None), "metadata": ULTRALYTICS}
    card, _, _ = guess_card(model(tmp_path, (1, 6, 126), **free))
    assert (card.input.height, card.input.width) == (64, 96)
    free["metadata"] = ULTRALYTICS | {"imgsz": "320"}
    assert guess_card(model(tmp_path, (1, 6, 126), **free))[0].input.width == 320


@pytest.mark.parametrize("change", [{"end2end": "True"}, {"args": "{'nms': True}"}])
def test_ultralytics_with_nms_inside(change: dict[str, str], tmp_path: Path) -> None:
    card, _, _ = guess_card(model(tmp_path, (1, 300, 6), metadata=ULTRALYTICS | change))
    assert card.head == "end_to_end"
    assert card.detection == DetectionCard(nms_iou=None)


def test_ultralytics_classifier(tmp_path: Path) -> None:
    metadata = ULTRALYTICS | {"task": "classify"}
    card, _, _ = guess_card(model(tmp_path, (1, 2), metadata=metadata))
    assert (card.head, card.activation) == ("classification", "none")
    assert (card.input.resize, card.input.crop_from) == ("shortest_side_crop", 32)
    assert card.input.mean == (0, 0, 0)


def test_the_yolov5_repositorys_metadata_names_classes_only(tmp_path: Path) -> None:
    metadata = {"stride": "32", "names": "['car', 'truck']"}
    card, sources, _ = guess_card(model(tmp_path, (1, 378, 7), size=(64, 96), metadata=metadata))
    assert (card.head, card.classes) == ("yolov5", ("car", "truck"))
    assert (sources["head"], sources["classes"]) == ("shape", "metadata")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "segment"}, "'segment', which isn't covered"),
        ({"task": "pose"}, "'pose', which isn't covered"),
        ({"names": "{1: 'car'}"}, "'names' isn't a list"),
        ({"names": "car"}, "'names' can't be parsed"),
        ({"imgsz": "[1, 2, 3]"}, "'imgsz' isn't a size"),
    ],
)
def test_ultralytics_metadata_that_is_of_no_use(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = model(tmp_path, (1, 6, 126), size=(None, None), metadata=ULTRALYTICS | change)
    with pytest.raises(ModelError, match=message):
        guess_card(path)


BAD_CARDS = {
    "strides of another head": ({"output": {"strides": [8]}}, "takes no 'output.strides'"),
    "boxes of a grid": (
        {"head": "end_to_end", "output": {"boxes": "distances"}},
        "can't read boxes as 'distances'",
    ),
    "no grid": (
        {"head": "retinanet", "output": {"boxes": "xyxy_pixels"}},
        "can't read boxes as 'xyxy_pixels'",
    ),
    "background": (
        {"head": "nanodet", "output": {"score_activation": "softmax_with_background"}},
        "no class of background",
    ),
    "quantised float": (
        {"input": {"height": 32, "width": 32, "quantisation": {"scale": 1}}},
        "takes no 'quantisation'",
    ),
    "int8 alone": ({"input": {"height": 32, "width": 32, "dtype": "int8"}}, "needs 'quantisation'"),
    "roles": ({"output": {"roles": ["predictions", "unused"]}}, "reads 2 outputs"),
    "no role": ({"output": {"roles": ["unused"]}}, "needs outputs of the roles"),
    "scales": (
        {"output": {"quantisation": [{"scale": 1}, None]}},
        "'output.quantisation' for 2 outputs",
    ),
}


@pytest.mark.parametrize("kind", BAD_CARDS)
def test_cards_that_can_not_be_are_refused(kind: str, tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 21))
    fields, message = BAD_CARDS[kind]
    content = {"task": "detection", "head": "yolov8", "classes": ["bus", "van"]}
    content |= {"input": {"height": 32, "width": 32}}
    card_path(path).write_text(yaml.safe_dump(content | fields))
    with pytest.raises(ModelError, match=message):
        resolve_card(read_onnx(path))


def test_a_depth_card_needs_no_classes_and_says_what_is_assumed(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 1, 64, 96), size=(64, 96))
    resolved = resolve_card(read_onnx(path))
    assert resolved.card.classes == ()
    assert resolved.card.depth == DepthCard()
    assert resolved.sources["depth"] == "shape"
    assert any("inverse depth" in note for note in resolved.notes)
    text = write_card(path).read_text()
    text = text.replace("resize: stretch", "resize: shortest_side_crop")
    card_path(path).write_text(text.replace("crop_from: null", "crop_from: 128"))
    with pytest.raises(ModelError, match="would have no depth"):
        resolve_card(read_onnx(path))


# ---- order of the sources


def test_a_card_beside_beats_shapes(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 21))
    card = beside(path)
    resolved = resolve_card(read_onnx(path))
    assert resolved.card.input == card.input
    assert resolved.card.classes == ("bus", "van")
    assert resolved.sources["input"] == "card m.model.yaml"
    # What the card leaves out is its head's convention.
    assert resolved.card.detection == DetectionCard()
    assert resolved.sources["detection"] == "assumed"


def test_metadata_beats_a_card_beside_part_by_part(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 21), metadata=ULTRALYTICS)
    beside(path, detection={"nms_iou": 0.5})
    resolved = resolve_card(read_onnx(path))
    assert resolved.card.classes == ("car", "truck")
    assert resolved.sources["classes"] == "metadata"
    assert resolved.card.detection == DetectionCard(nms_iou=0.5)
    assert resolved.sources["detection"] == "card m.model.yaml"
    assert [note for note in resolved.notes if "'classes'" in note and "metadata wins" in note]
    assert not [note for note in resolved.notes if "'task'" in note]


def test_own_metadata_is_the_whole_card(tmp_path: Path) -> None:
    card = ModelCard.model_validate(
        {
            "task": "detection",
            "head": "yolov8",
            "classes": ["bus", "van"],
            "input": {"height": 32, "width": 32, "resize": "stretch"},
            "detection": {"nms_iou": 0.4},
        }
    )
    text = json.dumps(card.model_dump(mode="json", by_alias=True))
    path = model(tmp_path, (1, 6, 21), metadata={"visiondyno.model": text})
    resolved = resolve_card(read_onnx(path))
    assert resolved.card == card
    assert set(resolved.sources.values()) == {"metadata"}


def test_a_given_card_beats_all(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 21), metadata=ULTRALYTICS)
    given = beside(path).model_copy(update={"classes": ("x", "y")})
    resolved = resolve_card(read_onnx(path), LoadOptions(card=given).card)
    assert resolved.card.classes == ("x", "y")
    assert resolved.sources["classes"] == "given"


# ---- dyno models init


@pytest.mark.parametrize("kind", SHAPES)
def test_a_written_card_is_the_guess_and_holds(kind: str, tmp_path: Path) -> None:
    path = model(tmp_path, SHAPES[kind][0], size=(64, 96))
    written = write_card(path)
    assert written == tmp_path / "m.model.yaml"
    guess, _, _ = guess_card(path)
    assert read_card(written) == guess
    assert "# " in written.read_text()
    resolved = resolve_card(read_onnx(path))
    assert resolved.card == guess
    assert resolved.sources["head"] == "card m.model.yaml"


def test_odd_class_names_survive_the_file(tmp_path: Path) -> None:
    names = ["no", "7", "a: b", "# hash", "straße", "- dash", "it's", 'say "x"', "true", "task:"]
    metadata = ULTRALYTICS | {"names": repr(dict(enumerate(names)))}
    path = model(tmp_path, (1, 14, 126), metadata=metadata)
    assert read_card(write_card(path)).classes == tuple(names)


def test_a_card_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 126))
    write_card(path).write_text("mine")
    with pytest.raises(ModelError, match="exists already"):
        write_card(path)
    assert card_path(path).read_text() == "mine"
    write_card(path, force=True)
    assert read_card(card_path(path)).head == "yolov8"


def test_init_writes_a_placeholder_where_loading_refuses(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 30, 6))
    with pytest.raises(ModelError, match="says neither its classes"):
        resolve_card(read_onnx(path))
    _, _, notes = guess_card(path)
    assert any("placeholder" in note for note in notes)


def test_a_card_that_is_not_text(tmp_path: Path) -> None:
    path = model(tmp_path, (1, 6, 21))
    card_path(path).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="isn't UTF-8"):
        resolve_card(read_onnx(path))


def test_a_head_of_another_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(tmp_path, (1, 6, 21))
    beside(path, head="yolox")
    monkeypatch.delitem(HEADS, "yolox")
    with pytest.raises(ModelError, match=r"head 'yolox', which isn't available.* yolov5"):
        resolve_card(read_onnx(path))


def test_a_text_model_is_not_a_vision_model(tmp_path: Path) -> None:
    path = tmp_path / "bert.onnx"
    tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 128])
    answer = helper.make_tensor_value_info("logits", TensorProto.INT64, [1, 128])
    node = helper.make_node("Identity", ["input_ids"], ["logits"])
    graph = helper.make_graph([node], "bert", [tokens], [answer])
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(ModelError, match=r"isn't a vision model.*'input_ids' is \[1, 128\] int64"):
        guess_card(path)
