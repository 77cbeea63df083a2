"""`dyno datasets`."""

import json
import shutil
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.datasets.indexed import describe
from visiondyno.datasets.registry import builtin_datasets, open_dataset
from visiondyno.errors import SpecError


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List data sets, describe one, write the built-in ones to a folder.

    Without a subcommand: the built-in data sets.
    """
    if context.invoked_subcommand is not None:
        return
    table = Table(title="Built-in data sets")
    for column in ("reference", "images", "what"):
        table.add_column(column)
    for builtin in builtin_datasets():
        for split, images in builtin.splits.items():
            table.add_row(f"{builtin.name}:{split}", f"{images:,}", builtin.description)
    Console().print(table)
    click.echo("A folder of your own is a data set too: dyno datasets show FOLDER")


@command.command("show")
@click.argument("reference")
@options.max_images
@options.skip_bad
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(reference: str, max_images: int | None, skip_bad: bool | None, as_json: bool) -> None:
    """What REFERENCE holds: images, objects by class and size, digest, bad samples."""
    dataset = open_dataset(reference, skip_bad=bool(skip_bad), max_images=max_images)
    found = describe(dataset)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    noun = "objects" if found["task"] == "detection" else "labels"
    click.echo(
        f"{reference}: {found['task']}, {found['images']:,} images, {found['objects']:,} {noun}"
    )
    click.echo(found["digest"])
    if found["sizes"]:
        sizes = ", ".join(f"{count:,} {size}" for size, count in found["sizes"].items())
        click.echo(
            f"by COCO's sizes: {sizes}; {found['images_without_objects']} images without any"
        )
    table = Table()
    table.add_column("class")
    table.add_column(noun, justify="right")
    for name, count in found["classes"].items():
        table.add_row(name, f"{count:,}")
    Console().print(table)
    for bad in found["skipped"]:
        click.echo(f"Skipped: {bad['reason']}")


@command.command("write")
@click.argument("reference")
@click.argument("folder", type=click.Path(path_type=Path))
def write(reference: str, folder: Path) -> None:
    """Write a built-in data set to FOLDER: images and COCO JSON, for any other tool."""
    if reference.partition(":")[0] not in {builtin.name for builtin in builtin_datasets()}:
        raise SpecError(f"{reference} isn't a built-in data set; dyno datasets lists them.")
    if folder.exists() and any(folder.iterdir()):
        raise SpecError(f"{folder} isn't empty; name a new folder.")
    dataset = open_dataset(reference)
    source = dataset.sample(0).path.parent.parent
    shutil.copytree(source, folder, dirs_exist_ok=True)
    click.echo(f"Written: {len(dataset):,} images in {folder.resolve()}")
