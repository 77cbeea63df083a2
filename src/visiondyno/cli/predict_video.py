"""`dyno predict` of a video."""

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli.progress import ProgressDisplay
from visiondyno.client.client import Client
from visiondyno.errors import SpecError, StorageFull
from visiondyno.job import JobEvent, JobState
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predict_video import VideoSummary, predict_video
from visiondyno.places import Place
from visiondyno.python_face import run_operation
from visiondyno.specs.operations import parse
from visiondyno.specs.video import PredictVideoInput
from visiondyno.vision.video_writer import WRITTEN_SUFFIXES
from visiondyno.whole_file import write_whole

_LINES = frozenset({".jsonl", ".ndjson"})


def predict_clip(
    model: str,
    clip: Path,
    out: Sequence[Path],
    given: dict[str, Any],
    place: Place,
    *,
    as_json: bool,
) -> None:
    """Predict a video and write what was found.

    Args:
        model: model reference.
        clip: the video.
        out: at most one file of JSON lines and one video.
        given: fields of `PredictVideoInput`.
        place: where it runs.
        as_json: whether each frame's prediction is printed.

    Raises:
        SpecError: the options are wrong, or a file can't be written.
        VisionDynoError: as the message says.
    """
    lines, drawn = _targets(out, clip)
    if "classes" in given:
        given = {**given, "classes": tuple(given["classes"])}
    fields = {"model": model, "video": str(clip), **given}
    if drawn is not None:
        fields["draw"] = drawn.suffix.lower().removeprefix(".")
    spec = parse(PredictVideoInput, fields, "The prediction's options are wrong")
    # What is printed for programs has standard output for itself.
    told = Console(stderr=as_json)
    if place.where == "inline":
        summary = _predict_here(spec, clip, lines, drawn, as_json=as_json)
    else:
        summary = _predict_elsewhere(spec, lines, drawn, place, as_json=as_json)
    _print(clip, summary, told)
    for path in (drawn, lines):
        if path is not None:
            click.echo(f"Written: {path.resolve()}", err=as_json)


def _targets(out: Sequence[Path], clip: Path) -> tuple[Path | None, Path | None]:
    """The file of JSON lines and the video that are to be written."""
    lines = [path for path in out if path.suffix.lower() in _LINES]
    drawn = [path for path in out if path.suffix.lower() in WRITTEN_SUFFIXES]
    other = [path for path in out if path not in lines + drawn]
    if other:
        known = ", ".join(sorted(WRITTEN_SUFFIXES))
        raise SpecError(
            f"--out {other[0]} is neither a video ({known}) nor JSON lines (.jsonl); end its name "
            "in one of these."
        )
    if len(lines) > 1 or len(drawn) > 1:
        raise SpecError("--out takes one video and one file of JSON lines; give each once.")
    for path in (*lines, *drawn):
        if not path.parent.is_dir():
            raise SpecError(f"--out {path} lies in a folder that isn't there; make it first.")
        if path.exists() and clip.exists() and path.samefile(clip):
            raise SpecError(f"--out {path} is the video itself; name another file.")
    return (lines[0] if lines else None, drawn[0] if drawn else None)


def _predict_here(
    spec: PredictVideoInput,
    clip: Path,
    lines: Path | None,
    drawn: Path | None,
    *,
    as_json: bool,
) -> VideoSummary:
    summary = VideoSummary()
    with ProgressDisplay() as display, ExitStack() as stack:
        takers: list[Callable[[str], Any]] = [click.echo] if as_json else []
        if lines is not None:
            takers.append(stack.enter_context(_line_file(lines)))

        def take(frame: dict[str, Any]) -> None:
            line = json.dumps(frame) if takers else ""
            for taker in takers:
                taker(line)

        def show(progress: dict[str, Any]) -> None:
            display.show(
                JobEvent(job_id="", number=0, state=JobState.IN_PROGRESS, progress=progress)
            )

        try:
            predict_video(spec, clip, OperationContext(show), summary, take, drawn)
        except BaseException as error:
            kept = _kept_of(error, drawn, lines)
            if summary.frames and kept:
                error.add_note(
                    f"The first {summary.frames:,} chosen frames are in {' and '.join(kept)}."
                )
            raise
    return summary


def _kept_of(error: BaseException, *wanted: Path | None) -> list[str]:
    """The files that hold what was done before an error."""
    if isinstance(error, StorageFull):  # which of them that is of, its message says
        return []
    return [str(path) for path in wanted if path is not None]


@contextmanager
def _line_file(path: Path) -> Iterator[Callable[[str], Any]]:
    """Takes lines; the file appears under its name at the end, whatever that is."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("x") as file:
            try:
                yield lambda line: file.write(line + "\n")
            finally:
                file.flush()
                if file.tell():
                    partial.replace(path)
    except OSError as error:
        raise StorageFull(
            f"Predictions can't be written to {path} ({error.strerror}); name a file in a folder "
            "that may be written and has room."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _predict_elsewhere(
    spec: PredictVideoInput,
    lines: Path | None,
    drawn: Path | None,
    place: Place,
    *,
    as_json: bool,
) -> VideoSummary:
    with ProgressDisplay() as display, Client(place) as client:
        output, job = run_operation(spec, display.show, client)
        if as_json or lines is not None:
            _take_lines(output, client, lines, as_json=as_json)
        if drawn is not None:
            client.get_file(output["drawn"], drawn, "The drawn video")
    for name, fact in [] if job is None else job.lines():
        click.echo(f"{name}: {fact}", err=True)
    summary = VideoSummary(
        video=output["video"],
        frames=output["frames"],
        tracks=output["tracks"],
        frames_per_s=output["frames_per_s"],
        notes=output["notes"],
    )
    summary.found.update(output["found"])
    return summary


def _take_lines(
    output: dict[str, Any], client: Client, lines: Path | None, *, as_json: bool
) -> None:
    """Write and print the frames' predictions, which may be long and a blob."""
    with tempfile.TemporaryDirectory(prefix="visiondyno-") as folder:
        path = lines or Path(folder, "predictions.jsonl")
        if output["predictions_file"] is not None:
            client.get_file(output["predictions_file"], path, "The predictions")
        else:
            text = "".join(json.dumps(frame) + "\n" for frame in output["predictions"])
            write_whole(path, text.encode(), "The predictions")
        if as_json:
            with path.open() as file:
                for line in file:
                    click.echo(line, nl=False)


def _print(clip: Path, summary: VideoSummary, console: Console) -> None:
    speed = "" if summary.frames_per_s is None else f", {summary.frames_per_s:.1f} a second"
    objects = (
        ""
        if summary.tracks is None
        else f", {summary.tracks:,} object{'s' * (summary.tracks != 1)}"
    )
    click.echo(f"{clip}: {summary.frames:,} frames{speed}{objects}", err=console.stderr)
    table = Table()
    table.add_column("class")
    table.add_column("found", justify="right")
    table.add_column("a frame", justify="right")
    for name, count in summary.found.most_common():
        table.add_row(name, f"{count:,}", f"{count / summary.frames:.2f}")
    if not summary.found:
        table.add_row("nothing found", "0", "0")
    console.print(table)
    for note in summary.notes:
        click.echo(f"Note: {note}", err=console.stderr)
