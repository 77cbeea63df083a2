"""`dyno evaluate`."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.errors import SpecError
from visiondyno.measurements.measure import Measure
from visiondyno.places import Place
from visiondyno.python_face import evaluate
from visiondyno.report.format import measure_text, title
from visiondyno.report.job_run import JobRun


@click.command()
@click.argument("model")
@options.data
@options.classes
@options.level
@options.device
@options.threads
@options.max_images
@options.skip_bad
@options.seed
@options.offline
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print the operation's output as JSON.")
def command(model: str, as_json: bool, data: str | None, place: Place, **given: Any) -> None:
    """Score one model's accuracy on a data set, without timing.

    Each metric comes with its 95 % interval over the images. With --on it runs elsewhere, and local
    files are sent along.
    """
    if data is None:
        raise SpecError("Which data? Give --data FOLDER, or --data street:demo for the built-in.")
    with ProgressDisplay() as display:
        output = evaluate(model, data=data, on=place, on_event=display.show, **options.given(given))
    if as_json:
        click.echo(json.dumps(output, indent=1))
        return
    table = Table(title=f"{model} on {data}: {output['images']} images")
    table.add_column("measure")
    table.add_column("value and 95 % interval", justify="right")
    for name, found in output["metrics"].items():
        table.add_row(title(name), measure_text(name, Measure.model_validate(found)))
    Console().print(table)
    if "job" in output:
        for name, text in JobRun.model_validate(output["job"]).lines():
            click.echo(f"{name}: {text}")
    for note in output["notes"]:
        click.echo(f"Note: {note}")
    if output["skipped"]:
        click.echo(f"Skipped {len(output['skipped'])} bad images (--skip-bad).")
