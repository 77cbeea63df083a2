"""The four standing pairs, end to end on a processor: train what is missing, compare, report.

    make pairs
    PAIRS_EPOCHS=30 make pairs          # more of everything: better models
    .venv/bin/python scripts/pairs.py yolov8-yolov5

Everything goes below `out/pairs`: models, their index, and a report for each pair. Models that are
there already aren't trained again: remove `out/pairs` to begin anew. These settings make models
that have learned something within minutes, not good ones.

Environment:
    PAIRS_OUT         folder of it all [out/pairs]
    PAIRS_IMAGES      street scenes to learn from [300]
    PAIRS_VALIDATION  scenes to be scored on, after each epoch and in the comparisons [100]
    PAIRS_EPOCHS      of each training [as in TRAININGS]
    PAIRS_IMGSZ       side of the images, pixels [as in TRAININGS]
    PAIRS_DURATION    seconds of each measured scenario [3]
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from visiondyno.operations.family_models import STANDING_PAIRS, pair_models
from visiondyno.report.comparison import Comparison, ModelReport
from visiondyno.report.format import listed, measure_text, plural, title
from visiondyno.report.layout import ACCURACY_OF, scored_as
from visiondyno.report.write import read_report
from visiondyno.runtimes.references import FAMILY_PREFIX
from visiondyno.specs.trained_model import RECORD

IMAGES, VALIDATION, DURATION_S = 300, 100, 3.0


@dataclass(frozen=True)
class Training:
    """How a family's model is trained here.

    Attributes:
        model: reference of its architecture.
        epochs: so many that each training takes about as long.
        image_size: side of the images, pixels; scenes are 320 × 192.
        options: more of `dyno train`.
    """

    model: str
    epochs: int
    image_size: int
    options: tuple[str, ...] = field(default=())


# Ultralytics gathers the gradients of 64 images for a step: of few images too few steps come.
_YOLO = (
    *("--batch-size", "8", "--set", "arguments.nbs=8"),
    *("--set", "arguments.close_mosaic=3"),
)
TRAININGS = {
    "yolov5": Training("ultralytics:yolov5n", 10, 256, _YOLO),
    "yolov8": Training("ultralytics:yolov8n", 10, 256, _YOLO),
    "efficientnet_b0": Training(
        "torchvision:efficientnet_b0", 8, 160, ("--level", "image", "--batch-size", "16")
    ),
    # The smallest Faster R-CNN of torchvision. It sees in strides of 32 pixels, so scenes are
    # enlarged. With as many regions as torchvision takes by default a step is four times as long.
    "detectron2": Training(
        "torchvision:fasterrcnn_mobilenet_v3_large_fpn",
        8,
        480,
        (
            *("--batch-size", "4", "--lr", "0.001"),
            *("--set", "arguments.box_batch_size_per_image=32"),
            *("--set", "arguments.rpn_pre_nms_top_n_train=400"),
            *("--set", "arguments.rpn_post_nms_top_n_train=200"),
        ),
    ),
}


def main(pairs: list[str]) -> None:
    """Train and compare; end with a table."""
    began_s = time.monotonic()
    out = Path(os.environ.get("PAIRS_OUT", "out/pairs")).absolute()
    os.environ["VISIONDYNO_HOME"] = str(out / "home")
    chosen = pairs or ["-".join(pair) for pair in STANDING_PAIRS]
    families = [[name.removeprefix(FAMILY_PREFIX) for name in pair_models(pair)] for pair in chosen]
    for family in dict.fromkeys(name for pair in families for name in pair):
        train(family, out / "models")
    rows = [compare(pair, out / pair) for pair in chosen]
    print_table(chosen, rows, out)
    print(f"\n{plural(len(chosen), 'pair')} in {time.monotonic() - began_s:.0f} s.")


def train(family: str, models: Path) -> None:
    """Train the family's model, unless it is there."""
    training = TRAININGS[family]
    folder = models / training.model.partition(":")[2]
    if (folder / RECORD).is_file():
        print(f"{family}: {folder} is there already.")
        return
    data = [
        "--data",
        f"street:train:{number('PAIRS_IMAGES', IMAGES)}",
        "--validation",
        validation(),
    ]
    epochs = number("PAIRS_EPOCHS", training.epochs)
    side = number("PAIRS_IMGSZ", training.image_size)
    sizes = ["--epochs", str(epochs), "--imgsz", str(side), "--device", "cpu"]
    run("train", "--model", training.model, *data, *sizes, *training.options, "--out", str(folder))


def compare(pair: str, out: Path) -> Comparison:
    """Compare the pair's newest models on the validation scenes."""
    duration = os.environ.get("PAIRS_DURATION", str(DURATION_S))
    run(
        "compare", "--pair", pair, "--data", validation(), "--duration", duration, "--out", str(out)
    )
    return read_report(out / "report.json")


def run(*arguments: str) -> None:
    """`dyno` with these arguments; ends the script where it fails."""
    print(f"\n$ dyno {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "visiondyno", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def validation() -> str:
    """The scenes that models are scored on, which none has learned from."""
    return f"street:val:{number('PAIRS_VALIDATION', VALIDATION)}"


def number(name: str, default: int) -> int:
    """A whole number of the environment."""
    text = os.environ.get(name, "")
    if text and not text.isdigit():
        sys.exit(f"{name} is '{text}'; give a whole number.")
    return int(text) if text else default


def print_table(pairs: list[str], comparisons: list[Comparison], out: Path) -> None:
    """What came of each pair, a line a model."""
    print(f"\n{'Pair':<24} {'Model':<36} {'Accuracy':<34} Latency p50")
    for pair, found in zip(pairs, comparisons, strict=True):
        main_accuracy = ACCURACY_OF[scored_as(found.dataset)]
        for at, model in enumerate(found.models):
            accuracy = f"{title(main_accuracy)} {shown(model, main_accuracy)}"
            latency = shown(model, "latency_p50_ms")
            print(f"{'' if at else pair:<24} {model.name:<36} {accuracy:<34} {latency}")
        for winner in found.winners[:2]:
            names = listed([found.model(reference).name for reference in winner.references])
            tied = " (a tie)" if len(winner.references) > 1 else ""
            print(f"{'':<24} {winner.title}: {names or 'no winner'}{tied}")
        print(f"{'':<24} {out / pair / 'report.html'}")


def shown(model: ModelReport, measure: str) -> str:
    """A measure with its unit and interval."""
    return measure_text(measure, model.measures.get(measure))


if __name__ == "__main__":
    main(sys.argv[1:])
