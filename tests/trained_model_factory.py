"""Trained models for tests: records, and folders of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visiondyno.specs.trained_model import RECORD, WEIGHTS, TrainedModel
from visiondyno.state import Tensor, to_safetensors

STREET = f"sha256:{'5' * 64}"


def trained_record(**changes: Any) -> TrainedModel:
    """A record of a classifier, with fields changed."""
    fields: dict[str, Any] = {
        "family": "torchvision",
        "name": "resnet18",
        "arguments": {"num_classes": 2},
        "task": "classification",
        "classes": ("car", "truck"),
        "image_size": 64,
        "trained_on": {"reference": "street:train", "digest": STREET, "images": 20},
        "epochs": 3,
        "best_epoch": 2,
        "metrics": {"accuracy": 0.5},
        "weights_sha256": "0" * 64,
        "created_at": "2026-11-22T22:00:00+00:00",
    }
    return TrainedModel.model_validate(fields | changes)


def trained_folder(
    folder: Path, state: Mapping[str, Tensor] | None = None, **changes: Any
) -> TrainedModel:
    """Write such a folder without torch; its record."""
    data = to_safetensors(state or {"weight": np.arange(6, dtype=np.float32)})
    digest = hashlib.sha256(data).hexdigest()
    record = trained_record(**{"weights_sha256": digest, **changes})
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(data)
    (folder / RECORD).write_text(record.model_dump_json(by_alias=True), encoding="utf-8")
    return record
