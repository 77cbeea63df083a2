"""What a client doesn't send: what never ends, and what nobody meant."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attached_jobs import sent
from visiondyno.client import data_files
from visiondyno.client.attachments import attach
from visiondyno.client.client import Client
from visiondyno.errors import DatasetError, ModelError, SpecError


@pytest.mark.parametrize("reference", ["pipe.onnx", "/dev/zero"], ids=["pipe", "device"])
def test_a_model_that_is_no_plain_file_is_refused_before_it_is_opened(
    client: Client, here: Path, reference: str
) -> None:
    os.mkfifo(here / "pipe.onnx")  # opening it would wait for a writer, for ever
    job = {"operation": "compare", "models": [reference], "data": "digits:val"}
    with pytest.raises(ModelError, match=f"{reference} is a pipe, a device or a socket"):
        attach(job, client)


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.json", "pipe.yaml"])
def test_data_that_are_no_plain_file_are_refused_before_they_are_opened(
    client: Client, here: Path, name: str
) -> None:
    os.mkfifo(here / name)
    with pytest.raises(DatasetError, match=f"{name} is a pipe, a device or a socket"):
        sent(client, name)


def test_a_pipe_beside_what_is_named_isnt_opened(client: Client, here: Path) -> None:
    (here / "t10k-images-idx3-ubyte").write_bytes(b"0")
    os.mkfifo(here / "t10k-labels-idx1-ubyte")
    with pytest.raises(SpecError, match="t10k-labels-idx1-ubyte is no plain file"):
        sent(client, "t10k-images-idx3-ubyte")


def test_a_pipe_in_a_folder_is_left_out(client: Client, here: Path) -> None:
    (here / "set").mkdir()
    (here / "set" / "a.jpg").write_bytes(b"1")
    os.mkfifo(here / "set" / "b.jpg")
    assert sent(client, "set") == ("set", {"set/a.jpg": b"1"})


def test_a_whole_disk_isnt_sent(client: Client) -> None:
    with pytest.raises(DatasetError, match="/ is a whole disk; give the folder on it"):
        sent(client, "/")


def test_a_folder_of_too_many_files_isnt_read_to_its_end(
    client: Client, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (here / "home" / name).mkdir(parents=True)
        (here / "home" / name / "1.jpg").touch()
        (here / "home" / name / "2.jpg").touch()
    entered: list[str] = []
    walk = os.walk

    def noted(*given: Any, **options: Any) -> Iterator[Any]:
        for found in walk(*given, **options):
            entered.append(Path(found[0]).name)
            yield found

    monkeypatch.setattr(os, "walk", noted)
    monkeypatch.setattr(data_files, "MOST_FILES", 2)
    with pytest.raises(DatasetError, match=r"home has more than 2 files.*VISIONDYNO_DATA"):
        sent(client, "home")
    assert entered == ["home", "a"]


@pytest.mark.parametrize("models", [["detecter.onnx"], ["detecter.onnx", "other.onnx"]])
def test_no_worker_is_paid_to_find_out_that_a_models_name_is_mistyped(
    client: Client, here: Path, models: list[str]
) -> None:
    (here / "detector.onnx").write_bytes(b"1")
    job = {"operation": "benchmark", "models": models, "data": "digits:val"}
    with pytest.raises(ModelError, match=r"no model file detecter.onnx; did you mean .*detector"):
        attach(job, client)


@pytest.mark.parametrize(
    "models",
    [["detector.onnx", "mistyped.onnx"], ["/there/only.onnx"], ["visiondyno:street-n"]],
    ids=["one of two", "absolute", "shipped"],
)
def test_what_a_worker_may_have_or_can_do_without_goes_on(
    client: Client, here: Path, models: list[str]
) -> None:
    (here / "detector.onnx").write_bytes(b"1")
    job = {"operation": "benchmark", "models": models, "data": "digits:val"}
    assert attach(job, client)["models"] == models
