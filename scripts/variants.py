"""One detector in every form: fp32, bf16, fp16, static and dynamic int8, and pruned; one report.

    make variants
    VARIANTS_EPOCHS=20 VARIANTS_IMAGES=600 VARIANTS_OUT=out/better make variants   # for longer
    VARIANTS_OUT=out/mine .venv/bin/python scripts/variants.py runs/mine   # of a training

A YOLOv8n is trained on street scenes, written as ONNX, quantized and pruned; all forms are then
measured side by side, against fp32, on scenes that none has learned from or was calibrated on.
Everything goes below `out/variants`; what is there already isn't made again, and is refused where
it is of another detector or other settings.

Environment:
    VARIANTS_OUT          folder of it all [out/variants]
    VARIANTS_IMAGES       street scenes to learn from [300]
    VARIANTS_VALIDATION   scenes to be scored on [100]
    VARIANTS_EPOCHS       of the training [15]
    VARIANTS_IMGSZ        side of the images, pixels [256]
    VARIANTS_CALIBRATION  scenes to find ranges on, of those that were learned [64]
    VARIANTS_RATIO        share of the channels that pruning removes [.3]
    VARIANTS_TUNING       epochs after pruning [5]
    VARIANTS_DURATION     seconds of each measured scenario [3]
    VARIANTS_REPEAT       fresh processes a model, in turns: one has its own luck [3]
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from visiondyno.cli.before_after import compare_after
from visiondyno.errors import VisionDynoError
from visiondyno.runtimes.trained_models import read_trained
from visiondyno.specs.trained_model import RECORD

_MODEL = "ultralytics:yolov8n.yaml"
# Ultralytics gathers the gradients of 64 images for a step: of few images too few steps come.
_YOLO = ("--batch-size", "8", "--set", "arguments.nbs=8", "--set", "arguments.close_mosaic=3")
_FORMS = ("static-int8", "dynamic-int8", "fp16")
_SETTINGS = "settings.json"
_DEFAULTS = {
    "OUT": "out/variants",
    "IMAGES": "300",
    "VALIDATION": "100",
    "EPOCHS": "15",
    "IMGSZ": "256",
    "CALIBRATION": "64",
    "RATIO": ".3",
    "TUNING": "5",
    "DURATION": "3",
    "REPEAT": "3",
}
_OF_MEASURING = frozenset({"OUT", "DURATION", "REPEAT"})


def main(folder: str | None) -> None:
    """Train unless a folder is given, make every form, and compare."""
    began_s = time.monotonic()
    out = Path(setting("OUT")).absolute()
    keep_settings(out, folder)
    os.environ["VISIONDYNO_HOME"] = str(out / "home")
    trained = Path(folder) if folder else train(out / "trained")
    source = export(trained, out / "fp32.onnx")
    made = quantize(source, out)
    pruned = export(prune(trained, out / "pruned"), out / "pruned.onnx")
    compare_after(
        str(source),
        [f"openvino-bf16:{source}", *map(str, made), str(pruned)],
        validation(),
        out / "report",
        duration_s=float(setting("DURATION")),
        repeat=int(setting("REPEAT")),
    )
    print(f"\n{2 + len(_FORMS) + 1} forms of one detector in {time.monotonic() - began_s:.0f} s.")


def train(folder: Path) -> Path:
    """The detector in fp32."""
    if (folder / RECORD).is_file():
        return folder
    sizes = ("--epochs", setting("EPOCHS"), "--imgsz", setting("IMGSZ"))
    run("train", "--model", _MODEL, *learned(), *sizes, *_YOLO, "--device", "cpu",
        "--out", str(folder))  # fmt: skip
    return folder


def prune(trained: Path, folder: Path) -> Path:
    """The same with fewer channels, trained on."""
    if (folder / RECORD).is_file():
        return folder
    run("prune", str(trained), "--ratio", setting("RATIO"), *learned(),
        "--epochs", setting("TUNING"), "--device", "cpu", "--no-compare",
        "--batch-size", "8", "--out", str(folder))  # fmt: skip
    return folder


def export(trained: Path, file: Path) -> Path:
    """A folder of a training as an ONNX file in fp32."""
    if not file.is_file():
        run("export", str(trained), "--data", validation(), "--out", str(file))
    return file


def quantize(source: Path, out: Path) -> list[Path]:
    """The files in fewer bits."""
    files = [out / f"{source.stem}-{form}.onnx" for form in _FORMS]
    if not all(file.is_file() for file in files):
        calibration = ("--calibration-images", setting("CALIBRATION"))
        run("quantize", str(source), "--to", ",".join(_FORMS), "--calibrate", "street:train",
            *calibration, "--data", validation(), "--no-compare", "--out", str(out))  # fmt: skip
    return files


def learned() -> tuple[str, ...]:
    """What a training learns from, and what its epochs are scored on."""
    images = setting("IMAGES")
    return ("--data", f"street:train:{images}", "--validation", validation())


def validation() -> str:
    """The scenes that all forms are scored on."""
    return f"street:val:{setting('VALIDATION')}"


def keep_settings(out: Path, folder: str | None) -> None:
    """Note of what the forms in a folder are; ends the script where they are of something else."""
    of = {name: setting(name) for name in _DEFAULTS.keys() - _OF_MEASURING}
    if folder is not None:
        of["weights"] = read_trained(Path(folder)).weights_sha256
    file = out / _SETTINGS
    known = json.loads(file.read_text()) if file.is_file() else None
    if known not in (None, of) or (known is None and (out / "fp32.onnx").is_file()):
        sys.exit(
            f"{out} holds forms of another detector, or by other settings; set VARIANTS_OUT to "
            "another folder, or remove that one."
        )
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(of, indent=1, sort_keys=True))


def setting(name: str) -> str:
    """A setting of the environment, or its default."""
    return os.environ.get(f"VARIANTS_{name}") or _DEFAULTS[name]


def run(*arguments: str) -> None:
    """`dyno` with these arguments; ends the script where it fails."""
    print(f"\n$ dyno {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "visiondyno", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except VisionDynoError as error:
        sys.exit(error.message)
