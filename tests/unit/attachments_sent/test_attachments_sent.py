"""What a client sends of the files that its jobs name: all that belongs to them, and once."""

import base64
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attached_jobs import ClientElsewhere, members_of, sent
from dataset_factory import (
    write_image_folder,
)
from tiny_models import grow, write_detector
from visiondyno.client import archive, attachments
from visiondyno.client.archive import write_archive
from visiondyno.client.attachments import INLINE_BYTES, Attaching, as_progress_of, attach
from visiondyno.client.client import Client
from visiondyno.errors import DatasetError, SpecError, StorageFull, TooLarge
from visiondyno.job import JobEvent
from visiondyno.specs.attachments import with_references

Json = dict[str, Any]
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


# ---- archives


def packed(members: dict[str, Path | bytes]) -> tuple[bytes, str]:
    file = io.BytesIO()
    sha256 = write_archive(file, members)
    return file.getvalue(), sha256


@given(members=st.dictionaries(NAMES, st.binary(max_size=100)), times=st.integers(0, 2**31))
def test_an_archive_depends_on_names_and_contents_alone(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], times: int
) -> None:
    folder = tmp_path_factory.mktemp("members")
    paths: dict[str, Path | bytes] = {}
    for number, name in enumerate(reversed(members)):
        paths[name] = path = folder / str(number)
        path.write_bytes(members[name])
        os.utime(path, (times, times))
        path.chmod(0o400)
    data, sha256 = packed(dict(members))
    assert packed(paths) == (data, sha256)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == members
        assert opened.namelist() == sorted(members)


@given(members=st.dictionaries(NAMES, st.binary(max_size=20), min_size=1), data=st.data())
def test_another_content_is_another_archive(members: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(members)))
    other = members | {name: members[name] + b"!"}
    assert packed(dict(members))[1] != packed(dict(other))[1]


def test_a_file_that_changes_while_it_is_packed_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "growing").write_bytes(b"12345")
    for size in (3, 7):
        monkeypatch.setattr(archive, "size_bytes", lambda _, size=size: size)
        with pytest.raises(SpecError, match="was changed while it was packed"):
            packed({"growing": here / "growing"})
    monkeypatch.undo()
    with pytest.raises(SpecError, match=r"gone can't be read \(No such file"):
        packed({"gone": here / "gone"})
    with pytest.raises(SpecError, match=r"here can't be read \(Is a directory"):
        packed({"a folder": here})


# ---- which references


def test_only_paths_of_this_machine_are_sent(client: Client, here: Path) -> None:
    write_detector(here / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    write_image_folder(here / "set")
    (here / "street").mkdir()
    blob = f"sha256:{'0' * 64}"
    job = {
        "operation": "batch",
        "operations": [
            {"operation": "benchmark", "models": ["m.onnx", "visiondyno:street-n", "no.onnx"]},
            {"operation": "benchmark", "models": [3], "data": "street", "reference": "./m.onnx"},
            {"operation": "train", "training_data": {"data": "set:train", "channels": 3}},
            {"operation": "train", "training_data": blob, "validation_data": {"features": []}},
            {"operation": "predict", "features": [[1.0, 2.0]], "model": "", "check_data": "no"},
            {"operation": "predict", "model": "\0", "data": "x" * 5000},
            "no operation",
        ],
    }
    done = attach(job, client)
    assert set(done.pop("attachments")) == {"m.onnx", "./m.onnx", "set"}
    assert done == job


def test_without_files_a_job_stays_as_it_is(client: Client) -> None:
    job = {"operation": "evaluate", "model": "visiondyno:street-n", "data": "street:demo"}
    assert attach(job, client) == job
    assert attach({"operation": "batch", "operations": 3}, client)["operations"] == 3


def test_workers_of_this_machine_get_absolute_paths_and_this_process_what_was_given(
    here: Path,
) -> None:
    write_detector(here / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    (here / "set").mkdir()
    job = {"operation": "evaluate", "model": "m.onnx", "data": "set:val"}
    with Client("inline") as client:
        assert attach(job, client) == job
    with Client("local") as client:
        absolute = {"model": str(here / "m.onnx"), "data": f"{here / 'set'}:val"}
        assert attach(job, client) == job | absolute


def test_references_are_found_wherever_operations_have_them() -> None:
    seen: list[tuple[str, str]] = []

    def note(kind: str, reference: str) -> str:
        seen.append((kind, reference))
        return reference.upper()

    job = {"models": ("a",), "reference": "b", "data": {"data": "c", "max_images": 2}, "seed": "d"}
    found = with_references(job, note)
    assert found == {
        "models": ["A"],
        "reference": "B",
        "data": {"data": "C", "max_images": 2},
        "seed": "d",
    }
    assert seen == [("model", "a"), ("model", "b"), ("data", "c")]
    assert with_references(["no object"], note) == ["no object"]


# ---- how they travel


def test_more_than_a_request_holds_goes_by_blob_and_once(
    client: ClientElsewhere, here: Path
) -> None:
    write_detector(here / "small.onnx", [[0, 0, 4, 4, 0.5, 1]])
    grow(write_detector(here / "large.onnx", [[0, 0, 4, 4, 0.5, 1]]), INLINE_BYTES)
    job = {"operation": "benchmark", "models": ["large.onnx", "small.onnx"]}
    told: list[Json] = []
    attaching = Attaching(client)
    found = attaching.attach(job, told.append)["attachments"]
    assert len(json.dumps(found)) < INLINE_BYTES
    reference = found["large.onnx"]["archive"]
    members = members_of(client.get_blob(reference))
    assert members == {"large.onnx": (here / "large.onnx").read_bytes()}
    assert members_of(found["small.onnx"]["archive"]).keys() == {"small.onnx"}
    ends = {(said["stage"], said["done"] == said["total"]) for said in told}
    stages = ("packing small.onnx", "packing large.onnx", "uploading large.onnx")
    assert {(stage, True) for stage in stages} <= ends
    assert all(said["unit"] == "bytes" for said in told)

    told.clear()
    assert attaching.attach(job, told.append)["attachments"] == found
    assert {said["stage"] for said in told} == {"packing small.onnx"}
    assert attach(job, client)["attachments"] == found  # packed again, and found there
    assert client.files_put == 1
    (here / "large.onnx").write_bytes((here / "small.onnx").read_bytes())
    assert not attaching.attach(job)["attachments"]["large.onnx"]["archive"].startswith("sha256:")


def test_what_else_is_in_a_job_leaves_less_room(client: ClientElsewhere, here: Path) -> None:
    write_detector(here / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    job = {"operation": "predict", "model": "m.onnx", "images": ["x" * 8_000_000]}
    assert attach(job, client)["attachments"]["m.onnx"]["archive"].startswith("sha256:")
    assert client.files_put == 1


def test_too_much_is_refused_with_a_way_out(
    client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "set").mkdir()
    for number in range(3):
        (here / "set" / f"{number}.jpg").touch()
    monkeypatch.setattr(attachments, "MOST_FILES", 2)
    with pytest.raises(DatasetError, match=r"set has 3 files, and 2 at most .*VISIONDYNO_DATA"):
        sent(client, "set")
    monkeypatch.undo()
    with (here / "set" / "huge.bin").open("wb") as file:
        file.truncate(4_100_000_000)
    with pytest.raises(TooLarge, match=r"set have 4\.1 GB, and 4 GB at most .*VISIONDYNO_DATA"):
        attach({"operation": "evaluate", "model": "m", "data": str(here / "set")}, client)


def test_no_room_to_pack_is_said(
    client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_detector(here / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attachments, "write_archive", full)
    with pytest.raises(StorageFull, match=r"m\.onnx can't be packed .*set TMPDIR"):
        attach({"operation": "export", "model": "m.onnx"}, client)


def test_a_file_is_put_by_pieces(client: Client, here: Path) -> None:
    data = np.random.default_rng(0).bytes(2_500_000)
    (here / "file").write_bytes(data)
    told: list[int] = []
    reference = client.put_file(here / "file", told.append)
    assert client.get_blob(reference) == data
    assert told == [2**20, 2**21, len(data)]
    with pytest.raises(SpecError, match="can't be read"):
        client.put_file(here / "gone")


def test_what_is_done_before_a_job_is_told_as_event_0() -> None:
    seen: list[JobEvent] = []
    as_progress_of(seen.append)({"stage": "packing m.onnx"})
    assert [(event.number, event.progress) for event in seen] == [(0, {"stage": "packing m.onnx"})]


def test_archives_travel_as_base64(client: Client, here: Path) -> None:
    write_detector(here / "m.onnx", [[0, 0, 4, 4, 0.5, 1]])
    job = attach({"operation": "export", "model": "m.onnx"}, client)
    text = job["attachments"]["m.onnx"]["archive"]
    assert base64.b64encode(base64.b64decode(text)).decode() == text
