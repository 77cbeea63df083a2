"""`dyno report`."""

from pathlib import Path

import click
from rich.console import Console

from visiondyno.cli import options
from visiondyno.errors import SpecError
from visiondyno.report.merge import merge_reports
from visiondyno.report.terminal import print_comparison
from visiondyno.report.write import read_report, write_report

_EPILOG = "Example: dyno report monday tuesday --out both. One folder alone is written again."


@click.command(epilog=_EPILOG)
@click.argument(
    "reports",
    nargs=-1,
    required=True,
    metavar="DIR…",
    type=click.Path(path_type=Path),
)
@options.out_dir
def command(reports: tuple[Path, ...], out: Path | None) -> None:
    """Merge reports: their models side by side, and how each model's runs agree.

    Each DIR is a folder that `dyno compare` wrote, or its report.json. All must be of the same
    images, labels and classes. Times of different machines stand side by side and aren't compared.
    Without --out the merged report goes to dyno-merged.
    """
    folder = out or Path("dyno-merged")
    _require_own(folder, reports)
    comparison = merge_reports([read_report(report) for report in reports])
    print_comparison(comparison, Console())
    files = write_report(comparison, folder)
    click.echo(f"\nReport: {files['html'].resolve()}")


def _require_own(folder: Path, reports: tuple[Path, ...]) -> None:
    """Several reports must not be replaced by what is made of them."""
    inputs = {(path if path.is_dir() else path.parent).resolve() for path in reports}
    if len(reports) > 1 and folder.resolve() in inputs:
        raise SpecError(
            f"{folder} holds one of the reports to merge, which would be lost; choose another "
            "folder with --out."
        )
