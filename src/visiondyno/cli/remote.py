"""Options of the commands that talk to a server."""

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


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--server` and `--api-key`, as the arguments `url` and `api_key`."""
    return _server(_api_key(function))


def connect(url: str, api_key: str | None) -> ServerClient:
    """A client of that server; use it as a context manager."""
    return ServerClient(url, api_key)
