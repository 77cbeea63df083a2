"""`dyno doctor`."""

import dataclasses
import json
import os

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from visiondyno.cli.doctor_workers import EXAMPLES, suggest
from visiondyno.datasets.registry import default_cache_dir
from visiondyno.probes.doctor import examine

_CONFIGURED = ""
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
    "--endpoint",
    is_flag=False,
    flag_value=_CONFIGURED,
    metavar="[ID|URL]",
    help="Try a RunPod endpoint instead: train a tiny network there, for some seconds. "
    "[env: RUNPOD_ENDPOINT_ID] With --server: the name of its endpoint. [default: default]",
)
@click.option(
    "--api-key",
    metavar="KEY",
    help="Of that server or endpoint. [env: VISIONDYNO_API_KEY or RUNPOD_API_KEY]",
)
@click.option(
    "--gpu", metavar="NAME|USD", help="Of the endpoint's workers, to tell what the jobs cost."
)
@click.option(
    "--time-limit",
    "limit_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long it may take for one job. [default: 120; of a RunPod endpoint 300]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(
    *,
    model: str | None,
    server: str | None,
    endpoint: str | None,
    api_key: str | None,
    gpu: str | None,
    limit_s: float | None,
    as_json: bool,
) -> int:
    """Say what this machine can measure, and what is missing.

    For everything that is missing, the command that adds it. With --server or --endpoint: whether
    that is well, and if not, what to do; exit code 1 then. No job is left behind.
    """
    if server is not None:
        return _try_server(server, api_key, endpoint, limit_s, as_json=as_json)
    if endpoint is not None:
        return _try_endpoint(endpoint, api_key, gpu, limit_s, as_json=as_json)
    if model is not None:
        suggest(model, as_json)
    else:
        _print_findings(as_json)
    return 0


def _try_server(
    server: str, api_key: str | None, endpoint: str | None, limit_s: float | None, *, as_json: bool
) -> int:
    from visiondyno.cli.doctor_server import DEFAULT_LIMIT_S, examine_server, report
    from visiondyno.http_client import ServerClient

    name = "default" if endpoint in (None, _CONFIGURED) else endpoint
    with ServerClient(server, api_key or os.environ.get("VISIONDYNO_API_KEY")) as client:
        steps = examine_server(client, name, DEFAULT_LIMIT_S if limit_s is None else limit_s)
        return report(steps, as_json)


def _try_endpoint(
    endpoint: str, api_key: str | None, gpu: str | None, limit_s: float | None, *, as_json: bool
) -> int:
    from visiondyno.cli.doctor_endpoint import DEFAULT_LIMIT_S, examine_endpoint
    from visiondyno.places import Place

    named = None if endpoint == _CONFIGURED else endpoint
    place = Place("runpod", api_key=api_key, endpoint=named, gpu=gpu)
    return examine_endpoint(place, DEFAULT_LIMIT_S if limit_s is None else limit_s, as_json=as_json)


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
