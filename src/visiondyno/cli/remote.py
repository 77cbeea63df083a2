"""Options of the commands that talk to a server."""

import re
from collections.abc import Callable
from typing import Any

import click

from visiondyno.http_client import DEFAULT_URL, ServerClient

_server = click.option(
    "--server",
    "url",
    envvar="VISIONDYNO_SERVER",
    default=DEFAULT_URL,
    show_default=True,
    metavar="URL",
    help="The server that 'dyno up' started. [env: VISIONDYNO_SERVER]",
)
_api_key = click.option(
    "--api-key",
    envvar="VISIONDYNO_API_KEY",
    metavar="KEY",
    help="Where the server asks for one. [env: VISIONDYNO_API_KEY]",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


def _listed(pattern: str, command: str) -> Callable[..., Any]:
    """A callback for names that go into an address: what can't be one never reaches the server."""

    def check(_: click.Context, __: click.Parameter, value: Any) -> Any:
        for one in (value,) if isinstance(value, str) else value:
            if one in {".", ".."} or not re.fullmatch(pattern, one):
                raise click.BadParameter(f"'{one:.50}' can't be one; '{command}' shows them.")
        return value

    return check


job_argument = click.argument(
    "job_id", metavar="ID", callback=_listed(r"[A-Za-z0-9_.-]{1,128}", "dyno jobs list")
)
workers_argument = click.argument(
    "names",
    metavar="NAME...",
    nargs=-1,
    required=True,
    callback=_listed(r"[^/?#%\\]{1,200}", "dyno workers list"),
)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--server` and `--api-key`, as the arguments `url` and `api_key`."""
    return _server(_api_key(function))


def connect(url: str, api_key: str | None) -> ServerClient:
    """A client of that server; use it as a context manager."""
    return ServerClient(url, api_key)
