"""`dyno predict`."""

import json
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.predictions import Detections
from visiondyno.python_face import predict, run_prediction
from visiondyno.vision.decode import decode_image
from visiondyno.vision.draw import draw


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the image with its boxes drawn (one image only).",
)
@click.option("--confidence", type=float, metavar="C", help="Lowest score kept. [default: 0.25]")
@options.device
@options.threads
@options.offline
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print predictions as JSON.")
def command(
    model: str,
    images: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    place: Place,
    **given: Any,
) -> None:
    """Run a model on images; print what it finds, or draw it.

    Boxes are in pixels of the image: left, top, right, bottom. With --on it runs elsewhere, and a
    model of this machine is sent along.
    """
    if out is not None and len(images) > 1:
        raise SpecError("--out takes the drawing of one image; give one image.")
    found = _found(model, images, options.given(given), place)
    if as_json:
        click.echo(json.dumps(dict(zip(map(str, images), found, strict=True)), indent=1))
    else:
        for path, prediction in zip(images, found, strict=True):
            _print(path, prediction)
    if out is not None:
        _draw(images[0], found[0], out)


def _found(
    model: str, images: tuple[Path, ...], given: dict[str, Any], place: Place
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
    click.echo(f"Drawn: {out.resolve()}")
