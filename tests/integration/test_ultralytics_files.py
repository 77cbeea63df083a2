"""Ultralytics' files, names and architectures: what is read, what is refused; nothing is run."""

import builtins
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from contracts.runtime_contract import some_images
from file_server import FileServer, Served
from trained_model_factory import trained_record
from visiondyno.errors import MissingExtra, ModelError, Unavailable
from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import fetch_weights, load_model

pytest.importorskip("ultralytics")

import torch
from torch import nn
from ultralytics_cases import lively_network, save_checkpoint

from visiondyno.runtimes.pytorch.ultralytics import build_trained, pretrained_state
from visiondyno.runtimes.pytorch.ultralytics_checkpoint import read_checkpoint
from visiondyno.specs.model_card import InputCard

pytestmark = pytest.mark.torch

SIDE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    return save_checkpoint(lively_network("yolov8n", SIDE), folder / "street.pt", SIDE)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(kind: str, marker: Path) -> Any:
    from ultralytics.nn import tasks
    from ultralytics.utils.checks import check_requirements

    touch = f"open({str(marker)!r}, 'w')"
    layers = {"backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[[-1], 1, "Detect", ["nc"]]]}
    activated = layers | {"nc": 1, "activation": touch}
    return {
        "system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(builtins.eval, touch),
        "popen": Calls(subprocess.Popen, ["touch", str(marker)]),
        # Of packages that checkpoints do refer to: each runs something where it is called.
        "network": Calls(tasks.DetectionModel, activated),
        "loader": Calls(tasks.load_checkpoint, str(marker)),
        "installer": Calls(check_requirements, "a-package"),
        "hub": Calls(torch.hub.load, str(marker)),
    }[kind]


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that would be there if something had run."""
    calls: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda *said, **_: calls.append(said))
    before = set(torch.serialization.get_safe_globals())
    yield tmp_path / "it-ran"
    assert not (tmp_path / "it-ran").exists()
    assert not calls
    assert set(torch.serialization.get_safe_globals()) == before


def with_hostile(checkpoint: Path, place: str, thing: Any, path: Path) -> str:
    content = torch.load(checkpoint, weights_only=False)
    content["ema"] = None if place == "model" else content["ema"]
    content[place] = thing
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("kind", ["system", "eval", "popen"])
@pytest.mark.parametrize("place", ["model", "train_args"])
def test_what_no_checkpoint_names_is_refused(
    checkpoint: Path, tmp_path: Path, nothing_runs: Path, kind: str, place: str
) -> None:
    thing = hostile(kind, nothing_runs)
    path = with_hostile(checkpoint, place, thing, tmp_path / "hostile.pt")
    with pytest.raises(ModelError, match=r"hostile\.pt refers to .* wasn't opened"):
        load_model(path)


@pytest.mark.parametrize("kind", ["network", "loader", "installer", "hub"])
def test_what_checkpoints_name_is_not_run_either(
    checkpoint: Path, tmp_path: Path, nothing_runs: Path, kind: str
) -> None:
    thing = hostile(kind, nothing_runs)
    path = with_hostile(checkpoint, "model", thing, tmp_path / "hostile.pt")
    with pytest.raises(ModelError, match=r"hostile\.pt is"):
        load_model(path)
    # Settings that are no settings are passed over.
    load_model(with_hostile(checkpoint, "train_args", thing, tmp_path / "strange.pt")).close()


def test_a_short_file_of_billions_of_values_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=False)
    network = content["ema"] or content["model"]
    values: list[Any] = ["a"]
    for _ in range(60):
        values = [values, values]
    network.yaml["more"] = values
    torch.save(content, tmp_path / "values.pt")
    with pytest.raises(ModelError, match="its architecture has over 100000 parts"):
        load_model(str(tmp_path / "values.pt"))
    del network.yaml["more"]
    layers = torch.nn.Sequential(torch.nn.Identity())
    for _ in range(60):
        layers = torch.nn.Sequential(layers, layers)
    network.more = layers
    torch.save(content, tmp_path / "layers.pt")
    with pytest.raises(ModelError, match="it has over 100000 layers"):
        load_model(str(tmp_path / "layers.pt"))


LAYERS: dict[str, Any] = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "nn.Identity", []]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "__import__('os').system('touch it-ran')"}, "isn't one of torch.nn"),
        ({"activation": "nn.functional"}, "isn't one of torch.nn"),
        ({"head": [[-1, 1, "load_checkpoint", ["evil.pt"]]]}, "isn't a layer"),
        ({"head": [[-1, 1, "torchvision.ops.nms", []]]}, "isn't a layer"),
        ({"head": [[-1, 1, "TorchVision", [8, "resnet18"]]]}, "downloads weights"),
        ({"head": [[-1, 1, "nn.functional", []]]}, "isn't a layer"),
        ({"head": [[-1, 1, "Segment", ["nc"]]]}, "for segmentation, which isn't covered"),
        ({"head": [[-1, 1, "Conv", [8]]]}, "ends in a layer Conv"),
        ({"head": []}, "ends in a layer nn.Identity"),
        ({"head": 3}, "must be lists"),
        ({"head": [[-1, 1, 5, []]]}, "a layer has no name"),
        ({"channels": 1}, "images of 1 channels"),
        ({"head": [[[7], 1, "Detect", ["nc"]]]}, "can't be built"),
        ({"backbone": [[-1, 10**12, "nn.Identity", []]]}, "over 10,000 layers"),
        ({"depth_multiple": 1e12}, "over 10,000 layers"),
        ({"scales": {"n": [1e12, 1.0, 64]}}, "over 10,000 layers"),
        ({"backbone": [[-1, 1, "Conv", [12000, 3, 2]]] * 2}, "over 1,000,000,000 weights"),
        ({"backbone": [[-1, 1, "Conv", [10**9, 3, 2]]]}, "can't be built"),
    ],
)
def test_architectures_may_name_layers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(yaml.safe_dump(LAYERS | changes))
    with pytest.raises(ModelError, match=message):
        load_model("ultralytics:own.yaml")
    assert not Path("it-ran").exists()


def test_an_architecture_of_ones_own_has_random_weights_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(yaml.safe_dump(LAYERS | {"activation": "nn.ReLU()"}))
    state = torch.get_rng_state()
    digests = set()
    for _ in range(2):
        with load_model("ultralytics:own.yaml") as model:
            said = model.description
            digests.add(said.digest)
    assert torch.equal(state, torch.get_rng_state()), "torch's random numbers are the caller's"
    assert len(digests) == 1
    assert any("RANDOM WEIGHTS" in note for note in said.notes)
    assert any("AGPL-3.0" in note for note in said.notes)
    assert said.card.classes == ("class 0", "class 1", "class 2")
    assert said.card_source["classes"] == "assumed"
    assert model.files == ()
    assert said.file_bytes >= 4 * (said.parameters or 0)


@pytest.mark.parametrize("text", ["[", "- 1", "5"])
def test_files_that_are_no_architecture_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"own\.yaml"):
        load_model(f"ultralytics:{path}")


def test_known_architectures_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with load_model("ultralytics:yolov5nu.yaml") as model:
        assert len(model.description.card.classes) == 80
        assert model.description.card.classes[2] == "car"
        assert model.description.card.input.width == 640
    with load_model("ultralytics:yolov8n-cls.yaml") as model:
        assert model.description.card.task == "classification"
        assert model.description.card.input.width == 224


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ultralytics:yolov99n.yaml", "There is no architecture"),
        ("ultralytics:../x.yaml", "There is no architecture"),
        ("ultralytics:yolov88n", "did you mean ultralytics:yolov8n"),
        ("ultralytics:yolov8n-seg", "for segmentation"),
        ("ultralytics:yolo11s-pose.pt", "for pose"),
        ("ultralytics:rtdetr-l", "transformers:"),
        ("ultralytics:somewhere/else.pt", "no model file somewhere/else.pt"),
        ("ultralytics:yolov5n", "dyno models pull ultralytics:yolov5n"),
    ],
)
def test_names_that_stand_for_nothing_here(
    reference: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=message):
        load_model(reference)


def test_published_weights_are_fetched_by_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "yolov5nu.pt" in GITHUB_ASSETS_NAMES
    monkeypatch.delenv("VISIONDYNO_OFFLINE", raising=False)
    address = "ultralytics/assets/releases/download/v8.4.0/yolov5nu.pt"
    with FileServer() as server:
        server.files[address] = Served(checkpoint.read_bytes())
        monkeypatch.setenv("VISIONDYNO_WEIGHTS_MIRROR", server.url)
        fetch_weights("ultralytics:yolov5n")
        fetch_weights("ultralytics:yolov8n.yaml")
        assert [path for path, _ in server.asked] == [f"/{address}"]
    with load_model("ultralytics:yolov5n") as model:
        assert [path.name for path in model.files] == ["yolov5nu.pt"]
        assert model.description.reference == "ultralytics:yolov5n"
    assert (
        pretrained_state("ultralytics:yolov5nu").keys() == read_checkpoint(checkpoint).state.keys()
    )


def changed(checkpoint: Path, path: Path, change: Any) -> Path:
    content = torch.load(checkpoint, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


def drop_weight(content: Any) -> None:
    del content["ema"].model[0].conv._parameters["weight"]


def put_relu(content: Any) -> None:
    content["ema"].model[0].act = nn.ReLU()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(ema=None), "no network of Ultralytics"),
        (lambda content: content.update(modelopt={"a": 1}), "a quantised network"),
        (lambda content: content["ema"].__dict__.pop("yaml"), "isn't a whole checkpoint"),
        (lambda content: content["ema"].yaml.update(head=nn.ReLU()), "isn't plain data"),
        (drop_weight, "don't fit its architecture"),
        (put_relu, r"layer model\.0\.act is a ReLU, where .* builds a SiLU"),
    ],
)
def test_checkpoints_that_are_not_whole_are_refused(
    checkpoint: Path, tmp_path: Path, change: Any, message: str
) -> None:
    path = changed(checkpoint, tmp_path / "other.pt", change)
    with pytest.raises(ModelError, match=message):
        load_model(str(path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.pt can't be read"):
        load_model(str(path))


def test_a_list_of_tensors_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "list.pt"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(ModelError, match="no network of Ultralytics"):
        load_model(str(path))


def test_another_tasks_network_is_named(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import PoseModel

    network = PoseModel("yolov8n-pose.yaml", verbose=False)
    path = tmp_path / "pose.pt"
    torch.save({"model": network, "train_args": {}}, path)
    with pytest.raises(ModelError, match="for pose"):
        load_model(str(path))


def test_checkpoints_of_the_yolov5_repository_are_named(tmp_path: Path) -> None:
    model = type("Model", (), {"__module__": "models.yolo"})
    import sys
    from types import ModuleType

    package, module = ModuleType("models"), ModuleType("models.yolo")
    module.Model = model  # type: ignore[attr-defined]
    sys.modules |= {"models": package, "models.yolo": module}
    try:
        torch.save({"model": model()}, tmp_path / "old.pt")
    finally:
        del sys.modules["models"], sys.modules["models.yolo"]
    with pytest.raises(ModelError, match="YOLOv5 repository"):
        load_model(str(tmp_path / "old.pt"))


def test_a_size_that_is_no_multiple_of_the_stride_is_rounded_up_and_told(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = changed(
        checkpoint,
        tmp_path / "odd.pt",
        lambda content: content["train_args"].update(imgsz=[50, 70]),
    )
    with load_model(str(path)) as model:
        assert (model.description.card.input.height, model.description.card.input.width) == (64, 96)
        assert any("Trained at 50x70" in note for note in model.description.notes)


def test_a_checkpoint_may_say_less_and_say_it_otherwise(checkpoint: Path, tmp_path: Path) -> None:
    from ultralytics.utils import IterableSimpleNamespace

    def older(content: Any) -> None:
        # Of earlier versions: lists of names, settings as an object, paths as objects.
        network = content["ema"]
        network.names = list(network.names.values())
        network.yaml["yaml_file"] = Path("yolov8n.yaml")
        network.model[0].register_buffer("passing", torch.zeros(1), persistent=False)
        content["train_args"] = IterableSimpleNamespace(imgsz=96)

    with load_model(str(changed(checkpoint, tmp_path / "older.pt", older))) as model:
        assert model.description.card.input.width == 96
        assert model.description.card.classes == ("car", "truck", "stop sign")
    untold = changed(checkpoint, tmp_path / "untold.pt", lambda content: content.pop("train_args"))
    with load_model(str(untold)) as model:
        assert model.description.card.input.width == 640


def test_torch_before_2_6_cannot_read_checkpoints_safely(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
    with pytest.raises(Unavailable, match=r"torch 2\.6"):
        load_model(str(checkpoint))


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="isn't a file"):
        load_model(f"ultralytics:{tmp_path}")


def test_a_card_of_another_head_is_refused(checkpoint: Path) -> None:
    with load_model(str(checkpoint)) as model:
        card = model.description.card
    plain = InputCard(height=SIDE, width=SIDE)
    with pytest.raises(ModelError, match="its network has 'yolov8'"):
        load_model(
            str(checkpoint),
            LoadOptions(card=card.model_copy(update={"head": "yolox", "input": plain})),
        )


def test_a_trained_model_is_the_network_it_was(checkpoint: Path, tmp_path: Path) -> None:
    fields = {"family": "ultralytics", "arguments": {}, "task": "detection", "image_size": SIDE}
    record = trained_record(name="yolov8n", classes=("car", "truck", "stop sign"), **fields)
    state = pretrained_state(str(checkpoint))
    images = some_images(2)
    with (
        load_model(str(checkpoint)) as model,
        build_trained(record, state, LoadOptions(), tmp_path) as built,
    ):
        for one, other in zip(model.predict(images), built.predict(images), strict=True):
            assert isinstance(one, Detections)
            assert isinstance(other, Detections)
            np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
            np.testing.assert_array_equal(one.class_ids, other.class_ids)
    with pytest.raises(ModelError, match="don't fit"):
        build_trained(record, {}, LoadOptions(), tmp_path)
    classifier = trained_record(name="yolov8n", **fields | {"task": "classification"})
    with pytest.raises(ModelError, match="does detection"):
        build_trained(classifier, state, LoadOptions(), tmp_path)


def test_a_missing_package_names_the_extra(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ultralytics", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[ultralytics\]"):
        load_model(str(checkpoint))
