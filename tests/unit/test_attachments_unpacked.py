"""What a worker does with attachments: unpacked once, called as the user does, never trusted."""

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
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from attached_jobs import as_text, attached, zipped
from dataset_factory import coco_document, encoded, write_coco
from tiny_models import write_detector
from visiondyno import worker
from visiondyno.client.client import Client
from visiondyno.datasets.confined import MARK
from visiondyno.datasets.pull import archive
from visiondyno.errors import (
    Cancelled,
    DatasetError,
    ModelError,
    NotFound,
    OperationFailed,
    SpecError,
    StorageFull,
    TooLarge,
    VisionDynoError,
)
from visiondyno.operations import attachments
from visiondyno.operations.attachments import GivenNames, run_with_attachments
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles

Json = dict[str, Any]
PLAIN = {"operation": "evaluate", "model": "fake:detection", "data": "set"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def folder_of(path: Path, name: str) -> dict[str, bytes]:
    """The files below `path` as members of an archive, below `name`."""
    found = sorted(one for one in path.rglob("*") if one.is_file())
    return {f"{name}/{one.relative_to(path).as_posix()}": one.read_bytes() for one in found}


@pytest.fixture
def coco(tmp_path: Path) -> Json:
    write_coco(tmp_path / "coco")
    return attached(folder_of(tmp_path / "coco", "set"), "set")


@pytest.fixture
def detector(tmp_path: Path) -> Json:
    path = write_detector(tmp_path / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    return attached({"m.onnx": path.read_bytes()}, "m.onnx")


def refusal(attachment: Any, name: str = "set") -> str:
    """Why a job with this attachment fails."""
    job = {**PLAIN, "attachments": {name: attachment}}
    with pytest.raises(SpecError) as failed:
        worker.run(job, OperationContext())
    return failed.value.message


def unpacked(home: Path) -> list[Path]:
    return sorted((home / "cache" / "entries" / "attachments").glob("*"))


# ---- the way of a good one


def test_an_operation_runs_on_what_was_attached_and_answers_in_the_users_words(
    home: Path, coco: Json, detector: Json
) -> None:
    told: list[Json] = []
    job = {"operation": "evaluate", "model": "models/m.onnx", "data": "../set", "resamples": 100}
    job["attachments"] = {"models/m.onnx": detector, "../set": coco}
    output = worker.run(job, OperationContext(told.append))
    assert output["images"] == 4
    assert output["metrics"]["map_50_95"]["value"] is not None
    assert {said["stage"] for said in told} >= {"unpacking models/m.onnx", "reading the data"}
    assert {said["data"] for said in told if "data" in said} == {"../set"}
    assert {said["model"] for said in told if "model" in said} == {"models/m.onnx"}
    assert str(home) not in json.dumps([output, told])
    before = unpacked(home)
    told.clear()
    assert worker.run(job, OperationContext(told.append)) == output
    assert unpacked(home) == before  # once
    assert len(before) == 2
    assert not [said for said in told if said["stage"].startswith("unpacking")]


def test_errors_and_skipped_files_are_told_in_the_users_words(home: Path, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    (tmp_path / "coco" / "images" / "a.jpg").write_bytes(b"")
    job = {**PLAIN, "attachments": {"set": attached(folder_of(tmp_path / "coco", "set"), "set")}}
    with pytest.raises(DatasetError, match=r"set/images/a\.jpg") as failed:
        worker.run(job, OperationContext())
    assert str(home) not in failed.value.message
    output = worker.run({**job, "skip_bad": True, "resamples": 100}, OperationContext())
    assert output["skipped"][0]["image"] == "set/images/a.jpg"
    assert str(home) not in json.dumps(output)


def test_a_split_of_an_attached_folder_is_found(tmp_path: Path, detector: Json) -> None:
    write_coco(tmp_path / "coco")
    members = folder_of(tmp_path / "coco", "set/val")
    job = {"operation": "evaluate", "model": "m.onnx", "data": "set:val", "resamples": 100}
    job["attachments"] = {"set": attached(members, "set"), "m.onnx": detector}
    assert worker.run(job, OperationContext())["images"] == 4
    with pytest.raises(DatasetError, match="Data set set has no split 'test'"):
        worker.run({**job, "data": "set:test"}, OperationContext())


def test_each_operation_of_a_batch_has_the_attachments_of_the_whole(
    home: Path, coco: Json, detector: Json
) -> None:
    one = {"operation": "evaluate", "model": "m.onnx", "data": "set", "resamples": 100}
    bad = {**one, "classes": ["cow"]}
    attachments = {"set": coco, "m.onnx": detector}
    job = {"operation": "batch", "operations": [one, bad], "attachments": attachments}
    output = worker.run(job, OperationContext())
    assert [found["status"] for found in output["outputs"]] == ["success", "error"]
    assert str(home) not in json.dumps(output)
    inner = {"operation": "batch", "operations": [{**one, "attachments": {"set": coco}}]}
    (found,) = worker.run(inner, OperationContext())["outputs"]
    assert "'attachments': Extra inputs" in found["error"]["message"]


def test_what_a_batch_keeps_aside_is_in_the_users_words(
    home: Path, coco: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiondyno.operations.batch.INLINE_LIMIT_BYTES", 200)
    one = {"operation": "evaluate", "model": "fake:detection", "data": "set", "classes": ["car"]}
    one |= {"resamples": 100}
    job = {"operation": "batch", "operations": [one], "attachments": {"set": coco}}
    (found,) = worker.run(job, OperationContext())["outputs"]
    if found["status"] == "error":
        assert str(home) not in found["error"]["message"]
        return
    with Client("inline") as client:
        assert str(home) not in client.get_blob(found["output"]).decode()


def test_one_archive_under_two_names_is_two_models(coco: Json, detector: Json) -> None:
    job = {"operation": "benchmark", "models": ["m.onnx", "./m.onnx"], "data": "set"}
    job |= {"duration_s": 0.05, "resamples": 100, "scenarios": ["offline"], "reference": "./m.onnx"}
    job["attachments"] = {"m.onnx": detector, "./m.onnx": detector, "set": coco}
    comparison = worker.run(job, OperationContext())["comparison"]
    assert [model["reference"] for model in comparison["models"]] == ["m.onnx", "./m.onnx"]
    assert comparison["green_reference"] == "./m.onnx"
    assert comparison["spec"]["models"] == ["m.onnx", "./m.onnx"]
    assert comparison["dataset"]["reference"] == "set"


def test_an_archive_may_be_a_blob(coco: Json, detector: Json) -> None:
    with Client("inline") as client:
        reference = client.put_blob(zipped({"m.onnx": b"no model"}))
    attachment = {"archive": reference, "path": "m.onnx"}
    job = {"operation": "evaluate", "model": "m.onnx", "data": "set"}
    job["attachments"] = {"set": coco, "m.onnx": attachment}
    with pytest.raises(ModelError, match=r"^m\.onnx isn't an ONNX file"):
        worker.run(job, OperationContext())
    lost = {"archive": f"sha256:{'0' * 64}", "path": "m.onnx"}
    with pytest.raises(NotFound, match=r"The archive of 'm\.onnx' \(sha256:0+\) isn't among"):
        worker.run({**job, "attachments": {"set": coco, "m.onnx": lost}}, OperationContext())


def test_no_attachments_are_none() -> None:
    job = {**PLAIN, "operation": "no such", "attachments": {}}
    with pytest.raises(SpecError, match="'operation' must be one of"):
        worker.run(job, OperationContext())


# ---- names and paths


SEGMENT = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5)
INNER = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)


@given(
    given=st.dictionaries(INNER, INNER, min_size=1, max_size=4),
    around=st.text(st.characters(codec="utf-8"), max_size=10),
)
def test_what_is_replaced_is_put_back(given: dict[str, str], around: str) -> None:
    roots = {name: Path(f"/worker/cache/{number:064}") for number, name in enumerate(given)}
    names = GivenNames({name: (roots[name], inner) for name, inner in given.items()})
    paths = {name: names.path_of("data", name) for name in given}
    assert len(set(paths.values())) == len(paths)
    told = {path: [f"{around}{path}", {"of": f"{path}/images/a.jpg"}, 3] for path in paths.values()}
    assert names.put_back(told) == {
        name: [f"{around}{name}", {"of": f"{name}/images/a.jpg"}, 3] for name in given
    }
    unknown = "another"
    assert names.path_of("model", unknown) == unknown or unknown in given


def test_the_folder_around_a_file_is_the_users_too() -> None:
    root = Path("/worker/cache/1")
    names = GivenNames({"models/m.onnx": (root, "m.onnx"), "x": (Path("/worker/cache/2"), "d/y")})
    assert names.put_back(f"{root}/m.model.yaml is wrong") == "models/m.model.yaml is wrong"
    assert names.put_back("/worker/cache/2/d/y, /worker/cache/2/d/z") == "x, x/d/z"


def test_an_error_and_what_it_came_of_are_told_in_the_users_words(home: Path, coco: Json) -> None:
    def run(job_input: Json, _: OperationContext) -> Json:
        path = job_input["data"]
        try:
            Path(path, "gone").read_bytes()
        except OSError as error:
            raise OperationFailed(f"{path} failed", "read", f"trace of {path}") from error
        return {}

    with pytest.raises(OperationFailed) as failed:
        run_with_attachments({**PLAIN, "attachments": {"set": coco}}, OperationContext(), run)
    error = failed.value
    assert (error.message, error.stage, error.traceback) == ("set failed", "read", "trace of set")
    assert "'set/gone'" in str(error.__cause__)


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
    monkeypatch.setattr(archive, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(archive, "_ENTRY_BYTES", 10)
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


# ---- while it is used


def test_what_a_job_uses_isnt_evicted_and_afterwards_it_is(
    home: Path, coco: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_CACHE_BYTES", "1000000")

    def run(job_input: Json, _: OperationContext) -> Json:
        cache = WorkerFiles.of_this_worker().cache
        for number in range(3):
            cache.put("others", f"large-{number}", bytes(900_000))
        cache.drop("attachments", unpacked(home)[0].name)
        found = Path(job_input["data"], "labels.json").read_text()
        return {"found": json.loads(found)["images"][0]["id"]}

    job = {**PLAIN, "attachments": {"set": coco}}
    assert run_with_attachments(job, OperationContext(), run)["found"] is not None
    assert len(unpacked(home)) == 1
    cache = WorkerFiles.of_this_worker().cache
    cache.put("others", "one-more", bytes(999_999))
    assert unpacked(home) == []


def test_a_cache_that_evicts_at_once_is_said(coco: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    make = WorkerCache.make

    def make_and_lose(self: WorkerCache, kind: str, key: str, *rest: Any) -> Path:
        path = make(self, kind, key, *rest)
        self.drop(kind, key)
        return path

    monkeypatch.setattr(WorkerCache, "make", make_and_lose)
    with pytest.raises(StorageFull, match="The attachment 'set' was evicted"):
        worker.run({**PLAIN, "attachments": {"set": coco}}, OperationContext())


def test_a_blob_that_is_lost_before_it_is_opened_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client("inline") as client:
        reference = client.put_blob(zipped({"set/a": b"x"}))
    fetch, calls = WorkerFiles.fetch, 0

    def fetch_and_lose(self: WorkerFiles, *arguments: Any) -> Path:
        nonlocal calls
        calls += 1
        found = fetch(self, *arguments)
        if calls > 1:
            return found
        (tmp_path / "lost").touch()
        return _Vanishing(tmp_path / "lost")

    monkeypatch.setattr(WorkerFiles, "fetch", fetch_and_lose)
    job = {**PLAIN, "attachments": {"set": {"archive": reference, "path": "set"}}}
    with pytest.raises(DatasetError, match="set"):
        worker.run(job, OperationContext())
    assert calls == 2


class _Vanishing(type(Path())):  # type: ignore[misc]  # the platform's own class of paths
    """A file that is gone once its length was asked for."""

    def stat(self, **options: Any) -> Any:
        found = super().stat(**options)
        self.unlink()
        return found


def test_a_disk_without_room_is_said(coco: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attachments, "unpack", full)
    with pytest.raises(StorageFull, match="no room left"):
        worker.run({**PLAIN, "attachments": {"set": coco}}, OperationContext())


def test_the_mark_is_hidden_from_readers(home: Path, coco: Json) -> None:
    with pytest.raises(VisionDynoError):
        worker.run({**PLAIN, "classes": ["cow"], "attachments": {"set": coco}}, OperationContext())
    (root,) = unpacked(home)
    assert (root / "content" / MARK).exists()
    assert MARK.startswith(".")
