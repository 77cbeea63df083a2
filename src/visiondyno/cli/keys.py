"""`dyno keys`."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visiondyno.cli import options
from visiondyno.service.keys import KeyService
from visiondyno.settings import load_settings
from visiondyno.store.records import KeyScope
from visiondyno.wiring import make_store


@contextmanager
def _key_service(place: dict[str, Any]) -> Iterator[KeyService]:
    store = make_store(load_settings(**place))
    try:
        yield KeyService(store.keys)
    finally:
        store.close()


@click.group()
def command() -> None:
    """Make, list and revoke the API keys of this machine's server."""


@command.command("create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice([str(scope) for scope in KeyScope]),
    default=str(KeyScope.ALL),
    show_default=True,
    help="'submit' hands in models and reads leaderboards, nothing else.",
)
@options.database
def create(name: str, scope: str, **place: Any) -> None:
    """Make a key for NAME and print it, this once.

    NAME says who or what will use it. The key alone goes to standard output, so that a script can
    take it.
    """
    with _key_service(place) as keys:
        record, key = asyncio.run(keys.create(name, KeyScope(scope)))
    click.echo(f"Key {record.id} for {name}, scope {scope}. It can't be shown again:", err=True)
    click.echo(key)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@options.database
def list_keys(as_json: bool, **place: Any) -> None:
    """The keys, newest first, revoked ones too.

    Never the keys themselves: they aren't kept.
    """
    with _key_service(place) as keys:
        found = asyncio.run(keys.list())
    if as_json:
        shown = [{k: v for k, v in asdict(key).items() if k != "digest"} for key in found]
        click.echo(json.dumps(shown, indent=1))
        return
    if not found:
        click.echo("No keys yet; make one: dyno keys create NAME")
        return
    table = Table()
    for column in ("id", "name", "scope", "made", "last used", "revoked"):
        table.add_column(column, no_wrap=column == "id", overflow="fold")
    for key in found:
        times = (key.created_at, key.last_used_at, key.revoked_at)
        table.add_row(key.id, escape(key.name), key.scope, *(_time_text(at) for at in times))
    Console().print(table)


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@options.database
def revoke(key_id: str, **place: Any) -> None:
    """Make the key ID invalid for good. A running server refuses it within 5 seconds."""
    with _key_service(place) as keys:
        asyncio.run(keys.revoke(key_id))
    click.echo(f"Revoked: {key_id}.")


def _time_text(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
