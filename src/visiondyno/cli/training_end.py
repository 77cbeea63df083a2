"""How `dyno train` ends: what is kept of a training that failed, and lines for its summary."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from visiondyno.client.training_report import (
    CONFIG,
    PAGE,
    TrainingFolder,
    TrainingWatch,
)
from visiondyno.report.format import number, plural

Line = tuple[str, str]


@contextmanager
def keeping_what_is_known(folder: TrainingFolder, watch: TrainingWatch) -> Iterator[None]:
    """Writes history and page of the epochs that were done, before an error goes on its way."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            watch.ended = "It was interrupted."
        watch.put_before(folder.earlier_history())
        folder.write_unfinished(watch)
        if watch.history:
            done = f"Done: {plural(len(watch.history), 'epoch')}, written to {folder.path}."
            again = "The same command goes on from the last checkpoint that its worker kept."
            click.echo(f"{done} {again}", err=True)
        for name, text in job_lines(watch):
            click.echo(f"{name}: {text}", err=True)
        raise


def job_lines(watch: TrainingWatch) -> list[Line]:
    """Where it ran and what that cost, as far as it is known."""
    return watch.job.lines() if watch.job is not None and watch.job.is_told else []


def files_of(folder: TrainingFolder) -> dict[str, str]:
    """The files that a training left, by what they are."""
    out = folder.path
    return {
        "state": str((out / folder.weights).resolve()),
        "page": str((out / PAGE).resolve()),
        "config": str((out / CONFIG).resolve()),
    }


def run_lines(watch: TrainingWatch) -> list[Line]:
    """Time and worker."""
    speed = [f"{number(watch.seconds)} s"]
    if watch.seconds_an_epoch is not None:
        speed.append(f"{number(watch.seconds_an_epoch)} s an epoch")
    if watch.samples_per_s is not None:
        speed.append(f"{watch.samples_per_s:,.0f} training samples/s with validation")
    environment = watch.environment
    where = f"torch {environment['torch']} on {environment['device']}" if environment else ""
    return [("Time", ", ".join(speed)), ("Worker", where), *job_lines(watch)]


def print_lines(lines: list[Line], watch: TrainingWatch) -> None:
    """The summary: lines that say something, then notes."""
    for name, text in lines:
        if text:
            click.echo(f"{name:<12} {text}")
    for note in watch.notes:
        click.echo(f"Note: {note}")
