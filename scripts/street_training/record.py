"""The training record that lies beside a shipped model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faster_coco_eval

from model_training.circumstances import circumstances
from model_training.onnx_file import OPSET, sha256
from model_training.optimisation import Hyperparameters
from street_training.assignment import ALPHA, ANCHORS_A_BOX, BETA, REACH_STRIDES
from street_training.losses import BOX_WEIGHT
from street_training.network import DESIGNS, ExportedDetector, parameter_count
from street_training.training import Trained
from visiondyno.datasets.street import STREET_VERSION

RECIPE = [
    "scripts/train_street.py",
    "scripts/street_training",
    "scripts/model_training",
    "src/visiondyno/datasets/street",
    "src/visiondyno/datasets/rendering.py",
]
"""Where it lies, from the project's root."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the exported file turned out to be.

    Attributes:
        map_50_95: COCO mAP on the validation scenes, by the file itself.
        average_precision: of each class.
        nms_iou: chosen on the validation scenes.
        greatest_difference: between file and network.
    """

    map_50_95: float
    average_precision: dict[str, float]
    nms_iou: float
    greatest_difference: float


def write_record(
    file: Path,
    settings: Hyperparameters,
    trained: Trained,
    outcome: Outcome,
    counts: tuple[int, int],
    sums: tuple[str, str],
    commit: str,
) -> Path:
    """Write `NAME.training.json` beside the model file; returns its path."""
    name = file.stem
    record: dict[str, Any] = {
        "schema": "visiondyno.training/1",
        "model": name,
        "sha256": sha256(file),
        "file_bytes": file.stat().st_size,
        "parameters": parameter_count(ExportedDetector(trained.network)),
        **circumstances(
            commit, trained.history[-1].seconds, {"faster-coco-eval": faster_coco_eval.__version__}
        ),
        "design": asdict(DESIGNS[name]),
        "hyperparameters": asdict(settings)
        | {
            "assignment": {
                "alpha": ALPHA,
                "beta": BETA,
                "anchors_a_box": ANCHORS_A_BOX,
                "reach_strides": REACH_STRIDES,
            },
            "box_weight": BOX_WEIGHT,
            "opset": OPSET,
        },
        "dataset": {
            "name": "street",
            "version": STREET_VERSION,
            "train_scenes": counts[0],
            "val_scenes": counts[1],
            "train_annotations": sums[0],
            "val_annotations": sums[1],
        },
        "history": [asdict(epoch) for epoch in trained.history],
        "val": asdict(outcome),
    }
    path = file.with_name(f"{name}.training.json")
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
