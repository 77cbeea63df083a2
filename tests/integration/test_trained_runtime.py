"""Trained models as model references: loaded, measured, served, sent to workers elsewhere."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attached_jobs import ClientElsewhere, members_of
from contracts.runtime_contract import RuntimeContract, Target, assert_same, some_images
from dataset_factory import encoded, write_image_folder
from trained_model_factory import trained_record
from visiondyno import worker
from visiondyno.cli import main
from visiondyno.client.attachments import attach
from visiondyno.client.client import Client
from visiondyno.errors import MissingExtra, ModelError, SpecError
from visiondyno.operations.accuracy_cache import AccuracyCache
from visiondyno.operations.context import OperationContext
from visiondyno.predictions import Classification
from visiondyno.probes.machine import capture_environment
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_files import digest_in_description
from visiondyno.runtimes.pytorch.trained import TrainedRuntime
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.trained_models import write_trained
from visiondyno.runtimes.warm import WarmModels
from visiondyno.specs.trained_model import RECORD, WEIGHTS, TrainedModel

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

pytestmark = pytest.mark.torch

NAME = "squeezenet1_1"
CLASSES = ("cat", "dog", "eel")
SIDE = 64


def made(seed: int) -> Any:
    torch.manual_seed(seed)
    module = torchvision.models.get_model(NAME, weights=None, num_classes=len(CLASSES))
    torch.nn.init.normal_(module.classifier[1].weight, std=0.05)
    return module.eval()


def write(folder: Path, seed: int, **changes: Any) -> TrainedModel:
    fields: dict[str, Any] = {"name": NAME, "classes": CLASSES, "arguments": {}, "image_size": SIDE}
    return write_trained(folder, trained_record(**fields | changes), made(seed).state_dict())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    write(folder, seed=1, license="AGPL-3.0")
    return folder


@pytest.fixture
def here(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a trained model and a data set; a home of its own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
    folder = tmp_path / "here"
    shutil.copytree(run, folder / "runs" / "first")
    (folder / "runs" / "first" / "checkpoint").write_bytes(b"of the training")
    write_image_folder(folder / "set")
    monkeypatch.chdir(folder)
    return folder


class TestTrainedRuntime(RuntimeContract):
    @pytest.fixture
    def target(self, run: Path) -> Target:
        return Target(TrainedRuntime(), (str(run),), "no-such-run")


def test_the_description_is_of_what_lies_in_the_folder(run: Path) -> None:
    record = TrainedModel.model_validate_json((run / RECORD).read_text())
    with load_model(str(run)) as model:
        said = model.description
        assert model.files == (run / RECORD, run / WEIGHTS)
    assert said.digest == f"sha256:{record.weights_sha256}"
    assert said.digest == digest_in_description(resolve_reference(str(run)))
    assert said.file_bytes == (run / WEIGHTS).stat().st_size
    assert said.card.classes == CLASSES
    assert any("street:train (20 images)" in note and "epoch 2 of 3" in note for note in said.notes)
    assert any("AGPL-3.0" in note for note in said.notes)


def test_its_weights_are_those_that_were_trained(run: Path) -> None:
    module = made(1)
    with load_model(str(run)) as model:
        (image,) = some_images(1)
        prepared = model.preprocess([image])
        (found,) = model.postprocess(model.infer(prepared), prepared)
    tensors = prepared if isinstance(prepared, torch.Tensor) else getattr(prepared, "tensor", None)
    if tensors is None:
        (tensors,) = [one for one in vars(prepared).values() if hasattr(one, "shape")]
    with torch.inference_mode():
        expected = module(torch.as_tensor(np.asarray(tensors)))[0].softmax(0).numpy()
    assert isinstance(found, Classification)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("a", "b")},
        {"name": "resnet18"},
        {"name": "no_such_architecture"},
        {"task": "detection"},
        {"arguments": {"dropout": "much"}},
        {"family": "timm", "name": "no_such_architecture"},
        {"family": "transformers", "name": "no_such_architecture"},
        {"family": "ultralytics", "name": "no_such_architecture"},
    ],
)
def test_weights_that_do_not_fit_the_record_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write(tmp_path / "run", seed=1, **changes)
    with pytest.raises((ModelError, MissingExtra)) as caught:
        load_model(str(tmp_path / "run"))
    assert len(caught.value.message) < 700


def test_damage_is_found_before_anything_is_built(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    with (tmp_path / "run" / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x77")
    with pytest.raises(ModelError, match="its SHA-256 differs"):
        load_model(str(tmp_path / "run"))


def test_other_things_than_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="isn't a trained model"):
        TrainedRuntime().load("fake:detection", LoadOptions())
    (tmp_path / "onnx-file").write_bytes(b"")
    with pytest.raises(ModelError, match="training left"):
        TrainedRuntime().load(str(tmp_path / "onnx-file"), LoadOptions())


# ---- warm models and cached passes


def test_a_warm_one_is_loaded_anew_when_its_folder_changed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write(folder, seed=1)
    loads: list[bool] = []
    models = WarmModels(10**9, lambda _: 10**6)

    def opened() -> Any:
        with models.open(str(folder), LoadOptions(), loads.append) as model:
            return model.predict(some_images(1))[0]

    first, again = opened(), opened()
    assert_same(first, again)
    write(folder, seed=2)
    other = opened()
    assert isinstance(other, Classification)
    assert np.abs(other.probabilities - first.probabilities).max() > 1e-3
    assert loads == [False, True, False]
    models.close()


def test_a_cached_pass_is_of_weights_and_record(here: Path) -> None:
    from visiondyno.datasets.registry import open_dataset
    from visiondyno.specs.operations import BenchmarkInput

    data, machine = open_dataset("set"), capture_environment()
    spec = BenchmarkInput(operation="benchmark", models=("runs/first",), data="set")
    cache = AccuracyCache(here / "cache")

    def key(reference: str) -> str | None:
        return cache.key(reference, spec, data, machine)

    known = key("runs/first")
    assert known is not None
    shutil.copytree("runs/first", "elsewhere")
    assert key("elsewhere") == known
    (here / "elsewhere" / "checkpoint").write_bytes(b"another")
    assert key("elsewhere") == known
    write(here / "elsewhere", seed=1, classes=("dog", "cat", "eel"))
    assert key("elsewhere") != known


# ---- the commands


def said_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    found = capsys.readouterr()
    assert end.value.code == 0, found.err
    return str(found.out)


def test_commands_take_a_trained_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(said_by(["models", "show", "runs/first", "--json"], capsys))
    assert shown["card"]["classes"] == list(CLASSES)
    scored = json.loads(said_by(["evaluate", "runs/first", "--data", "set", "--json"], capsys))
    assert 0 <= scored["metrics"]["top1"]["value"] <= 1
    image = next(path for path in (here / "set").rglob("*") if path.is_file())
    found = json.loads(said_by(["predict", "runs/first", str(image), "--json"], capsys))
    assert "scores" in json.dumps(found)


@pytest.mark.slow
def test_a_trained_folder_is_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["compare", "runs/first", "--data", "set", "--scenario", "single-stream"]
    said_by([*compare, "--duration", "0.1", "--out", "report"], capsys)
    report = json.loads((here / "report" / "report.json").read_text())
    (model,) = report["models"]
    assert model["reference"] == "runs/first"
    assert model["measures"]["top1"]["value"] is not None
    assert not report["left_out"]


# ---- elsewhere


def test_it_travels_whole_and_is_called_by_the_users_name(here: Path) -> None:
    (here / "blobs").mkdir()
    client = ClientElsewhere(here / "blobs")
    job_input = {"operation": "evaluate", "model": "./runs/first", "data": "set"}
    job = attach(job_input, client)
    assert job["model"] == "./runs/first"
    attachment = job["attachments"]["./runs/first"]
    assert attachment["path"] == "first"
    assert members_of(attachment["archive"]) == {
        f"first/{name}": (here / "runs" / "first" / name).read_bytes() for name in (RECORD, WEIGHTS)
    }
    expected = worker.run(job_input, OperationContext())
    shutil.rmtree("runs")
    shutil.rmtree("set")
    assert worker.run(job, OperationContext()) == expected
    image = base64.b64encode(encoded(".png", 20, 30)).decode()
    asked = {"operation": "predict", "model": "./runs/first", "images": [image]}
    with pytest.raises(ModelError, match=r"no model file \./runs/first"):
        worker.run(asked, OperationContext())
    client.close()


@pytest.mark.slow
def test_workers_of_this_machine_find_it(here: Path) -> None:
    image = base64.b64encode(encoded(".png", 20, 30)).decode()
    asked = {"operation": "predict", "model": "runs/first", "images": [image]}
    expected = worker.run(asked, OperationContext())
    with Client("local") as client:
        assert client.run(attach(asked, client)) == expected


def test_a_model_with_its_runtime_before_it_travels_too(here: Path) -> None:
    (here / "blobs").mkdir()
    client = ClientElsewhere(here / "blobs")
    (here / "val").mkdir()
    (here / "m.pt2").write_bytes(b"not a program")
    job = attach({"operation": "export", "model": "torch:m.pt2", "format": "onnx"}, client)
    assert set(job["attachments"]) == {"m.pt2"}
    with pytest.raises((ModelError, SpecError)) as caught:
        worker.run(job, OperationContext())
    assert "attachments" not in caught.value.message
    job = attach({"operation": "evaluate", "model": "torch:m.pt2", "data": "street:demo:1"}, client)
    with pytest.raises(ModelError, match=r"^m.pt2 isn't taken: it can't be read"):
        worker.run(job, OperationContext())
    client.close()
