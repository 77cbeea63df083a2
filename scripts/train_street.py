"""Train the detectors that ship with VisionDyno, on the built-in street scenes.

    python scripts/train_street.py                      both, into src/visiondyno/shipped
    python scripts/train_street.py --model street-n     one of them
    python scripts/train_street.py --quick --out DIR    a few steps on a few scenes, as a check

Needs the torch extra. A run writes NAME.onnx and its training record NAME.training.json.
"""

import argparse
import sys
from pathlib import Path

import torch

from model_training.circumstances import recipe_commit
from model_training.command_line import parse, show_rendering, show_step
from model_training.onnx_file import sha256
from model_training.optimisation import Hyperparameters
from street_training.batches import Scenes, read_scenes, to_input
from street_training.evaluation import accuracy_of_file, best_nms_iou
from street_training.export import export, greatest_difference, street_card
from street_training.network import DESIGNS, ExportedDetector
from street_training.record import RECIPE, Outcome, write_record
from street_training.training import StreetHyperparameters, train
from visiondyno.datasets.street import Split, ensure_street

VAL_SCENES = 500
LARGEST_DIFFERENCE = 1e-4


def main() -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the shipped street detectors.")
    parser.add_argument("--model", choices=tuple(DESIGNS), action="append")
    parser.add_argument("--epochs", type=int, help="default: 14 of street-n, 7 of street-s")
    parser.add_argument("--scenes", type=int, default=8000, help="training scenes (default 8000)")
    options = parse(parser, "models", "60 scenes, 2 epochs")
    counts = (60, 20) if options.quick else (options.scenes, VAL_SCENES)
    folders = (_folder("train", counts[0], options), _folder("val", counts[1], options))
    scenes, val = (read_scenes(folder) for folder in folders)
    sums = (sha256(folders[0] / "annotations.json"), sha256(folders[1] / "annotations.json"))
    for name in options.model or DESIGNS:
        settings = _settings(name, options)
        _make(name, settings, (scenes, val), sums, options.out)
    return 0


def _settings(name: str, options: argparse.Namespace) -> Hyperparameters:
    if options.quick:
        return StreetHyperparameters(
            epochs=2, batch_size=4, warmup_steps=5, average_decay=0.9, seed=options.seed
        )
    epochs = options.epochs or {"street-n": 14, "street-s": 7}[name]
    return StreetHyperparameters(epochs=epochs, seed=options.seed)


def _make(
    name: str, settings: Hyperparameters, data: tuple[Scenes, Scenes], sums: tuple[str, str],
    out: Path,
) -> None:  # fmt: skip
    scenes, val = data
    # Before training: files may change while it runs.
    commit = recipe_commit(RECIPE)
    trained = train(name, scenes, val, settings, show_step(f"{name}: ", every=100))
    network = ExportedDetector(trained.network)
    nms_iou = best_nms_iou(network, val)
    # Written beside and renamed: a shipped model is never half a file.
    file, part = out / f"{name}.onnx", out / f".{name}.part.onnx"
    export(network, street_card(nms_iou), part)
    images = torch.stack([to_input(image[None])[0] for image in val.images[:3]])
    difference = greatest_difference(network, part, images)
    if difference > LARGEST_DIFFERENCE:
        part.unlink()
        sys.exit(f"{name}: the ONNX file's answers differ from the network's by {difference:.2g}, "
                 f"more than {LARGEST_DIFFERENCE:g}; nothing was written.")  # fmt: skip
    mean, by_class = accuracy_of_file(part, val)
    part.replace(file)
    outcome = Outcome(mean, by_class, nms_iou, difference)
    record = write_record(file, settings, trained, outcome, (len(scenes), len(val)), sums, commit)
    print(f"{name}: val mAP {mean:.4f}, {file.stat().st_size:,} bytes; record in {record}")


def _folder(split: Split, count: int, options: argparse.Namespace) -> Path:
    return ensure_street(
        split, count, options.cache, on_progress=show_rendering(split), processes=options.threads
    )


if __name__ == "__main__":
    raise SystemExit(main())
