"""`dyno datasets`."""

import json
import shutil
from difflib import get_close_matches
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.downloads import DownloadDisplay
from visiondyno.datasets.indexed import describe
from visiondyno.datasets.pull.catalogue import DOWNLOADABLE, downloadable, pulled_folder
from visiondyno.datasets.registry import builtin_datasets, default_cache_dir, open_dataset
from visiondyno.errors import SpecError


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List data sets, describe one, write the built-in ones to a folder, pull published ones.

    Without a subcommand: the built-in data sets, and those that can be pulled.
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
    published = Table(title="Published data sets, for dyno datasets pull NAME")
    for column in ("name", "MB", "what", "terms", "here"):
        published.add_column(column, justify="right" if column == "MB" else "left")
    for dataset in DOWNLOADABLE:
        megabytes = f"{sum(file.about_bytes for file in dataset.files) / 1e6:,.0f}"
        here = "yes" if pulled_folder(dataset.name, default_cache_dir()).is_dir() else ""
        published.add_row(dataset.name, megabytes, dataset.description, dataset.terms, here)
    Console().print(published)
    click.echo("A folder of your own is a data set too: dyno datasets show FOLDER")


@command.command("show")
@click.argument("reference")
@options.max_images
@options.skip_bad
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(reference: str, max_images: int | None, skip_bad: bool | None, as_json: bool) -> None:
    """What REFERENCE holds: images, objects by class and size or depth, digest, bad samples."""
    dataset = open_dataset(reference, skip_bad=bool(skip_bad), max_images=max_images)
    found = describe(dataset)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    noun = "objects" if found["task"] == "detection" else "labels"
    count = "" if found["depth"] else f", {found['objects']:,} {noun}"
    click.echo(f"{reference}: {found['task']}, {found['images']:,} images{count}")
    click.echo(found["digest"])
    for note in found["notes"]:
        click.echo(f"Note: {note}")
    if found["depth"]:
        depth = found["depth"]
        click.echo(
            f"{depth['measured_share']:.1%} of the pixels have depth, from "
            f"{depth['nearest_m']:.2f} to {depth['farthest_m']:.2f} m, median "
            f"{depth['median_m']:.2f} m"
        )
    if found["sizes"]:
        sizes = ", ".join(f"{count:,} {size}" for size, count in found["sizes"].items())
        click.echo(
            f"by COCO's sizes: {sizes}; {found['images_without_objects']} images without any"
        )
    if found["classes"]:
        _print_classes(found["classes"], noun)
    for bad in found["skipped"]:
        click.echo(f"Skipped: {bad['reason']}")


def _print_classes(counts: dict[str, int], noun: str) -> None:
    table = Table()
    table.add_column("class")
    table.add_column(noun, justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    Console().print(table)


@command.command("write")
@click.argument("reference")
@click.argument("folder", type=click.Path(path_type=Path))
def write(reference: str, folder: Path) -> None:
    """Write a built-in data set to FOLDER, for any other tool.

    Detection: images and COCO JSON. Classification: a folder of images per class.
    """
    if reference.partition(":")[0] not in {builtin.name for builtin in builtin_datasets()}:
        raise SpecError(f"{reference} isn't a built-in data set; dyno datasets lists them.")
    if folder.exists() and any(folder.iterdir()):
        raise SpecError(f"{folder} isn't empty; name a new folder.")
    dataset = open_dataset(reference)
    # Both kinds keep their images one folder below the data set's.
    source = dataset.sample(0).path.parent.parent
    shutil.copytree(source, folder, dirs_exist_ok=True)
    click.echo(f"Written: {len(dataset):,} images in {folder.resolve()}")


@command.command("pull")
@click.argument("name")
@click.option(
    "--dest",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put it at DIR/NAME instead of into the cache.",
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    help="Download from here: once for each file, or once with a / at the end.",
)
def pull(name: str, dest: Path | None, urls: tuple[str, ...]) -> None:
    """Download the published data set NAME, verified, so that --data NAME finds it.

    The folder that VISIONDYNO_DATA names is searched first. An interrupted download goes on where
    it stopped.
    """
    dataset = downloadable(name)
    if dataset is None:
        raise SpecError(_not_published(name))
    # Whoever lists data sets doesn't pay for what downloads them.
    from visiondyno.datasets.pull.install import pull as install

    click.echo(f"Terms of {name}: {dataset.terms}")
    with DownloadDisplay() as display:
        pulled = install(dataset, dest=dest, urls=urls, on_progress=display.show)
    for note in pulled.notes:
        click.echo(note)
    click.echo(f"{'Pulled' if pulled.new else 'Already there'}: {pulled.folder.resolve()}")


def _not_published(name: str) -> str:
    if name.partition(":")[0] in {builtin.name for builtin in builtin_datasets()}:
        return f"{name} is built in and needs no download: use it with --data {name}."
    names = [dataset.name for dataset in DOWNLOADABLE]
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"No data set '{name}' is known to pull.{hint} There are: {', '.join(names)}."
