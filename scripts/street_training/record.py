"""The training record that lies beside a shipped model."""

import datetime
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import faster_coco_eval
import numpy
import onnx
import onnxruntime
import torch

from street_training.assignment import ALPHA, ANCHORS_A_BOX, BETA, REACH_STRIDES
from street_training.export import OPSET, sha256
from street_training.losses import BOX_WEIGHT
from street_training.network import DESIGNS, ExportedDetector, parameter_count
from street_training.training import Hyperparameters, Trained
from visiondyno.datasets.street import STREET_VERSION


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
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "seconds": round(trained.history[-1].seconds, 1),
        "machine": f"{_processor()}, {torch.get_num_threads()} thread(s), bfloat16 autocast",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numpy": numpy.__version__,
            "faster-coco-eval": faster_coco_eval.__version__,
        },
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
        "history": trained.history_json(),
        "val": asdict(outcome),
    }
    path = file.with_name(f"{name}.training.json")
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def recipe_commit() -> str:
    """The commit the recipe is at; `-changed` where its files differ from it."""
    root = Path(__file__).parents[2]
    paths = ["scripts/train_street.py", "scripts/street_training", "src/visiondyno/datasets/street"]
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("-changed" if _git(root, "status", "--porcelain", "--", *paths) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607 - whichever git the developer uses
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
