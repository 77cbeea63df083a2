"""Which files go with a reference: all that belongs to it."""

import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from hypothesis import strategies as st

from attached_jobs import members_of, sent
from block_images import write_blocks
from dataset_factory import (
    SIZES,
    coco_document,
    write_coco,
    write_idx,
    write_image_folder,
    write_images,
    write_video,
    write_yolo,
)
from tiny_models import detector_card, write_detector
from visiondyno.client.attachments import attach
from visiondyno.client.client import Client
from visiondyno.errors import DatasetError, ModelError
from visiondyno.runtimes.card_file import card_path, card_text

Json = dict[str, Any]
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


# ---- which files


def test_a_model_goes_with_its_card_and_its_weights(client: Client, here: Path) -> None:
    path = write_detector(here / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    card_path(path).write_text(card_text(detector_card(), "m.onnx", {}))
    onnx.save(
        onnx.load(path),
        path,
        save_as_external_data=True,
        location="m.onnx.data",
        size_threshold=0,
    )
    (here / "other.onnx").write_bytes(b"not asked for")
    job = attach({"operation": "export", "model": "./m.onnx"}, client)
    attachment = job["attachments"]["./m.onnx"]
    assert attachment["path"] == "m.onnx"
    assert members_of(attachment["archive"]) == {
        name: (here / name).read_bytes() for name in ("m.onnx", "m.model.yaml", "m.onnx.data")
    }


def test_what_is_no_model_goes_too_so_that_its_worker_says_what_is_wrong(
    client: Client, here: Path
) -> None:
    (here / "broken.onnx").write_bytes(b"not a model")
    job = attach({"operation": "export", "model": "broken.onnx"}, client)
    assert members_of(job["attachments"]["broken.onnx"]["archive"]) == {
        "broken.onnx": b"not a model"
    }
    with pytest.raises(ModelError, match="is a folder"):
        attach({"operation": "export", "model": "."}, client)
    (here / "a:b.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="rename it"):
        attach({"operation": "export", "model": "a:b.onnx"}, client)


def test_a_folder_goes_whole_but_for_hidden_files(client: Client, here: Path) -> None:
    write_image_folder(here / "set")
    (here / "set" / ".hidden").write_text("no")
    (here / "set" / ".git").mkdir()
    (here / "set" / ".git" / "config").write_text("no")
    (here / "set" / "nowhere.jpg").symlink_to(here / "gone.jpg")
    path, members = sent(client, "set")
    assert path == "set"
    shown = {name for name in members if not Path(name).name.startswith(".")}
    assert shown == {
        f"set/{name}" for name in ("cat/a.jpg", "cat/b.png", "dog/a.webp", "dog/c.bmp")
    }
    assert "set/eel/.empty" in members  # a class without images is one
    assert sent(client, f"{here}/set/")[0] == "set"


def test_a_coco_json_goes_with_its_images_alone(client: Client, here: Path) -> None:
    write_coco(here / "set")
    (here / "set" / "images" / "unlabelled.jpg").write_bytes(b"no")
    path, members = sent(client, "set/labels.json")
    assert path == "set/labels.json"
    assert set(members) == {path, *(f"set/images/{name}" for name in SIZES)}


def test_a_coco_json_among_annotations_finds_its_images_again(client: Client, here: Path) -> None:
    write_images(here / "coco" / "val2017")
    (here / "coco" / "annotations").mkdir()
    labels = here / "coco" / "annotations" / "instances_val2017.json"
    labels.write_text(json.dumps(coco_document()))
    path, members = sent(client, str(labels))
    assert path == "coco/annotations/instances_val2017.json"
    assert {f"coco/val2017/{name}" for name in SIZES} < set(members)


def test_an_image_by_its_place_on_this_machine_is_refused(client: Client, here: Path) -> None:
    write_coco(here / "set")
    document = coco_document()
    document["images"][0]["file_name"] = str(here / "set" / "images" / "a.jpg")
    document["images"][1] = 3
    (here / "set" / "labels.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="from the folder of the JSON file"):
        sent(client, "set/labels.json")


def test_a_yolo_yaml_goes_with_its_split_and_is_named_from_its_folder(
    client: Client, here: Path
) -> None:
    write_yolo(here / "set")
    (here / "set" / "labels" / "val" / "left-over.txt").write_text("0 .5 .5 .1 .1\n")
    (here / "set" / "images" / "train").mkdir()
    (here / "set" / "images" / "train" / "x.jpg").write_bytes(b"another split")
    config = {
        "path": str(here / "set"),
        "val": "images/val",
        "names": ["car", "truck", "stop sign"],
    }
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "data.yaml").write_text(yaml.safe_dump(config))
    path, members = sent(client, "elsewhere/data.yaml")
    assert path == "here/elsewhere/data.yaml"
    labels = {f"here/set/labels/val/{name}.txt" for name in ("a", "b", "d", "left-over")}
    assert set(members) == {path, *labels, *(f"here/set/images/val/{name}" for name in SIZES)}
    told = yaml.safe_load(members[path])
    assert told == {"val": ["../set/images/val"], "names": config["names"]}


@pytest.mark.parametrize("name", ["set", "set/data.yaml"])
def test_the_splits_that_a_training_names_go_together(
    client: Client, here: Path, name: str
) -> None:
    write_blocks(here / "set", train=2, val=1)
    text = (here / "set" / "data.yaml").read_text()
    (here / "set" / "data.yaml").write_text(text.replace("path: .", f"path: {here / 'set'}"))
    job = {"operation": "train", "model": "ultralytics:yolov8n", "data": f"{name}:train"}
    attached = attach({**job, "validation_data": f"{name}:val"}, client)
    (reference,) = attached["attachments"]
    assert reference == name
    members = members_of(attached["attachments"][reference]["archive"])
    images = {f"set/images/train/{number}.png" for number in (0, 1)} | {"set/images/val/2.png"}
    assert images <= set(members)
    told = yaml.safe_load(members["set/data.yaml"])
    assert (told["train"], told["val"]) == (["images/train"], ["images/val"])
    # A job of one split sends that one alone where the YAML is named.
    one = attach({**job, "data": "set/data.yaml:val"}, client)["attachments"]["set/data.yaml"]
    assert "set/images/train/0.png" not in members_of(one["archive"])


def test_a_yolo_list_of_images_is_named_from_its_folder(client: Client, here: Path) -> None:
    write_yolo(here / "set")
    lines = [
        str(here / "set" / "images" / "val" / "a.jpg"),
        "images/val/b.png",
        "images/val/no.png",
    ]
    (here / "set" / "val.txt").write_text("\n".join(lines))
    (here / "set" / "data.yaml").write_text(yaml.safe_dump({"val": "val.txt", "names": ["a"]}))
    _, members = sent(client, "set/data.yaml")
    assert members["set/val.txt"].decode().split() == [
        "images/val/a.jpg",
        "images/val/b.png",
        "images/val/no.png",
    ]
    assert {"set/images/val/a.jpg", "set/labels/val/a.txt"} < set(members)
    assert "set/images/val/d.webp" not in members
    # The same as a folder: all of it, and the list in the new form.
    _, members = sent(client, "set")
    assert members["set/val.txt"].startswith(b"images/val/a.jpg")
    assert "set/images/val/d.webp" in members


def test_a_folder_with_a_yaml_that_is_none_goes_as_it_is(client: Client, here: Path) -> None:
    write_image_folder(here / "set")
    (here / "set" / "data.yaml").write_text("no: names")
    assert sent(client, "set")[1]["set/data.yaml"] == b"no: names"


def test_idx_files_and_videos_go_with_what_belongs_to_them(client: Client, here: Path) -> None:
    write_idx(here / "idx", {"train": 3, "t10k": 2})
    (here / "idx" / "classes.txt").write_text("a\nb\n")
    (here / "idx" / "notes.md").write_text("no")
    one = next(path for path in sorted((here / "idx").iterdir()) if "t10k-images" in path.name)
    path, members = sent(client, f"idx/{one.name}")
    assert path == f"idx/{one.name}"
    assert len(members) == 5
    assert "idx/notes.md" not in members
    write_video(here / "clips")
    video = next(path for path in (here / "clips").iterdir() if path.suffix != ".json")
    _, members = sent(client, f"clips/{video.name}")
    assert set(members) == {f"clips/{video.name}", f"clips/{video.stem}.json"}
    (here / "notes.txt").write_text("no data set")
    assert sent(client, "notes.txt")[1] == {f"{here.name}/notes.txt": b"no data set"}


@pytest.mark.parametrize("name", ["a:b.jpg", "a\\b.jpg", os.fsdecode(b"a\xff.jpg")], ids=ascii)
def test_a_name_that_cant_be_sent_is_said(client: Client, here: Path, name: str) -> None:
    (here / "set").mkdir()
    (here / "set" / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="rename it"):
        sent(client, "set")
