"""What commands that make a model do with it: run the job, fetch the files, write them whole."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from visiondyno.cli.progress import ProgressDisplay
from visiondyno.client.client import Client
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.python_face import run_operation
from visiondyno.runtimes.references import resolve_reference
from visiondyno.specs.operations import OperationInput
from visiondyno.whole_file import file_sha256, write_whole


def run_making(spec: OperationInput, place: Place) -> dict[str, Any]:
    """Run the operation where it is to run, its progress on standard error; its output.

    What is known of a job elsewhere (where, how long, what it cost) is printed there too.

    Raises:
        VisionDynoError: the operation failed, or the place can't run it.
    """
    with ProgressDisplay() as display:
        output, job = run_operation(spec, display.show, place)
    for name, text in [] if job is None else job.lines():
        click.echo(f"{name}: {text}", err=True)
    return output


def make_ready(folder: Path, files: Sequence[str], source: str) -> None:
    """Find out before the work whether its result can be written.

    Args:
        folder: made where it isn't there.
        files: names of what will be written into it.
        source: reference of the model that it is made of: never overwritten.

    Raises:
        SpecError: the folder can't be made, or a file would take the source's place.
    """
    _refuse_source([folder / name for name in files], source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"{folder} can't be made ({error.strerror}); give --out in one that may be written."
        ) from error


def write_made(
    output: dict[str, Any],
    client_or_place: Client | Place,
    folder: Path,
    stem: str,
    source: str,
) -> list[Path]:
    """Fetch the files of an output, and write each whole.

    A file that is there with the same content is left alone; one with other content is replaced,
    and that is said on standard error. Of several files the main one goes first and comes last: if
    it is there, the others are its own.

    Args:
        output: its `files` map names to `sha256:…`, the main file first.
        client_or_place: where the job ran.
        folder: made where it isn't there.
        stem: of the files' names; their suffixes are the output's.
        source: reference of the model that it was made of: never overwritten.

    Returns:
        The paths, in order: the first is a model reference.

    Raises:
        SpecError: the folder can't be made, or a file would take the source's place.
        NotFound, TransportDown: a file can't be fetched.
        StorageFull: it can't be written.
    """
    targets = {
        folder / f"{stem}{_suffix(name)}": reference for name, reference in output["files"].items()
    }
    make_ready(folder, [path.name for path in targets], source)
    if isinstance(client_or_place, Client):
        _write_all(targets, client_or_place)
    else:
        with Client(client_or_place) as client:
            _write_all(targets, client)
    return list(targets)


def _suffix(name: str) -> str:
    return Path(name).suffix


def _write_all(targets: dict[Path, str], client: Client) -> None:
    new = {
        path: client.get_blob(reference)
        for path, reference in targets.items()
        if not (path.is_file() and f"sha256:{file_sha256(path)}" == reference)
    }
    replaced = [path for path in new if path.exists()]
    main = next(iter(targets))
    if main in replaced and len(new) > 1:
        with contextlib.suppress(OSError):  # writing it says what is wrong
            main.unlink()
    for path in reversed(new):
        write_whole(path, new[path], "The model", "give another --out")
    for path in replaced:
        click.echo(f"Note: {path} was there with other content, and was replaced.", err=True)


def _refuse_source(targets: Sequence[Path], source: str) -> None:
    path = resolve_reference(source).path
    if path is None:
        return
    # An OpenVINO model's weights lie beside its .xml under the same name.
    taken = {path.resolve(), path.with_suffix(".bin").resolve()}
    for target in targets:
        if target.resolve() in taken:
            raise SpecError(
                f"{target} is the model that this one is made of; give --out another name."
            )
