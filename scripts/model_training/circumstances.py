"""What a training record says of when, where and with what a model was made."""

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy
import onnx
import onnxruntime
import torch


def circumstances(commit: str, seconds: float, versions: dict[str, str]) -> dict[str, Any]:
    """Date, commit, time taken, machine and versions; `versions` come after those all have."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "seconds": round(seconds, 1),
        "machine": f"{_processor()}, {torch.get_num_threads()} thread(s), bfloat16 autocast",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numpy": numpy.__version__,
        }
        | versions,
    }


def recipe_commit(paths: list[str]) -> str:
    """The commit a recipe is at; `-changed` where its files, from the root, differ from it."""
    root = Path(__file__).parents[2]
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("-changed" if _git(root, "status", "--porcelain", "--", *paths) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],  # noqa: S607 - whichever git the developer uses
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
