"""Whatever a user gives wrongly: one clear sentence, exit code 2, no traceback."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset_factory import coco_document, write_coco, write_image_folder
from tiny_models import detector_card, write_constant_model, write_detector
from visiondyno.cli import main

Arguments = list[str]


@dataclass(frozen=True)
class Place:
    """A folder with a good model `net.onnx` and good data `data/`; cases break one thing."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "net.onnx"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def compare(self, *more: str, model: str = "", data: str = "") -> Arguments:
        arguments = ["compare", model or str(self.model), "--data", data or str(self.data)]
        return [*arguments, "--out", str(self.root / "report"), *more]

    def labels(self) -> dict[str, list[dict[str, object]]]:
        return coco_document()

    def write_labels(self, document: object) -> None:
        (self.data / "labels.json").write_text(json.dumps(document))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    write_detector(found.model, [[1, 2, 15, 28, 0.9, 0]])
    write_coco(found.data)
    return found


def not_an_onnx(place: Place) -> Arguments:
    place.model.write_text("hello, I am a text file\n" * 50)
    return place.compare()


def truncated_model(place: Place) -> Arguments:
    place.model.write_bytes(place.model.read_bytes()[:-200])
    return place.compare()


def empty_model(place: Place) -> Arguments:
    place.model.write_bytes(b"")
    return place.compare()


def missing_model(place: Place) -> Arguments:
    return place.compare(model=str(place.root / "nett.onnx"))


def folder_as_model(place: Place) -> Arguments:
    return place.compare(model=str(place.data))


def wrong_head(place: Place) -> Arguments:
    write_constant_model(place.model, np.zeros((1, 2, 3, 4, 5), np.float32))
    return place.compare()


def nan_output(place: Place) -> Arguments:
    write_detector(place.model, [[1, 2, float("nan"), 28, 0.9, 0]])
    return place.compare()


def class_id_out_of_range(place: Place) -> Arguments:
    write_detector(place.model, [[1, 2, 15, 28, 0.9, 7]])
    return place.compare()


def broken_card(place: Place) -> Arguments:
    write_constant_model(place.model, np.zeros((1, 5, 6), np.float32))
    place.model.with_suffix(".model.yaml").write_text("task: detection\nhead: yolov99\n")
    return place.compare()


def a_text_model(place: Place) -> Arguments:
    return place.compare(model="llama2_70b")


def weights_that_are_not_here(place: Place) -> Arguments:
    return [*place.compare(model="ultralytics:yolov8n"), "--offline"]


def a_classifier_that_lacks_a_class(place: Place) -> Arguments:
    return place.compare(model="fake:classification")


def no_gpu_here(place: Place) -> Arguments:
    return place.compare("--device", "cuda:7")


def unknown_device(place: Place) -> Arguments:
    return place.compare("--device", "quantum")


def missing_data(place: Place) -> Arguments:
    return place.compare(data=str(place.root / "dta"))


def empty_folder(place: Place) -> Arguments:
    (place.root / "empty").mkdir()
    return place.compare(data=str(place.root / "empty"))


def no_data_option(place: Place) -> Arguments:
    return ["compare", str(place.model)]


def unlabelled(place: Place) -> Arguments:
    place.write_labels({**place.labels(), "annotations": []})
    return place.compare()


def broken_json(place: Place) -> Arguments:
    (place.data / "labels.json").write_text('{"images": [')
    return place.compare()


def zero_byte_image(place: Place) -> Arguments:
    (place.data / "images" / "a.jpg").write_bytes(b"")
    return place.compare()


def missing_image(place: Place) -> Arguments:
    (place.data / "images" / "a.jpg").unlink()
    return place.compare()


def broken_pixels(place: Place) -> Arguments:
    """The header and the end are whole: only decoding finds it."""
    path = place.data / "images" / "b.png"
    data = bytearray(path.read_bytes())
    data[60:-60] = bytes(len(data) - 120)
    path.write_bytes(data)
    return place.compare()


def label_outside_its_image(place: Place) -> Arguments:
    document = place.labels()
    document["annotations"][0]["bbox"] = [500, 10, 20, 20]
    place.write_labels(document)
    return place.compare()


def box_without_area(place: Place) -> Arguments:
    document = place.labels()
    document["annotations"][0]["bbox"] = [5, 5, -3, 4]
    place.write_labels(document)
    return place.compare()


def unknown_class(place: Place) -> Arguments:
    return place.compare("--classes", "cra")


def classes_that_do_not_match(place: Place) -> Arguments:
    write_detector(place.model, [[1, 2, 15, 28, 0.9, 0]], detector_card(("cat", "dog")))
    return place.compare()


def no_time(place: Place) -> Arguments:
    return place.compare("--duration", "0")


def duration_is_a_word(place: Place) -> Arguments:
    return place.compare("--duration", "long")


def unknown_scenario(place: Place) -> Arguments:
    return place.compare("--scenario", "single")


def unknown_region(place: Place) -> Arguments:
    return place.compare("--region", "XX")


def unknown_price(place: Place) -> Arguments:
    return place.compare("--price", "A40000")


def the_same_model_twice(place: Place) -> Arguments:
    return ["compare", str(place.model), str(place.model), "--data", str(place.data)]


def reference_not_compared(place: Place) -> Arguments:
    return place.compare("--reference", "other.onnx")


def bad_condition(place: Place) -> Arguments:
    return place.compare("--baseline", str(place.root / "old.json"), "--fail-if", "map<<3")


def missing_baseline(place: Place) -> Arguments:
    return place.compare("--baseline", str(place.root / "old.json"), "--fail-if", "map_50<0")


def condition_without_baseline(place: Place) -> Arguments:
    return place.compare("--fail-if", "map_50<0")


def out_is_a_file(place: Place) -> Arguments:
    (place.root / "taken").write_text("")
    return place.compare("--out", str(place.root / "taken" / "report"))


def broken_yaml(place: Place) -> Arguments:
    path = place.root / "comparison.yaml"
    path.write_text("models: [a.onnx\ndata: x")
    return ["compare", str(path)]


def unknown_key_in_yaml(place: Place) -> Arguments:
    path = place.root / "comparison.yaml"
    path.write_text("models: [a.onnx]\ndata: x\nduraton_s: 3\n")
    return ["compare", str(path)]


def predict_a_text_file(place: Place) -> Arguments:
    (place.root / "photo.jpg").write_text("not a photo")
    return ["predict", str(place.model), str(place.root / "photo.jpg")]


def predict_a_missing_image(place: Place) -> Arguments:
    return ["predict", str(place.model), str(place.root / "photo.jpg")]


def draw_into_a_missing_folder(place: Place) -> Arguments:
    out = str(place.root / "nowhere" / "out.jpg")
    return ["predict", str(place.model), str(place.data / "images" / "a.jpg"), "--out", out]


def draw_as_an_unknown_format(place: Place) -> Arguments:
    out = str(place.root / "out.docx")
    return ["predict", str(place.model), str(place.data / "images" / "a.jpg"), "--out", out]


def predict_with_a_wild_confidence(place: Place) -> Arguments:
    image = str(place.data / "images" / "a.jpg")
    return ["predict", str(place.model), image, "--confidence", "7"]


def draw_classes(place: Place) -> Arguments:
    image = str(place.data / "images" / "a.jpg")
    return ["predict", "fake:classification", image, "--out", str(place.root / "out.jpg")]


def a_huge_image(place: Place) -> Arguments:
    path = place.root / "huge.png"
    header = bytearray(cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(header)
    return ["predict", str(place.model), str(path)]


def unknown_command(_: Place) -> Arguments:
    return ["compete"]


def unknown_option(place: Place) -> Arguments:
    return place.compare("--fast")


def card_of_a_text_file(place: Place) -> Arguments:
    place.model.write_text("hello")
    return ["models", "init", str(place.model)]


def card_over_a_card(place: Place) -> Arguments:
    place.model.with_suffix(".model.yaml").write_text("mine")
    return ["models", "init", str(place.model)]


def evaluate_without_data(place: Place) -> Arguments:
    return ["evaluate", str(place.model)]


def images_of_no_class(place: Place) -> Arguments:
    write_image_folder(place.root / "classes")
    return place.compare(data=str(place.root / "classes"))


def unknown_split(place: Place) -> Arguments:
    return place.compare(data="street:holiday")


def write_what_is_not_built_in(place: Place) -> Arguments:
    return ["datasets", "write", str(place.data), str(place.root / "copy")]


CASES: dict[Callable[[Place], Arguments], str] = {
    not_an_onnx: "net.onnx",
    truncated_model: "net.onnx",
    empty_model: "empty",
    missing_model: "net.onnx",
    folder_as_model: "folder",
    wrong_head: "docs/model-cards.md",
    nan_output: "NaN",
    class_id_out_of_range: "class",
    broken_card: "yolov99",
    a_text_model: "text",
    weights_that_are_not_here: "ultralytics:yolov8n",
    a_classifier_that_lacks_a_class: "stop sign",
    no_gpu_here: "cuda",
    unknown_device: "quantum",
    missing_data: "dta",
    empty_folder: "empty",
    no_data_option: "--data",
    unlabelled: "no labels",
    broken_json: "labels.json",
    zero_byte_image: "a.jpg",
    missing_image: "a.jpg",
    broken_pixels: "b.png",
    label_outside_its_image: "labels.json",
    box_without_area: "labels.json",
    unknown_class: "'car'",
    classes_that_do_not_match: "cat",
    no_time: "duration_s",
    duration_is_a_word: "long",
    unknown_scenario: "single-stream",
    unknown_region: "FR",
    unknown_price: "A4000",
    the_same_model_twice: "twice",
    reference_not_compared: "other.onnx",
    bad_condition: "map<<3",
    missing_baseline: "old.json",
    condition_without_baseline: "--baseline",
    out_is_a_file: "taken",
    broken_yaml: "line",
    unknown_key_in_yaml: "duraton_s",
    predict_a_text_file: "photo.jpg",
    predict_a_missing_image: "photo.jpg",
    draw_into_a_missing_folder: "nowhere",
    draw_as_an_unknown_format: "out.docx",
    predict_with_a_wild_confidence: "confidence",
    draw_classes: "--out",
    a_huge_image: "pixels",
    unknown_command: "compete",
    unknown_option: "--fast",
    card_of_a_text_file: "net.onnx",
    card_over_a_card: "force",
    evaluate_without_data: "--data",
    images_of_no_class: "classification",
    unknown_split: "demo",
    write_what_is_not_built_in: "built-in",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_clear_sentence_and_exit_code_2(
    case: Callable[[Place], Arguments],
    place: Place,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place.root)
    with pytest.raises(SystemExit) as ended:
        main(case(place))
    said = capfd.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("Error:")]
    assert ended.value.code == 2, said
    assert len(errors) == 1, said
    assert CASES[case] in errors[0]
    assert len(errors[0]) < 700
    assert "Traceback" not in said
    assert "defect" not in said
    assert not (place.root / "report" / "report.json").exists()
