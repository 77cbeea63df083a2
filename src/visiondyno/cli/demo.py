"""`dyno demo`."""

from pathlib import Path

import click

from visiondyno.cli import options
from visiondyno.cli.compare import run_and_report
from visiondyno.specs.operations import BenchmarkInput

MODELS = ("visiondyno:street-n", "visiondyno:street-s")
DATA = "street:demo"


@click.command()
@options.out_dir
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Least seconds of each scenario's measured part.",
)
def command(out: Path | None, duration_s: float) -> None:
    """Compare the two shipped detectors on synthetic street scenes.

    Renders the scenes, compares visiondyno:street-n with visiondyno:street-s on this machine, and
    writes a report. Needs no network, no GPU and no data; takes about a minute.
    """
    spec = BenchmarkInput(models=MODELS, data=DATA, duration_s=duration_s)
    run_and_report(spec, out or Path("demo-report"))
