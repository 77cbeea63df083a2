"""`dyno db`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from visiondyno.cli import options
from visiondyno.settings import load_settings
from visiondyno.store import backup as backups
from visiondyno.store import schema
from visiondyno.store.database import Database, database_url


@contextmanager
def _opened(place: dict[str, Any], *, create: bool) -> Iterator[Database]:
    database = Database(database_url(load_settings(**place)), create=create)
    try:
        yield database
    finally:
        database.close()


@click.group()
def command() -> None:
    """Upgrade, back up or restore the server's database."""


@command.command("upgrade")
@options.database
def upgrade(**place: Any) -> None:
    """Bring the database to this version's schema.

    In an empty one it makes the tables. Of an older one, stop the server and make a backup first.
    """
    with _opened(place, create=True) as database:
        before = schema.bring_up(database)
        if before == schema.HEAD:
            click.echo(f"{database.name} has the schema {schema.HEAD} already.")
        else:
            click.echo(f"{database.name}: schema {before or 'none'} → {schema.HEAD}.")


@command.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@options.database
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def backup(file: Path, force: bool, **place: Any) -> None:
    """Write everything to FILE, while the server runs.

    The file holds one moment of the database, from SQLite and PostgreSQL alike; restore takes it
    to either. Blobs (model files) aren't in it: copy their folder or bucket too.
    """
    with _opened(place, create=False) as database:
        counts = backups.write_backup(database, file, force=force)
    click.echo(f"Written: {_counted(counts)} in {file.resolve()}")


@command.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@options.database
@click.option("--force", is_flag=True, help="Replace what the database holds.")
def restore(file: Path, force: bool, **place: Any) -> None:
    """Put what FILE holds into an empty database; all of it or nothing.

    Stop the server first.
    """
    with _opened(place, create=True) as database:
        counts = backups.restore_backup(database, file, force=force)
        click.echo(f"Restored: {_counted(counts)} in {database.name}")


def _counted(counts: dict[str, int]) -> str:
    shown = ("jobs", "submissions", "comparisons", "api_keys")
    return ", ".join(f"{counts.get(name, 0):,} {name.replace('_', ' ')}" for name in shown)
