"""`dyno models`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.downloads import DownloadDisplay
from visiondyno.errors import InputError, ModelError, Unavailable, VisionDynoError
from visiondyno.report.format import bytes_text
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import write_card
from visiondyno.runtimes.registry import (
    fetch_weights,
    load_model,
    resolve_reference,
    shipped_models,
)
from visiondyno.runtimes.trained_models import trained_models
from visiondyno.runtimes.weights import kept_weights, weights_folder


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List models, show what a model says of itself, download weights, write model cards.

    Without a subcommand: the models that come with the package, those that were trained here, and
    the weights that were downloaded.
    """
    if context.invoked_subcommand is not None:
        return
    console = Console()
    console.print(_shipped())
    for table in (_trained(), _kept()):
        if table.row_count:
            console.print(table)
    click.echo("Any .onnx file is a model too: dyno models show FILE")
    click.echo("So is a name of a library's: dyno models pull ultralytics:yolov8n")


def _shipped() -> Table:
    table = Table(title="Shipped models")
    table.add_column("reference", no_wrap=True)
    for column in ("task", "classes", "input", "parameters", "size"):
        table.add_column(column, overflow="fold")
    for name in shipped_models():
        reference = f"visiondyno:{name}"
        with load_model(reference, LoadOptions()) as model:
            found = model.description
        size = found.card.input
        table.add_row(
            reference,
            found.card.task,
            ", ".join(found.card.classes),
            f"{size.width}×{size.height}",
            f"{found.parameters:,}" if found.parameters else "unknown",
            bytes_text(found.file_bytes),
        )
    return table


def _trained() -> Table:
    table = Table(title="Trained here, newest first")
    for column in ("reference", "model", "learned from", "epochs", "trained at"):
        table.add_column(column, overflow="fold")
    for one in trained_models():
        record = one.record
        table.add_row(
            str(one.folder),
            f"{record.family}:{record.name}",
            record.trained_on.reference,
            str(record.epochs),
            record.created_at,
        )
    return table


def _kept() -> Table:
    table = Table(title=f"Downloaded weights, in {weights_folder()}")
    for column in ("reference", "file", "size", "SHA-256", "licence"):
        table.add_column(column, overflow="fold")
    for one in kept_weights():
        size = bytes_text(one.size_bytes)
        table.add_row(one.reference, one.path.name, size, one.sha256[:16], one.license or "unknown")
    return table


@command.command("pull")
@click.argument("references", nargs=-1, required=True, metavar="MODEL…")
@options.offline
def pull(references: tuple[str, ...]) -> None:
    """Download the weights of each MODEL, verified, so that nothing is downloaded later.

    An interrupted download goes on where it stopped. Weights that are here already are read and
    verified, and downloaded again where they are damaged.
    """
    failed: dict[str, VisionDynoError] = {}
    with DownloadDisplay() as display:
        for reference in references:
            try:
                fetch_weights(reference, display.show)
            except VisionDynoError as error:
                failed[reference] = error
    for reference in references:
        if reference not in failed:
            click.echo(f"{reference}: {_where(reference)}")
        elif len(references) > 1:
            click.echo(f"{reference}: {failed[reference].message}", err=True)
    if failed:
        raise _not_pulled(list(failed.values()), len(references))


def _where(reference: str) -> str:
    path = resolve_reference(reference).path
    if path is not None:
        return f"needs no download: {path}"
    kept = [one for one in kept_weights() if one.reference == reference]
    if not kept:
        return "on this machine"
    return ", ".join(f"{one.path} ({bytes_text(one.size_bytes)})" for one in kept)


def _not_pulled(errors: Sequence[VisionDynoError], asked: int) -> VisionDynoError:
    """One error for all; that of a model asked for alone stays what it is."""
    if asked == 1:
        return errors[0]
    kind = ModelError if any(isinstance(error, InputError) for error in errors) else Unavailable
    return kind(f"{len(errors)} of {asked} models weren't pulled; each one's line says why.")


@command.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(model: str, as_json: bool) -> None:
    """How MODEL will be run: its card, and where each part of it comes from.

    Nothing is downloaded: pull a name's weights first.
    """
    with load_model(model, LoadOptions()) as loaded:
        found = loaded.description
    card: dict[str, Any] = found.card.model_dump(mode="json", by_alias=True, exclude_none=True)
    if as_json:
        click.echo(json.dumps({"card": card, "card_source": found.card_source}, indent=1))
        return
    classes = card.pop("classes")
    click.echo(f"{model}: {found.runtime} on {found.provider}, {found.precision}")
    parameters = f"{found.parameters:,} parameters, " if found.parameters else ""
    batch = f"batch {found.batch_size}" if found.batch_size else "any batch size"
    size = bytes_text(found.file_bytes) if found.file_bytes else "no file"
    click.echo(f"{parameters}{size}, {batch}, {found.digest}")
    click.echo(yaml.safe_dump(card, sort_keys=False).rstrip())
    click.echo(f"classes ({len(classes)}): {', '.join(classes)}")
    for part, source in found.card_source.items():
        click.echo(f"  {part}: from {source}")
    for note in found.notes:
        click.echo(f"Note: {note}")


@command.command("init")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a card that is there.")
def init(file: Path, force: bool) -> None:
    """Write FILE's model card beside it with the best guess, for you to correct."""
    path = write_card(file, force=force)
    click.echo(f"Written: {path}. Check every line, then: dyno models show {file}")
