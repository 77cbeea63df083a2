"""`dyno predict`."""

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.predict_video import predict_clip
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.datasets.header import IMAGE_SUFFIXES
from visiondyno.datasets.image_files import image_files
from visiondyno.errors import DatasetError, SpecError
from visiondyno.places import Place
from visiondyno.predictions import Detections
from visiondyno.python_face import predict, run_prediction
from visiondyno.vision.decode import decode_image
from visiondyno.vision.draw import draw
from visiondyno.vision.video_form import VIDEO_SUFFIXES

_OF_VIDEO = ("every", "fps", "start_s", "end_s", "max_frames", "track")


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|VIDEO...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Write what was found: drawn on the image or video (a folder for several images), or of a "
    "video as JSON lines (FILE.jsonl). May be given twice for a video.",
)
@click.option("--confidence", type=float, metavar="C", help="Lowest score kept. [default: 0.25]")
@click.option(
    "--classes",
    multiple=True,
    callback=options.split_list,
    metavar="NAME[,NAME]",
    help="Keep these classes of the model only, by name or number.",
)
@click.option("--every", type=int, metavar="N", help="Of a video: each so many-th frame.")
@click.option("--fps", type=float, metavar="F", help="Of a video: so many frames of each second.")
@click.option(
    "--start",
    "start_s",
    callback=options.duration_s,
    metavar="S",
    help="Of a video: begin here; seconds, or 2m.",
)
@click.option(
    "--end",
    "end_s",
    callback=options.duration_s,
    metavar="S",
    help="Of a video: end here; seconds, or 2m.",
)
@click.option("--max-frames", type=int, metavar="N", help="Of a video: stop after so many frames.")
@click.option("--track", is_flag=True, default=None, help="Of a video: number the objects.")
@options.device
@options.threads
@options.offline
@place_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print predictions as JSON; of a video a line a frame."
)
def command(
    model: str,
    inputs: tuple[str, ...],
    out: tuple[Path, ...],
    as_json: bool,
    place: Place,
    **given: Any,
) -> None:
    """Run a model on images or a video; print what it finds, or draw it.

    Boxes are in pixels of the image: left, top, right, bottom. With --on it runs elsewhere, and a
    model or video of this machine is sent along.
    """
    paths = _expanded(inputs)
    chosen = options.given(given)
    if any(path.suffix.lower() in VIDEO_SUFFIXES for path in paths):
        if len(paths) > 1:
            raise SpecError("A video comes alone; give it by itself.")
        predict_clip(model, paths[0], out, chosen, place, as_json=as_json)
        return
    wrong = next((name for name in _OF_VIDEO if name in chosen), None)
    if wrong is not None:
        option = "--" + wrong.removesuffix("_s").replace("_", "-")
        raise SpecError(f"{option} is of videos, and {paths[0]} is none; leave it out.")
    _check_out(out, paths)
    found = _found(model, paths, chosen, place)
    if as_json:
        click.echo(json.dumps(dict(zip(map(str, paths), found, strict=True)), indent=1))
    else:
        for path, prediction in zip(paths, found, strict=True):
            _print(path, prediction)
    if out:
        _draw_all(paths, found, out[0])


def _expanded(inputs: Sequence[str]) -> list[Path]:
    """Files; of a folder all images in it, of a pattern all files that it fits."""
    paths: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found = sorted(image_files(path))
            if not found:
                kinds = ", ".join(sorted(IMAGE_SUFFIXES))
                raise DatasetError(f"Folder {path} holds no image ({kinds}); give another.")
        elif not path.exists() and glob.has_magic(text):
            found = sorted(Path(one) for one in glob.glob(text, recursive=True))  # noqa: PTH207 - of any root
            found = [one for one in found if one.is_file()]
            if not found:
                raise DatasetError(f"No file fits the pattern {text}; check its folder.")
        else:
            found = [path]
        paths += [one for one in found if one not in paths]
    return paths


def _check_out(out: Sequence[Path], paths: Sequence[Path]) -> None:
    if len(out) > 1:
        raise SpecError("Give --out once for images; several of them are drawn into a folder.")
    if not out or len(paths) == 1:
        return
    if out[0].suffix.lower() in IMAGE_SUFFIXES or out[0].is_file():
        raise SpecError(
            f"--out {out[0]} takes one image, and there are {len(paths)}: name a folder."
        )
    names = [path.name for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"Two images are called {twice}; draw them into folders of their own.")


def _found(
    model: str, images: Sequence[Path], given: dict[str, Any], place: Place
) -> list[dict[str, Any]]:
    """The predictions; what is known of a job elsewhere goes to standard error."""
    if place.where == "inline":
        return predict(model, images, on=place, **given)
    with ProgressDisplay() as display:
        found, notes, job = run_prediction(model, images, given, display.show, place)
    for name, text in [] if job is None else job.lines():
        click.echo(f"{name}: {text}", err=True)
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    return found


def _print(path: Path, prediction: dict[str, Any]) -> None:
    count = len(prediction["scores"])
    table = Table(title=f"{path}: {count} found" if count else f"{path}: nothing found")
    table.add_column("class")
    table.add_column("score", justify="right")
    boxes = prediction.get("boxes_xyxy")
    if boxes is not None:
        table.add_column("box, pixels", justify="right")
    for index, (name, score) in enumerate(
        zip(prediction["names"], prediction["scores"], strict=True)
    ):
        box = [", ".join(f"{value:.0f}" for value in boxes[index])] if boxes is not None else []
        table.add_row(name, f"{score:.3f}", *box)
    Console().print(table)


def _draw_all(paths: Sequence[Path], found: Sequence[dict[str, Any]], out: Path) -> None:
    is_folder = len(paths) > 1 or out.is_dir()
    if is_folder:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(f"Folder {out} can't be made: {error.strerror}.") from error
    for path, prediction in zip(paths, found, strict=True):
        target = out / path.name if is_folder else out
        if is_folder and target.exists() and target.samefile(path):
            raise SpecError(f"{target} would be drawn over its own source; name another folder.")
        _draw(path, prediction, target)
    click.echo(f"Drawn: {out.resolve()}")


def _draw(path: Path, prediction: dict[str, Any], out: Path) -> None:
    if "boxes_xyxy" not in prediction:
        raise SpecError("A classifier finds no boxes to draw; leave --out away.")
    names = dict(zip(prediction["classes"], prediction["names"], strict=True))
    labels = [names.get(index, "") for index in range(max(names, default=-1) + 1)]
    detections = Detections(
        np.array(prediction["boxes_xyxy"], np.float32).reshape(-1, 4),
        np.array(prediction["scores"], np.float32),
        np.array(prediction["classes"], np.int64),
    )
    drawn = draw(decode_image(path.read_bytes(), str(path)), detections, labels)
    try:
        written = cv2.imwrite(str(out), drawn)
    except cv2.error:
        written = False
    if not written:
        raise SpecError(
            f"{out} can't be written; use a folder that is there and a name ending in .jpg or .png."
        )
