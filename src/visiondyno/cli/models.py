"""`dyno models`."""

import json
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from visiondyno.report.format import bytes_text
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import write_card
from visiondyno.runtimes.registry import load_model, shipped_models


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List models, show what a model file says of itself, write model cards.

    Without a subcommand: the models that come with the package.
    """
    if context.invoked_subcommand is not None:
        return
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
    Console().print(table)
    click.echo("Any .onnx file is a model too: dyno models show FILE")


@command.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(model: str, as_json: bool) -> None:
    """How MODEL will be run: its card, and where each part of it comes from."""
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
    click.echo(f"{parameters}{bytes_text(found.file_bytes)}, {batch}, {found.digest}")
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
