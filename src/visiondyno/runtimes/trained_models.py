"""Trained models: folders that are model references, and the index by which they are found again.

The index is the folder `models` in VisionDyno's home: a file for each trained model that names its
folder. What the folder holds says `visiondyno.specs.trained_model`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import ValidationError

from visiondyno.errors import ModelError, StorageFull
from visiondyno.settings import load_settings
from visiondyno.specs.operations import describe_validation
from visiondyno.specs.trained_model import RECORD, WEIGHTS, TrainedModel
from visiondyno.state import State, Tensor, from_safetensors, from_tensors, to_safetensors
from visiondyno.whole_file import write_whole

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)
_INDEX = "models"
_DETECTRON2 = "detectron2"
_STAND_IN = "fasterrcnn_"


@dataclass(frozen=True, slots=True)
class Registered:
    """A trained model of the index.

    Attributes:
        folder: where it lies, absolute.
        record: what it is.
    """

    folder: Path
    record: TrainedModel


def read_trained(folder: Path) -> TrainedModel:
    """The record of a trained model's folder; its weights aren't looked at.

    Raises:
        ModelError: there is none, or it can't be read.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path} can't be read ({error.strerror}); give the folder that a training left."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} isn't JSON; train the model again, or copy it again.") from error
    try:
        return TrainedModel.model_validate(content)
    except ValidationError as error:
        raise ModelError(
            f"{path} is no record of a trained model: {describe_validation(error)}."
        ) from error


def read_weights(folder: Path, record: TrainedModel) -> dict[str, Tensor]:
    """The weights of a trained model, as arrays by name, verified against its record.

    Raises:
        ModelError: they are absent, aren't those of the record, or damaged.
        TooLarge: they are larger than a state may be.
    """
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} can't be read ({error.strerror}); copy the whole folder of the training."
        ) from error
    if hashlib.sha256(data).hexdigest() != record.weights_sha256:
        raise ModelError(
            f"{path} isn't the file that {RECORD} beside it describes: its SHA-256 differs. It is "
            "damaged or from another training; copy the folder again, or train again."
        )
    return from_safetensors(data)


def write_trained(
    folder: Path, record: TrainedModel, state: "Mapping[str, torch.Tensor] | State"
) -> TrainedModel:
    """Make a folder a trained model; one that was there before is replaced.

    Args:
        folder: made if it isn't there; other files in it stay.
        record: of the model; its `weights_sha256` is replaced by that of the file written.
        state: the weights by name: tensors on any device, or arrays, which need no torch.

    Returns:
        The record as written.

    Raises:
        ModelError: a tensor can't be written as safetensors.
        StorageFull: the folder can't be written.
    """
    data = to_safetensors(_arrays(state))
    written = record.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    # The record comes last and goes first: a folder that has one has the weights it describes.
    _make_folder(folder, "The trained model", without=RECORD)
    write_whole(folder / WEIGHTS, data, "The trained model's weights")
    text = written.model_dump_json(by_alias=True, indent=1)
    write_whole(folder / RECORD, f"{text}\n".encode(), "The trained model's record")
    return written


def _arrays(state: "Mapping[str, torch.Tensor] | State") -> State:
    if all(isinstance(one, np.ndarray) for one in state.values()):
        return cast("State", state)
    return from_tensors(state, copy=False)


def register(folder: Path, record: TrainedModel) -> None:
    """Put a trained model into the index, or bring its entry up to date.

    Args:
        folder: of the model; the index names it as an absolute path.
        record: of the model, for whoever looks at the entry; finding reads the folder's own.

    Raises:
        StorageFull: the index can't be written.
    """
    index = _index_folder()
    _make_folder(index, "The index of trained models")
    place = os.path.abspath(folder)  # noqa: PTH100 - links keep their names
    entry = {
        "folder": place,
        "model": f"{record.family}:{record.name}",
        "trained_on": record.trained_on.reference,
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    name = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    data = json.dumps(entry, indent=1).encode()
    write_whole(index / f"{name}.json", data, "The index of trained models")


def trained_models() -> list[Registered]:
    """All of the index, newest first; entries whose folder is gone are left out."""
    found = [one for path in _entries() if (one := _registered(path)) is not None]
    return sorted(found, key=lambda one: (_moment(one.record), str(one.folder)), reverse=True)


def find_trained(family: str, data_digest: str | None) -> list[Registered]:
    """Trained models of a family, newest first; pruned ones are no longer what its name means.

    Args:
        family: as users say it: `yolov5`, `yolov8`, `yolo11`, `yolo26`, `efficientnet_b0`,
            `detectron2` (its stand-in, a Faster R-CNN of torchvision), or an architecture's name.
        data_digest: only those that learned from this data (`TrainedOn.digest`); None: any.
    """
    return [
        one
        for one in trained_models()
        if is_of_family(one.record, family)
        and one.record.pruned is None
        and data_digest in (None, one.record.trained_on.digest)
    ]


def is_of_family(record: TrainedModel, family: str) -> bool:
    """Whether a trained model is what users mean by `family`; see `find_trained`."""
    if family == _DETECTRON2:
        return record.family == "torchvision" and record.name.startswith(_STAND_IN)
    if record.family == "ultralytics":
        return bool(family) and record.name.startswith(family)
    return record.name == family


def _index_folder() -> Path:
    return load_settings().folder / _INDEX


def _entries() -> Iterator[Path]:
    folder = _index_folder()
    if folder.is_dir():
        yield from sorted(folder.glob("*.json"))


def _registered(entry: Path) -> Registered | None:
    try:
        content: Any = json.loads(entry.read_text(encoding="utf-8"))
        folder = Path(content["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        _LOG.warning("%s is no entry of a trained model and is left out; remove it.", entry)
        return None
    if not (folder / RECORD).is_file():
        return None
    try:
        return Registered(folder, read_trained(folder))
    except ModelError as error:
        _LOG.warning("A trained model is left out: %s", error)
        return None


def _moment(record: TrainedModel) -> datetime:
    try:
        made = datetime.fromisoformat(record.created_at)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return made if made.tzinfo else made.replace(tzinfo=UTC)


def _make_folder(folder: Path, what: str, without: str | None = None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if without is not None:
            (folder / without).unlink(missing_ok=True)
    except OSError as error:
        raise StorageFull(
            f"{what} can't be written to {folder} ({error.strerror}); name a folder that may be "
            "written."
        ) from error
