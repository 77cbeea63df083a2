"""Attachments that are wrong or hostile: refused whole, in a sentence with the reference."""

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from attached_jobs import as_text, attached, unpacked, zipped
from dataset_factory import coco_document, encoded, write_coco, write_video
from tiny_models import write_detector
from visiondyno import worker
from visiondyno.client.client import Client
from visiondyno.datasets import zip_list
from visiondyno.errors import (
    Cancelled,
    DatasetError,
    ModelError,
    SpecError,
    TooLarge,
    VisionDynoError,
)
from visiondyno.operations import attachments
from visiondyno.operations.context import OperationContext

Json = dict[str, Any]
PLAIN = {"operation": "evaluate", "model": "fake:detection", "data": "set"}


def refusal(attachment: Any, name: str = "set") -> str:
    """Why a job with this attachment fails."""
    job = {**PLAIN, "attachments": {name: attachment}}
    with pytest.raises(SpecError) as failed:
        worker.run(job, OperationContext())
    return failed.value.message


# ---- those that are wrong


@pytest.mark.parametrize(
    ("attachment", "reason"),
    [
        ({"archive": "", "path": "set"}, "archive"),
        ({"archive": "no base64!", "path": "set"}, "archive"),
        ({"archive": "sha256:12", "path": "set"}, "archive"),
        ({"archive": "abc", "path": "set"}, "isn't base64"),
        ({"archive": "AAAA", "path": ""}, "path"),
        ({"archive": "AAAA", "path": "../set"}, "must lead to a file or folder in the archive"),
        ({"archive": "AAAA", "path": "/etc"}, "must lead to a file or folder in the archive"),
        ({"archive": "AAAA", "path": "."}, "must lead to a file or folder in the archive"),
        ({"archive": "AAAA", "path": "set", "more": 1}, "more"),
        ({"path": "set"}, "archive"),
        (3, "set"),
    ],
    ids=lambda value: None,
)
def test_a_malformed_attachment_is_named(attachment: Any, reason: str) -> None:
    said = refusal(attachment)
    assert "'set'" in said or "'attachments.set" in said
    assert reason in said


@pytest.mark.parametrize("given", [3, ["set"], None, {"": {}}, {"sha256:1": {}}], ids=str)
def test_attachments_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(SpecError, match="The attachments are wrong"):
        worker.run({**PLAIN, "attachments": given}, OperationContext())


def test_one_that_nothing_names_is_refused(coco: Json) -> None:
    assert "The attachment 'sets' stands for nothing" in refusal(coco, "sets")


@pytest.mark.parametrize("path", ["other", "set/" + "x" * 300], ids=["gone", "long"])
def test_a_path_that_isnt_in_the_archive_is_said(coco: Json, path: str) -> None:
    assert "which isn't in its archive" in refusal({**coco, "path": path})


def with_entry(name: str, mode: int = 0, content: bytes = b"x") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("set/labels.json", json.dumps(coco_document()))
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        made.writestr(info, content)
    return file.getvalue()


def lying_directory() -> bytes:
    """An end record that says its list of entries takes 2 GB."""
    data = bytearray(zipped({"a": b"b"}))
    struct.pack_into("<I", data, len(data) - 10, 2**31)
    return bytes(data)


def encrypted() -> bytes:
    """Whose last entry says that it is."""
    data = bytearray(with_entry("set/x"))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


HOSTILE = {
    "slip": (lambda: with_entry("../../../slipped"), "outside its folder"),
    "absolute": (lambda: with_entry("/tmp/slipped"), "outside its folder"),
    "link": (lambda: with_entry("set/link", stat.S_IFLNK | 0o777, b"/etc/passwd"), "is a link"),
    "device": (lambda: with_entry("set/zero", stat.S_IFCHR | 0o666), "is a link or a device"),
    "twice": (lambda: with_entry("set/labels.json"), "stands in it twice"),
    "file in a file": (lambda: with_entry("set/labels.json/x"), "stands in it twice"),
    "encrypted": (encrypted, "is encrypted"),
    "long name": (lambda: with_entry("x" * 300), "File name too long"),
    "cut off": (lambda: with_entry("set/x")[:-30], "damaged"),
    "no zip": (lambda: b"no archive at all", "damaged"),
    "empty": (lambda: zipped({}), "holds nothing"),
    "damaged": (lambda: zipped({"set/a": "x" * 99}).replace(b"xxx", b"xyx", 1), "damaged"),
    "a list of 2 GB": (lying_directory, "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_is_refused_whole(home: Path, tmp_path: Path, case: str) -> None:
    make, reason = HOSTILE[case]
    said = refusal({"archive": as_text(make()), "path": "set"})
    assert said.startswith("The attachment 'set' can't be used: its archive")
    assert reason in said
    assert str(home) not in said
    assert unpacked(home) == []
    assert not list(tmp_path.rglob("slipped"))
    assert list((home / "cache" / "partial").iterdir()) == []


def test_a_bomb_ends_at_the_limit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "LARGEST_BYTES", 10_000_000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("set/zeros", bytes(50_000_000))
    assert len(file.getvalue()) < 100_000
    assert "far more" in refusal({"archive": as_text(file.getvalue()), "path": "set"})
    assert unpacked(home) == []


def test_all_together_have_one_limit(
    coco: Json, detector: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"operation": "evaluate", "model": "m.onnx", "data": "set", "resamples": 100}
    job["attachments"] = {"set": coco, "m.onnx": detector}
    worker.run(job, OperationContext())
    monkeypatch.setattr(attachments, "LARGEST_BYTES", 18_100)
    # Unpacked already, and yet too much.
    with pytest.raises(TooLarge, match=r"The attachment 'm\.onnx' is too much"):
        worker.run(job, OperationContext())


def test_a_blob_that_cant_be_unpacked_within_the_limit_isnt_opened(
    monkeypatch: pytest.MonkeyPatch, coco: Json
) -> None:
    with Client("inline") as client:
        reference = client.put_blob(zipped({"set/a": b"x" * 5000}))
    monkeypatch.setattr(attachments, "LARGEST_BYTES", 1000)
    monkeypatch.setattr(attachments, "MOST_FILES", 1)
    job = {**PLAIN, "attachments": {"set": {"archive": reference, "path": "set"}}}
    with pytest.raises(TooLarge, match="The attachment 'set' is too much"):
        worker.run(job, OperationContext())


def test_a_million_files_are_refused_before_any_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "MOST_FILES", 100)
    many = zipped({f"set/{number}": b"" for number in range(101)})
    assert "holds more than 100 files" in refusal({"archive": as_text(many), "path": "set"})
    # A list of entries that is too long for so many isn't even read.
    monkeypatch.setattr(zip_list, "_LEAST_LIST_BYTES", 100)
    monkeypatch.setattr(zip_list, "_ENTRY_BYTES", 10)
    assert "holds more than 100 files" in refusal({"archive": as_text(many), "path": "set"})


def test_a_cancel_ends_the_unpacking(home: Path, coco: Json) -> None:
    asked = 0

    def is_cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Cancelled):
        worker.run(
            {**PLAIN, "attachments": {"set": coco}}, OperationContext(is_cancelled=is_cancelled)
        )
    assert unpacked(home) == []


# ---- what belongs to others


def data_naming(path: str, document: Callable[[], Json] = coco_document) -> Json:
    labels = document()
    labels["images"][0]["file_name"] = path
    members: dict[str, bytes | str] = {"set/labels.json": json.dumps(labels)}
    for number, image in enumerate(labels["images"]):
        if number:
            suffix = Path(image["file_name"]).suffix
            members[f"set/images/{image['file_name']}"] = encoded(suffix, 64, 48)
    return attached(members, "set")


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
@pytest.mark.parametrize("skip_bad", [True, False], ids=["skipping", "strict"])
def test_attached_labels_cant_name_images_of_the_machine(
    tmp_path: Path, absolute: bool, skip_bad: bool
) -> None:
    private = tmp_path / "private.jpg"
    private.write_bytes(encoded(".jpg", 50, 20))
    path = str(private) if absolute else "../" * 30 + str(private)[1:]
    job = {**PLAIN, "skip_bad": skip_bad, "attachments": {"set": data_naming(path)}}
    with pytest.raises(DatasetError, match="names a file outside of it") as failed:
        worker.run(job, OperationContext())
    assert "private" not in failed.value.message


@pytest.mark.parametrize("source", ["folder", "list", "parent"])
def test_an_attached_yaml_cant_name_folders_of_the_machine(tmp_path: Path, source: str) -> None:
    (tmp_path / "private" / "images").mkdir(parents=True)
    image = tmp_path / "private" / "images" / "a.jpg"
    image.write_bytes(encoded(".jpg", 50, 20))
    root = str(tmp_path / "private")
    yaml = {
        "folder": f"path: {root}\nval: images\nnames: [car]\n",
        "list": "val: list.txt\nnames: [car]\n",
        "parent": f"path: {'../' * 30}{root[1:]}\nval: images\nnames: [car]\n",
    }[source]
    members = {"set/data.yaml": yaml, "set/list.txt": str(image), "set/labels/a.txt": "0 .5 .5 1 1"}
    job = {**PLAIN, "attachments": {"set": attached(members, "set")}}
    with pytest.raises(DatasetError) as failed:
        worker.run(job, OperationContext())
    if source != "list":
        assert "names a file outside of it" in failed.value.message


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n/private.mp4\n", "ffconcat version 1.0\n"])
def test_an_attached_video_cant_be_a_list_of_files_of_the_machine(text: str) -> None:
    document = {"images": [], "annotations": [], "categories": []}
    members = {"clip.mp4": text, "clip.json": json.dumps(document)}
    job = {**PLAIN, "data": "clip.mp4"}
    job["attachments"] = {"clip.mp4": attached(members, "clip.mp4")}
    with pytest.raises(DatasetError, match=r"Video clip\.mp4 is no MP4"):
        worker.run(job, OperationContext())


def test_an_attached_video_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "clips")
    members = {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    (name,) = (one for one in members if not one.endswith(".json"))
    job = {"operation": "evaluate", "model": "m.onnx", "data": name, "resamples": 100}
    model = write_detector(tmp_path / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    job["attachments"] = {
        name: attached(members, name),
        "m.onnx": attached({"m.onnx": model.read_bytes()}, "m.onnx"),
    }
    assert worker.run(job, OperationContext())["images"] > 0


def test_data_of_the_machine_are_as_free_as_before(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    document = coco_document()
    for image in document["images"]:
        image["file_name"] = str(tmp_path / "coco" / "images" / image["file_name"])
    (tmp_path / "labels.json").write_text(json.dumps(document))
    job = {**PLAIN, "data": str(tmp_path / "labels.json")}
    try:
        worker.run(job, OperationContext())
    except VisionDynoError as error:
        assert "outside" not in error.message  # noqa: PT017 - the fake model has other classes


def with_external(location: str, place: str) -> bytes:
    """A model, one of whose tensors lies in a file at `location`."""
    outside = TensorProto(name="secret", dims=[4], data_type=TensorProto.FLOAT)
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=location)
    one = numpy_helper.from_array(np.ones(4, np.float32), "one")
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [4])
    answer = helper.make_tensor_value_info("output", TensorProto.FLOAT, [4])
    nodes = [helper.make_node("Add", ["images", "secret"], ["output"])]
    initializers = [outside]
    if place == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["secret"], value=outside))
        initializers = []
    if place == "subgraph":
        inner = helper.make_graph(
            [helper.make_node("Add", ["one", "secret"], ["inner"])],
            "then",
            [],
            [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [4])],
            [outside],
        )
        nodes = [
            helper.make_node("If", ["condition"], ["output"], then_branch=inner, else_branch=inner)
        ]
        condition = numpy_helper.from_array(np.array(True), "condition")
        initializers = [one, condition]
    graph = helper.make_graph(nodes, "outside", [image], [answer], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
def test_an_attached_model_cant_read_files_of_the_machine(
    tmp_path: Path, coco: Json, place: str, absolute: bool
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    location = str(secret) if absolute else "../" * 30 + str(secret)[1:]
    model = attached({"m.onnx": with_external(location, place)}, "m.onnx")
    for operation in ("evaluate", "benchmark", "export"):
        job: Json = {"operation": operation, "attachments": {"m.onnx": model, "set": coco}}
        if operation == "export":
            del job["attachments"]["set"]
        else:
            job["data"] = "set"
        job |= {"models": ["m.onnx"]} if operation == "benchmark" else {"model": "m.onnx"}
        with pytest.raises(ModelError, match="refers to weights outside its folder"):
            worker.run(job, OperationContext())
