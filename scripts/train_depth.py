"""Train the depth model that ships with VisionDyno, on the built-in depth scenes.

    python scripts/train_depth.py                      into src/visiondyno/shipped
    python scripts/train_depth.py --quick --out DIR    a few steps on a few scenes, as a check

Needs the torch extra. A run writes depth-n.onnx (a batch of any size), depth-n-b8.onnx and
depth-n-b32.onnx (batches of 8 and of 32), and the training record depth-n.training.json.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from depth_training.batches import read_scenes, to_input
from depth_training.evaluation import measures_of_file
from depth_training.export import export, greatest_difference
from depth_training.network import ExportedDepth
from depth_training.record import Outcome, write_record
from depth_training.training import DepthHyperparameters, Trained, train
from model_training.command_line import parse, show_rendering, show_step
from model_training.optimisation import Hyperparameters
from visiondyno.datasets.depth_scenes import Split, ensure_depth_scenes

LARGEST_DIFFERENCE = 1e-4
_NAMES: dict[str, int | None] = {"depth-n": None, "depth-n-b8": 8, "depth-n-b32": 32}


def main() -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the shipped depth model.")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--scenes", type=int, default=2800, help="training scenes (default 2800)")
    options = parse(parser, "model", "40 scenes, 2 epochs")
    counts = (40, 10) if options.quick else (options.scenes, 300)
    folders = (_folder("train", counts[0], options), _folder("val", counts[1], options))
    scenes, val = (read_scenes(folder) for folder in folders)
    settings = DepthHyperparameters(epochs=options.epochs, seed=options.seed)
    if options.quick:
        settings = DepthHyperparameters(epochs=2, batch_size=4, warmup_steps=5, seed=options.seed)
    _write(train(scenes, val, settings, show_step("", every=50)), settings, folders, options.out)
    return 0


def _write(
    trained: Trained, settings: Hyperparameters, folders: tuple[Path, Path], out: Path
) -> None:  # fmt: skip
    network = ExportedDepth(trained.network)
    files, parts, differences = [], [], []
    for name, batch in _NAMES.items():
        # Written beside and renamed: a shipped model is never half a file.
        parts.append(out / f".{name}.part.onnx")
        files.append(out / f"{name}.onnx")
        export(network, parts[-1], batch)
        images = _images(folders[1], batch or 3)
        differences.append(greatest_difference(network, parts[-1], images))
    if max(differences) > LARGEST_DIFFERENCE:
        for part in parts:
            part.unlink()
        sys.exit(f"The ONNX files' depth differs from the network's by {max(differences):.2g}, "
                 f"more than {LARGEST_DIFFERENCE:g}; nothing was written.")  # fmt: skip
    measures = measures_of_file(parts[0], folders[1])
    for part, file in zip(parts, files, strict=True):
        part.replace(file)
    record = write_record(files, settings, trained, Outcome(measures, max(differences)), folders)
    said = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
    print(f"depth-n: val {said}, {files[0].stat().st_size:,} bytes; record in {record}")


def _images(folder: Path, count: int) -> torch.Tensor:
    """The first scenes of a folder at full size, repeated as often as it takes."""
    found = sorted((folder / "images").iterdir())
    files = [found[place % len(found)] for place in range(count)]
    return to_input(np.stack([np.asarray(cv2.imread(str(file)), np.uint8) for file in files]))


def _folder(split: Split, count: int, options: argparse.Namespace) -> Path:
    return ensure_depth_scenes(
        split, count, options.cache, on_progress=show_rendering(split), processes=options.threads
    )


if __name__ == "__main__":
    raise SystemExit(main())
