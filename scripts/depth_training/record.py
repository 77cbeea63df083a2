"""The training record that lies beside the shipped model."""

import datetime
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy
import onnx
import onnxruntime
import torch

from depth_training.export import OPSET, sha256
from depth_training.losses import EDGE_WEIGHT
from depth_training.network import parameter_count
from depth_training.training import Hyperparameters, Trained
from visiondyno.datasets.depth_scenes import DEPTH_SCENES_VERSION


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the exported file turned out to be.

    Attributes:
        measures: abs_rel, rmse and delta1 on the validation scenes, by the file itself.
        greatest_difference: between the depth of file and network, as a share.
    """

    measures: dict[str, float]
    greatest_difference: float


def write_record(
    files: list[Path],
    settings: Hyperparameters,
    trained: Trained,
    outcome: Outcome,
    folders: tuple[Path, Path],
) -> Path:
    """Write `NAME.training.json` beside the first of the model's files; returns its path."""
    record: dict[str, Any] = {
        "schema": "visiondyno.training/1",
        "model": files[0].stem,
        "files": {
            file.name: {"sha256": sha256(file), "bytes": file.stat().st_size} for file in files
        },
        "parameters": parameter_count(trained.network),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "seconds": round(trained.history[-1].seconds, 1),
        "machine": f"{_processor()}, {torch.get_num_threads()} thread(s), bfloat16 autocast",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numpy": numpy.__version__,
        },
        "output": "depth in metres along the optical axis; scored without alignment",
        "hyperparameters": asdict(settings) | {"edge_weight": EDGE_WEIGHT, "opset": OPSET},
        "dataset": {
            "name": "depth-scenes",
            "version": DEPTH_SCENES_VERSION,
            "train_scenes": _count(folders[0]),
            "val_scenes": _count(folders[1]),
            "train_sums": sha256(folders[0] / "SHA256SUMS"),
            "val_sums": sha256(folders[1] / "SHA256SUMS"),
        },
        "history": trained.history_json(),
        "val": outcome.measures | {"greatest_difference": outcome.greatest_difference},
    }
    path = files[0].with_suffix(".training.json")
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _count(folder: Path) -> int:
    return len(list((folder / "images").iterdir()))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str:
    """The commit the recipe was at; `-changed` where its files differed from it."""
    root = Path(__file__).parents[2]
    paths = ["scripts", "src/visiondyno/datasets/depth_scenes"]
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
