"""`dyno predict`."""

import contextlib
import glob
import json
from collections import Counter
from collections.abc import Generator, Sequence
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
from visiondyno.datasets.image_files import image_files, visible_folders
from visiondyno.errors import DatasetError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predict import predict_files
from visiondyno.places import Place
from visiondyno.predictions import Detections
from visiondyno.python_face import run_prediction
from visiondyno.specs.operations import PredictInput, parse
from visiondyno.vision.decode import decode_image
from visiondyno.vision.draw import draw
from visiondyno.vision.video_form import LONGEST_BEGIN_BYTES, VIDEO_SUFFIXES, is_video

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
@click.option(
    "--confidence",
    type=float,
    metavar="C",
    help="Lowest score kept. [default: 0.25 of a detector, any of a classifier]",
)
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
    paths, videos_left = _expanded(inputs)
    chosen = options.given(given)
    if any(_is_clip(path) for path in paths):
        if len(paths) > 1:
            raise SpecError("A video comes alone; give it by itself.")
        predict_clip(model, paths[0], out, chosen, place, as_json=as_json)
        return
    wrong = next((name for name in _OF_VIDEO if name in chosen), None)
    if wrong is not None:
        option = "--" + wrong.removesuffix("_s").replace("_", "-")
        raise SpecError(f"{option} is of videos, and {paths[0]} is none; leave it out.")
    if videos_left:
        click.echo(f"Note: {_of_videos(videos_left)} passed over: give each by itself.", err=True)
    errors = _predict_images(model, paths, _targets(out, paths), chosen, place, as_json=as_json)
    if out:
        click.echo(f"Drawn: {out[0].resolve()}", err=as_json)
    if errors:
        raise DatasetError(
            f"{errors:,} of {len(paths):,} images can't be read; mend them or leave them away. "
            "All others were predicted."
        )


def _predict_images(
    model: str,
    paths: Sequence[Path],
    targets: dict[Path, Path],
    given: dict[str, Any],
    place: Place,
    *,
    as_json: bool,
) -> int:
    """Print and draw what is found, image by image; how many of several can't be read."""
    found: dict[str, Any] = {}
    errors = 0
    try:
        with contextlib.closing(_predictions(model, paths, given, place)) as predictions:
            for path, prediction in predictions:
                found[str(path)] = prediction
                if "error" in prediction:
                    errors += 1
                    click.echo(f"Not predicted: {prediction['error']['message']}", err=True)
                    continue
                if not as_json:
                    _print(path, prediction)
                if targets:
                    _draw(path, prediction, targets[path])
    finally:
        if as_json and found:  # also where it is interrupted
            click.echo(json.dumps(found, indent=1))
    return errors


def _expanded(inputs: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Files, and videos that are left: of a folder all its images, of a pattern all it fits."""
    paths: dict[Path, None] = {}
    videos_left: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found = sorted(image_files(path))
            videos = _videos_in(path)
            videos_left += videos
            if not found:
                kinds = ", ".join(sorted(IMAGE_SUFFIXES))
                but = f", but {_of_videos(videos)} there: give each by itself" if videos else ""
                raise DatasetError(
                    f"Folder {path} holds no image ({kinds}){but or '; give another'}."
                )
        elif not path.exists() and glob.has_magic(text):
            found = sorted(Path(one) for one in glob.glob(text, recursive=True))  # noqa: PTH207 - of any root
            found = [one for one in found if one.is_file()]
            if not found:
                raise DatasetError(f"No file fits the pattern {text}; check its folder.")
        else:
            found = [path]
        paths.update(dict.fromkeys(found))
    return list(paths), videos_left


def _videos_in(folder: Path) -> list[Path]:
    return [
        Path(parent, name)
        for parent, names in visible_folders(folder)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES
    ]


def _of_videos(videos: Sequence[Path]) -> str:
    return "1 video is" if len(videos) == 1 else f"{len(videos):,} videos are"


def _is_clip(path: Path) -> bool:
    """Whether it is called a video, or is one under a name that says nothing."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    if suffix in IMAGE_SUFFIXES or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_video(file.read(LONGEST_BEGIN_BYTES))
    except OSError:
        return False  # reading it as an image says why


def _targets(out: Sequence[Path], paths: Sequence[Path]) -> dict[Path, Path]:
    """Of each image the file that it is drawn to; empty: none is. A folder for them is made."""
    if len(out) > 1:
        raise SpecError("Give --out once for images; several of them are drawn into a folder.")
    if not out:
        return {}
    if len(paths) == 1 and out[0].suffix and not out[0].is_dir():
        targets = {paths[0]: out[0]}
    else:
        if out[0].suffix.lower() in IMAGE_SUFFIXES or out[0].is_file():
            raise SpecError(
                f"--out {out[0]} takes one image, and there are {len(paths)}: name a folder."
            )
        name, count = Counter(path.name for path in paths).most_common(1)[0]
        if count > 1:
            raise SpecError(f"Two images are called {name}; draw them into folders of their own.")
        targets = {path: out[0] / path.name for path in paths}
        try:
            out[0].mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(f"Folder {out[0]} can't be made: {error.strerror}.") from error
    for path, target in targets.items():
        if target.exists() and path.exists() and target.samefile(path):
            raise SpecError(f"{target} would be drawn over its own source; name another.")
    return targets


def _predictions(
    model: str, paths: Sequence[Path], given: dict[str, Any], place: Place
) -> Generator[tuple[Path, dict[str, Any]], None, None]:
    """Each image's prediction, or `error`; what is known of a job goes to standard error."""
    if place.where == "inline":
        fields = {"model": model, "images": list(map(str, paths)), **given}
        spec = parse(PredictInput, fields, "The prediction's options are wrong")
        yield from predict_files(spec, paths, OperationContext())
        return
    with ProgressDisplay() as display:
        found, notes, job = run_prediction(model, paths, given, display.show, place)
    for name, text in [] if job is None else job.lines():
        click.echo(f"{name}: {text}", err=True)
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    yield from zip(paths, found, strict=True)


def _print(path: Path, prediction: dict[str, Any]) -> None:
    boxes = prediction.get("boxes_xyxy")
    click.echo(f"{path}: {_title(prediction)}")  # as a title it would be folded
    if not prediction["names"]:
        return
    table = Table()
    table.add_column("class")
    table.add_column("score", justify="right")
    if boxes is not None:
        table.add_column("box, pixels", justify="right")
    for index, (name, score) in enumerate(
        zip(prediction["names"], prediction["scores"], strict=True)
    ):
        box = [", ".join(str(round(value)) for value in boxes[index])] if boxes is not None else []
        table.add_row(name, f"{score:.3f}", *box)
    Console().print(table)


def _title(prediction: dict[str, Any]) -> str:
    names = prediction["names"]
    if "boxes_xyxy" in prediction:
        return f"{len(names)} found" if names else "nothing found"
    return names[0] if names else "no class has the score that is asked for"


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
