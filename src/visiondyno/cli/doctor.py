"""`dyno doctor`."""

import dataclasses
import json

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from visiondyno.cli.doctor_server import examine_server, report
from visiondyno.cli.doctor_workers import EXAMPLES, suggest
from visiondyno.datasets.registry import default_cache_dir
from visiondyno.http_client import ServerClient
from visiondyno.probes.doctor import examine

_MARKS = {"ok": ("✓", "green"), "limited": ("~", "yellow"), "missing": ("–", "dim")}


@click.command()
@click.option(
    "--workers",
    "model",
    is_flag=False,
    flag_value=EXAMPLES,
    metavar="[MODEL]",
    help="Suggest how many workers fit, and each one's share of the GPU.",
)
@click.option("--server", metavar="URL", help="Try a running server instead: submit a tiny job.")
@click.option(
    "--api-key",
    envvar="VISIONDYNO_API_KEY",
    metavar="KEY",
    help="Of that server. [env: VISIONDYNO_API_KEY]",
)
@click.option(
    "--endpoint", default="default", show_default=True, metavar="NAME", help="Of that server."
)
@click.option(
    "--time-limit",
    "limit_s",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long that server may take for the job.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(
    model: str | None,
    server: str | None,
    api_key: str | None,
    endpoint: str,
    limit_s: float,
    as_json: bool,
) -> int:
    """Say what this machine can measure, and what is missing.

    For everything that is missing, the command that adds it. With --server: whether that server
    is well; exit code 1 if not.
    """
    if server is not None:
        with ServerClient(server, api_key) as client:
            return report(examine_server(client, endpoint, limit_s), as_json)
    if model is not None:
        suggest(model, as_json)
    else:
        _print_findings(as_json)
    return 0


def _print_findings(as_json: bool) -> None:
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
