"""The training record that lies beside the shipped model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depth_training.losses import EDGE_WEIGHT
from depth_training.network import parameter_count
from depth_training.training import Trained
from model_training.circumstances import circumstances, recipe_commit
from model_training.onnx_file import OPSET, sha256
from model_training.optimisation import Hyperparameters
from visiondyno.datasets.depth_scenes import DEPTH_SCENES_VERSION

RECIPE = ["scripts", "src/visiondyno/datasets/depth_scenes", "src/visiondyno/datasets/rendering.py"]
"""Where it lies, from the project's root."""


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
        **circumstances(recipe_commit(RECIPE), trained.history[-1].seconds, {}),
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
        "history": [asdict(epoch) for epoch in trained.history],
        "val": outcome.measures | {"greatest_difference": outcome.greatest_difference},
    }
    path = files[0].with_suffix(".training.json")
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _count(folder: Path) -> int:
    return len(list((folder / "images").iterdir()))
