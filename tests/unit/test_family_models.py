"""Which model stands for a family: one trained on the data, a published one, or a command."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dataset_factory import coco_document, write_coco, write_yolo
from trained_model_factory import trained_folder
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.operations.family_models import (
    STANDING_PAIRS,
    family_of,
    pair_models,
    resolve_families,
)
from visiondyno.operations.learned_images import learned_images, learned_notes
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trained_models import register
from visiondyno.specs.trained_model import TrainedOn

OTHER = f"sha256:{'7' * 64}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VISIONDYNO_OFFLINE", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path / "data")
    return tmp_path / "data"


def digest(reference: Path | str) -> str:
    return open_dataset(str(reference)).digest


def trained(
    folder: Path,
    family: str,
    name: str,
    day: int,
    record_fields: Mapping[str, Any] = MappingProxyType({}),
    **on: Any,
) -> str:
    """A registered model, trained on a day of November; its folder."""
    learned = {"reference": "elsewhere", "digest": OTHER, "images": 3, **on}
    record = trained_folder(
        folder,
        family=family,
        name=name,
        trained_on=learned,
        created_at=f"2026-11-{day:02}T12:00:00+00:00",
        **record_fields,
    )
    register(folder, record)
    return str(folder)


def refused(*_: Any) -> None:
    raise Unavailable("The weights can't be fetched offline.")


def test_pairs_are_any_two_families_in_any_order() -> None:
    assert pair_models("yolov8-detectron2") == ("family:yolov8", "family:detectron2")
    assert pair_models("Detectron2-YOLO26") == ("family:detectron2", "family:yolo26")
    for pair in STANDING_PAIRS:
        assert pair_models("-".join(pair)) == tuple(f"family:{one}" for one in pair)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("yolov8", "two families"),
        ("yolov8-yolov8", "two families"),
        ("a-b-c", "two families"),
        ("yolov7-detectron2", "did you mean 'yolov[58]'"),
        ("yolov8-whatever", "there are yolov5"),
    ],
)
def test_what_is_no_pair_is_told(pair: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        pair_models(pair)


def test_a_file_called_like_a_family_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert family_of("Trained_yolov5") == "yolov5"
    assert family_of("detectron2") == "detectron2"
    assert family_of("street-n.onnx") is None
    assert family_of("~nobody-of-this-name/street-n.onnx") is None
    assert family_of("x" * 5000) is None
    (tmp_path / "detectron2").mkdir()
    assert family_of("detectron2") is None


def test_models_without_a_family_are_left_alone_and_no_data_are_read() -> None:
    found = resolve_families(["a.onnx", "ultralytics:yolov8n"], "no such data", None)
    assert (found.models, found.notes) == (("a.onnx", "ultralytics:yolov8n"), ())


def test_the_newest_that_was_trained_on_the_data_stands_for_its_family(
    data: Path, tmp_path: Path
) -> None:
    own = {"reference": str(data), "digest": digest(data)}
    trained(tmp_path / "old", "ultralytics", "yolov8n", 1, **own)
    newest = trained(tmp_path / "new", "ultralytics", "yolov8s", 9, **own)
    trained(tmp_path / "of other data", "ultralytics", "yolov8n", 20)
    held = trained(
        tmp_path / "rcnn",
        "torchvision",
        "fasterrcnn_resnet50_fpn",
        2,
        validation_reference=str(data),
        validation_digest=digest(data),
    )
    found = resolve_families(
        ["Trained_yolov8", "street-n.onnx", "family:detectron2"], str(data), None, fetch=refused
    )
    assert found.models == (newest, "street-n.onnx", held)
    first, second, third = found.notes
    assert first.startswith("yolov8: ultralytics:yolov8s")
    assert "the newest of 2" in first
    assert "2026-11-09" in first
    assert "the one that was" in second
    assert "stands in for detectron2" in third


def test_a_newer_model_of_other_classes_is_passed_over(data: Path, tmp_path: Path) -> None:
    own = {"reference": str(data), "digest": digest(data)}
    classes = open_dataset(str(data)).classes
    knows = {"classes": list(classes)}
    old = trained(tmp_path / "old", "ultralytics", "yolov8n", 1, knows, **own)
    lacks = {"classes": [classes[0]]}
    new = trained(tmp_path / "new", "ultralytics", "yolov8n", 2, lacks, **own)
    found = resolve_families(["family:yolov8"], str(data), None, fetch=refused)
    assert found.models == (old,)
    assert "the newest that knows the classes" in found.notes[0]
    asked = resolve_families(["family:yolov8"], str(data), [classes[0]], fetch=refused)
    assert asked.models == (new,)


def test_a_model_of_the_training_part_is_one_of_the_data(tmp_path: Path) -> None:
    train, other = coco_document(), coco_document()
    other["annotations"] = other["annotations"][:2]
    write_coco(tmp_path / "both" / "train", train)
    write_coco(tmp_path / "both" / "val", other)
    model = trained(
        tmp_path / "run",
        "torchvision",
        "efficientnet_b0",
        3,
        reference="/where/it/was/both:train",
        digest=digest(f"{tmp_path}/both:train"),
    )
    found = resolve_families(["efficientnet_b0"], f"{tmp_path}/both:val", None, fetch=refused)
    assert found.models == (model,)


def test_parts_of_a_built_in_set_belong_together(tmp_path: Path) -> None:
    model = trained(tmp_path / "run", "ultralytics", "yolov5n", 3, reference="street:train:300")
    found = resolve_families(["family:yolov5"], "street:val:2", None, fetch=refused)
    assert found.models == (model,)
    on = TrainedOn(reference="street:train:300", digest=OTHER, images=300)
    assert learned_images(on, open_dataset("street:val:2")) == 0


def test_published_weights_stand_in_where_their_classes_fit(data: Path) -> None:
    fetched = []
    found = resolve_families(
        ["family:yolov5", "family:detectron2"],
        str(data),
        None,
        fetch=lambda reference, _: fetched.append(reference),
    )
    assert found.models == ("ultralytics:yolov5nu", "torchvision:fasterrcnn_resnet50_fpn_v2")
    assert tuple(fetched) == found.models
    assert "published weights" in found.notes[0]
    assert "stands in for detectron2" in found.notes[2]


def test_else_the_exact_command_is_named_for_each_family(tmp_path: Path) -> None:
    write_coco(tmp_path / "both" / "train")
    write_coco(tmp_path / "both" / "val")
    reference = f"{tmp_path}/both:val"
    with pytest.raises(SpecError) as caught:
        resolve_families(["Trained_yolov5", "Trained_yolov8"], reference, None, fetch=refused)
    for name in ("yolov5n", "yolov8n"):
        command = (
            f"dyno train --model ultralytics:{name} --data {tmp_path}/both:train "
            f"--validation {reference} --epochs 60 --out dyno-training-{name.removesuffix('n')}"
        )
        assert command in caught.value.message
    assert "offline" in caught.value.message
    assert caught.value.exit_code == 2


def test_weights_of_other_classes_are_not_even_fetched(tmp_path: Path) -> None:
    document = coco_document()
    document["categories"][0]["name"] = "bollard"
    write_coco(tmp_path / "data", document)

    def fetch(*_: Any) -> None:
        raise AssertionError("these can't answer")

    with pytest.raises(SpecError, match=r"'bollard'.*dyno train"):
        resolve_families(["family:yolo11"], str(tmp_path / "data"), None, fetch=fetch)
    known = ["car"] if document["categories"][0]["name"] != "car" else ["truck"]
    with pytest.raises(AssertionError):
        resolve_families(["family:yolo11"], str(tmp_path / "data"), known, fetch=fetch)


def test_a_folder_without_parts_is_trained_on_itself(tmp_path: Path) -> None:
    write_yolo(tmp_path / "with space")
    with pytest.raises(SpecError) as caught:
        resolve_families(["family:yolo26"], str(tmp_path / "with space"), None, fetch=refused)
    assert f"--data '{tmp_path}/with space' --epochs" in caught.value.message


@pytest.mark.torch
def test_imagenet_cannot_tell_classes_that_it_lacks(data: Path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(SpecError, match="--level image --epochs"):
        resolve_families(["efficientnet_b0"], str(data), None, fetch=refused)


def test_an_unknown_family_is_told(data: Path) -> None:
    with pytest.raises(SpecError, match="no family 'yolov3'"):
        resolve_families(["family:yolov3"], str(data), None, fetch=refused)


def test_elsewhere_a_family_is_no_model() -> None:
    for reference in ("Trained_yolov5", "family:yolov8"):
        with pytest.raises(ModelError, match="names a family"):
            resolve_reference(reference)


def test_images_that_were_learned_are_counted(data: Path, tmp_path: Path) -> None:
    dataset, few = open_dataset(str(data)), open_dataset(str(data), max_images=2)
    here = TrainedOn(reference=str(data), digest=dataset.digest, images=3)
    assert learned_images(here, dataset) == 3  # one was held back
    assert learned_images(here, few) == 2  # the same files
    write_coco(tmp_path / "copy")
    moved = TrainedOn(reference=str(tmp_path / "gone"), digest=OTHER, images=4)
    assert learned_images(moved, dataset) == 0
    assert learned_images(here, open_dataset("street:val:2")) == 0
    same_part = TrainedOn(reference="street", digest=OTHER, images=500)
    assert learned_images(same_part, open_dataset("street:val:2")) == 2


def test_a_model_that_is_scored_on_what_it_learned_is_warned_of(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(data))
    known = trained(
        tmp_path / "run", "ultralytics", "yolov8n", 1, reference=str(data), digest=dataset.digest
    )
    (said,) = learned_notes([known], dataset)
    assert "learned from 3 of the 4 images" in said
    twin = trained(
        tmp_path / "twin", "ultralytics", "yolov8n", 1, reference=str(data), digest=dataset.digest
    )
    (both,) = learned_notes([known, "nothing.onnx", twin], dataset)
    assert both == said.replace(known, f"each of {known} and {twin}")
    other = trained(tmp_path / "other", "ultralytics", "yolov8n", 1)
    assert learned_notes([other], dataset) == ()
    assert learned_notes(["nothing.onnx"], dataset) == ()
    assert learned_notes(["torchvision:resnet18"], dataset) == ()


def test_whose_epoch_was_chosen_by_these_images_is_told(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(data))
    scored = {"validation_reference": str(data), "validation_digest": dataset.digest}
    epochs = {"epochs": 9, "best_epoch": 4}
    several = trained(tmp_path / "several", "ultralytics", "yolov8n", 1, epochs, **scored)
    (said,) = learned_notes([several], dataset)
    assert "epoch 4 of its 9 was chosen" in said
    (part,) = learned_notes([several], open_dataset(str(data), max_images=2))
    assert part == said
    one = trained(tmp_path / "one", "ultralytics", "yolov8n", 1, {"epochs": 1}, **scored)
    assert learned_notes([one], dataset) == ()
    street = {"validation_reference": "street:val:100", "validation_digest": OTHER}
    elsewhere = trained(tmp_path / "street", "ultralytics", "yolov8n", 1, epochs, **street)
    assert learned_notes([elsewhere], dataset) == ()
    assert learned_notes([elsewhere], open_dataset("street:val:2")) != ()
    assert learned_notes([elsewhere], open_dataset("street:demo")) == ()
