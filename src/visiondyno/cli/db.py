"""`dyno db`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from visiondyno.settings import load_settings
from visiondyno.store import backup as backups
from visiondyno.store import schema
from visiondyno.store.database import Database, database_url


def _database_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--database-url",
        "url",
        metavar="URL",
        help="sqlite:///FILE or postgresql://…; the server's own without it "
        "(VISIONDYNO_DATABASE_URL, or the file in VISIONDYNO_HOME).",
    )(function)


@contextmanager
def _opened(url: str | None, *, create: bool) -> Iterator[Database]:
    database = Database(database_url(load_settings(database_url=url)), create=create)
    try:
        yield database
    finally:
        database.close()


@click.group()
def command() -> None:
    """Upgrade, back up or restore the server's database."""


@command.command("upgrade")
@_database_option
def upgrade(url: str | None) -> None:
    """Make the tables in an empty database, or bring an older one to this version.

    Stop the server and make a backup first.
    """
    with _opened(url, create=True) as database:
        before = schema.bring_up(database)
        if before == schema.HEAD:
            click.echo(f"{database.name} has the schema {schema.HEAD} already.")
        else:
            click.echo(f"{database.name}: schema {before or 'none'} → {schema.HEAD}.")


@command.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_database_option
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def backup(file: Path, url: str | None, force: bool) -> None:
    """Write everything to FILE, while the server runs.

    The file holds one moment of the database, from SQLite and PostgreSQL alike; restore takes it
    to either. Blobs (model files) aren't in it: copy their folder or bucket too.
    """
    with _opened(url, create=False) as database:
        counts = backups.write_backup(database, file, force=force)
    click.echo(f"Written: {_counted(counts)} in {file.resolve()}")


@command.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_database_option
@click.option("--force", is_flag=True, help="Replace what the database holds.")
def restore(file: Path, url: str | None, force: bool) -> None:
    """Put what FILE holds into an empty database; all of it or nothing.

    Stop the server first.
    """
    with _opened(url, create=True) as database:
        counts = backups.restore_backup(database, file, force=force)
        click.echo(f"Restored: {_counted(counts)} in {database.name}")


def _counted(counts: dict[str, int]) -> str:
    shown = ("jobs", "submissions", "comparisons", "api_keys")
    return ", ".join(f"{counts.get(name, 0):,} {name.replace('_', ' ')}" for name in shown)
