"""An evaluation task on ten small images, scored in under a second."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 32
"""Of the images and of the models' input, in pixels."""
IMAGES = 10


def write_hidden_data(root: Path, count: int = IMAGES) -> None:
    """A depth folder of small images, brighter where they are farther away."""
    generator = np.random.default_rng(5)
    for name in ("images", "depth"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        image = generator.integers(40, 250, (SIDE, SIDE, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{index}.png"), image)
        noise = generator.uniform(0.8, 1.3, (SIDE, SIDE))
        np.save(root / "depth" / f"{index}.npy", image.mean(2) / 50 * noise)


def small_task(data: Path, **changes: Any) -> dict[str, Any]:
    """The task `small` on the hidden data in a folder, as its file says it."""
    task = {
        "name": "small",
        "title": "Depth of small images",
        "description": "",
        "vision_task": "depth",
        "data": str(data),
        "metric": {"name": "delta1", "better": "higher", "formula": "share within 1.25"},
        "depth": {"output": "depth", "alignment": "median_scale"},
        "card": {
            "task": "depth",
            "head": "depth",
            "input": {"height": SIDE, "width": SIDE, "resize": "stretch"},
        },
        "input": {"height": SIDE, "width": SIDE},
        "batch_size": 8,
        "limits": {"time_s": 60, "memory_bytes": 1_000_000_000, "upload_bytes": 5_000_000},
        "submissions_per_day": 1000,
        "resamples": 100,
    }
    return {**task, **changes}
