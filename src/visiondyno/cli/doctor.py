"""`dyno doctor`."""

import dataclasses
import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from visiondyno.datasets.registry import default_cache_dir
from visiondyno.probes.doctor import examine

_MARKS = {"ok": ("✓", "green"), "limited": ("~", "yellow"), "missing": ("–", "dim")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Say what this machine can measure, and what is missing.

    For everything that is missing, the command that adds it.
    """
    findings = examine(cache=default_cache_dir())
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
        return
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        mark, style = _MARKS[finding.status]
        detail = Text(finding.detail)
        if finding.fix:
            detail.append(f"\n→ {finding.fix}", style="cyan")
        table.add_row(Text(mark, style=style), Text(finding.topic, style="bold"), detail)
    Console().print(table)
