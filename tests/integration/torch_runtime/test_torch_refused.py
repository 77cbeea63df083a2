"""Programs that the torch runtime refuses: damaged, hostile, or none of a vision model."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from contracts.runtime_contract import some_images

pytest.importorskip("torch")

from torch_programs import (
    CLASSIFIER_CARD,
    DETECTOR_CARD,
    SIDE,
    Classifier,
    Detector,
    nn,
    torch,
    write_exported,
    write_scripted,
)
from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.programs import TorchRuntime
from visiondyno.runtimes.registry import load_model

pytestmark = pytest.mark.torch


def test_training_mode_is_refused(tmp_path: Path) -> None:
    path = write_exported(tmp_path / "t.pt2", Detector(), DETECTOR_CARD, is_training=True)
    with pytest.raises(ModelError, match=r"exported in training mode: it calls aten.*\.eval\(\)"):
        load_model(path)


def test_a_bounded_batch_is_refused(tmp_path: Path) -> None:
    path = write_exported(
        tmp_path / "b.pt2", Classifier(), CLASSIFIER_CARD, bounds={"min": 1, "max": 8}
    )
    with pytest.raises(ModelError, match=r"takes batches of \d to 8 images"):
        load_model(path)


class WithFlag(nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, images: Any, flag: bool) -> Any:
        return images.mean((2, 3)) if flag else images.sum((2, 3))


def test_other_inputs_than_images_are_refused(tmp_path: Path) -> None:
    program = torch.export.export(WithFlag(), (torch.zeros(1, 3, SIDE, SIDE), True))
    torch.export.save(program, tmp_path / "flag.pt2")
    with pytest.raises(ModelError, match=r"takes or gives something that isn't a tensor"):
        load_model(str(tmp_path / "flag.pt2"))


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (str(self._path), "w")


def test_a_pickle_in_a_program_is_never_read(tmp_path: Path, files: Path) -> None:
    trap = tmp_path / "sprung"
    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(files / "any.pt2") as good, zipfile.ZipFile(hostile, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("model_weights_config.json"):
                config = json.loads(data)
                for one in config["config"].values():
                    one["use_pickle"] = True
                data = json.dumps(config).encode()
            elif "weights/weight_" in name:
                data = pickle.dumps(Evil(trap))
            bad.writestr(name, data)
    with pytest.raises(ModelError, match=r"hostile.pt2 isn't taken: .* is a pickle"):
        load_model(str(hostile), LoadOptions(card=DETECTOR_CARD))
    assert not trap.exists()


def test_a_pickle_called_torchscript_is_never_read(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / "hostile.torchscript"
    buffer = io.BytesIO()
    torch.save({"weights": Evil(trap)}, buffer)
    for data in (buffer.getvalue(), pickle.dumps(Evil(trap)), b"", b"PK\x03\x04rubbish"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"can't be loaded as TorchScript by torch"):
            load_model(str(path), LoadOptions(card=DETECTOR_CARD))
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_programs_are_errors(tmp_path: Path, files: Path, damage: str) -> None:
    whole = (files / "any.pt2").read_bytes()
    path = tmp_path / "damaged.pt2"
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(ModelError, match=r"damaged.pt2 isn't taken: it can't be read"):
        load_model(str(path), LoadOptions(card=DETECTOR_CARD))


def test_folders_are_errors(tmp_path: Path) -> None:
    for name in ("folder.pt2", "folder.torchscript"):
        (tmp_path / name).mkdir()
        with pytest.raises(ModelError, match=r"can't be read|is a folder"):
            TorchRuntime().load(f"torch:{tmp_path / name}", LoadOptions(card=DETECTOR_CARD))


def test_a_missing_card_says_how_to_make_one(tmp_path: Path, own_code: None) -> None:
    path = write_scripted(tmp_path / "bare.torchscript", Classifier(), None)
    with pytest.raises(ModelError, match=r"Write bare.model.yaml beside it"):
        load_model(path)
    with pytest.raises(ModelError, match=r"set the module's attribute 'model_card'"):
        load_model("torch:own_models:uncarded")
    with load_model("torch:own_models:uncarded", LoadOptions(card=CLASSIFIER_CARD)) as model:
        assert model.description.card_source["task"] == "given"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head": "native"}, r"head 'native', which"),
        ({"task": "detection"}, r"says task 'detection', but head 'classification' is for"),
        ({"classes": ()}, r"names no classes"),
        ({"input": {"height": 32, "width": 32, "std": (0.0, 1.0, 1.0)}}, r"'std' holds a 0"),
    ],
)
def test_cards_that_fit_nothing_are_errors(files: Path, changes: dict[str, Any], said: str) -> None:
    card = CLASSIFIER_CARD.model_validate(CLASSIFIER_CARD.model_dump(by_alias=True) | changes)
    for name in ("frozen.torchscript", "classifier.pt2"):
        with pytest.raises(ModelError, match=said):
            load_model(str(files / name), LoadOptions(card=card))


def test_a_head_that_the_outputs_do_not_fit_is_an_error(files: Path) -> None:
    with (
        load_model(str(files / "frozen.torchscript"), LoadOptions(card=DETECTOR_CARD)) as model,
        pytest.raises(ModelError, match=r"Head 'end_to_end' reads"),
    ):
        model.predict(some_images(1))


def test_a_program_of_another_version_is_an_error(tmp_path: Path, files: Path) -> None:
    path = tmp_path / "newer.pt2"
    with zipfile.ZipFile(files / "any.pt2") as good, zipfile.ZipFile(path, "w") as newer:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("models/model.json"):
                data = json.dumps(json.loads(data) | {"schema_version": {"major": 999}}).encode()
            newer.writestr(name, data)
    with pytest.raises(ModelError, match=r"newer.pt2 can't be loaded by torch .* Export it again"):
        load_model(str(path), LoadOptions(card=DETECTOR_CARD))


def test_devices_that_are_not_here_are_errors(files: Path) -> None:
    for device, kind in (("tpu", SpecError), ("cuda:99", Unavailable)):
        with pytest.raises(kind, match=device):
            load_model(str(files / "any.pt2"), LoadOptions(device=device))
