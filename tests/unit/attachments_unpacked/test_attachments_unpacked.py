"""What a worker does with attachments: unpacked once, called as users do, held in use."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attached_jobs import attached, folder_of, unpacked, zipped
from dataset_factory import write_coco
from visiondyno import worker
from visiondyno.client.client import Client
from visiondyno.datasets.confined import MARK
from visiondyno.errors import (
    DatasetError,
    ModelError,
    NotFound,
    OperationFailed,
    SpecError,
    StorageFull,
    VisionDynoError,
)
from visiondyno.operations import attachments
from visiondyno.operations.attachments import GivenNames, run_with_attachments
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles

Json = dict[str, Any]
PLAIN = {"operation": "evaluate", "model": "fake:detection", "data": "set"}


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


def test_a_longer_name_isnt_taken_for_a_shorter_one() -> None:
    root = Path("/worker/cache/1")
    names = GivenNames({"mine": (root, "set/val"), "m": (Path("/worker/cache/2"), "m.onnx")})
    assert names.put_back(f"{root}/set/validation/a.jpg") == "mine/set/validation/a.jpg"
    assert names.put_back(f"{root}/set/val-2 and {root}/set/val.txt") == (
        "mine/set/val-2 and mine/set/val.txt"
    )
    assert names.put_back(f"In {root}/set/val: no {root}/set/val.") == "In mine: no mine."
    assert names.put_back("/worker/cache/2/m.onnx.data") == "m/m.onnx.data"


def test_more_attachments_than_a_process_may_open_at_first_are_held() -> None:
    count = 40
    model = attached({"m.onnx": b"x"}, "m.onnx")
    job = {
        "operation": "compare",
        "models": [f"m{number}" for number in range(count)],
        "attachments": {f"m{number}": model for number in range(count)},
    }
    ran = []

    def run(rest: Json, _: OperationContext) -> Json:
        ran.append(len(rest["models"]))
        return {}

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + count // 2, hard))
        run_with_attachments(job, OperationContext(), run)
        assert ran == [count]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_attachments_than_a_worker_may_ever_open_are_refused(
    monkeypatch: pytest.MonkeyPatch, coco: Json
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 256))
    with pytest.raises(SpecError, match="has 1 attachments, and this worker may open 256 files"):
        run_with_attachments(
            {**PLAIN, "attachments": {"set": coco}}, OperationContext(), lambda *_: {}
        )


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
