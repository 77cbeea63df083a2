"""The schema's version in a database, and the way to the code's own."""

import threading
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table, text

from visiondyno.errors import SpecError
from visiondyno.store.database import Database
from visiondyno.store.tables import metadata

HEAD = "0001"
"""The version that this code needs: the last module of `migrations/versions`."""

VERSION_TABLE = "visiondyno_schema"
SCHEMA = table(VERSION_TABLE, column("version_num"))
"""Alembic's, of one row."""
_LOCK_NUMBER = 0x64796E6F  # PostgreSQL's advisory lock while the schema changes
_ALEMBIC = threading.Lock()  # Alembic's `op` is one for the whole process


def version_of(connection: Connection) -> str | None:
    """The schema's version, or None where there is no schema of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(SCHEMA.c.version_num)).scalar()


def known_versions() -> list[str]:
    """The versions that this code can come from, oldest first."""
    folder = Path(__file__).parent / "migrations" / "versions"
    return sorted(path.name[1:5] for path in folder.glob("v[0-9]*.py"))


def upgrade(connection: Connection, target: str = HEAD) -> None:
    """Bring the schema to `target`, within the connection's transaction.

    Raises:
        SpecError: the database's schema is newer than this code, or its tables aren't ours.
    """
    # Imported here: it is slow to import, and a server whose schema fits never needs it.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"))
    present = version_of(connection)
    refuse_newer(present)
    if present is None:
        _refuse_foreign(connection)
    config = Config()
    config.set_main_option("script_location", "visiondyno.store:migrations")
    scripts = ScriptDirectory.from_config(config)
    with (
        _ALEMBIC,
        EnvironmentContext(
            config, scripts, fn=lambda now, _: scripts._upgrade_revs(target, now)
        ) as environment,
    ):
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()


def refuse_newer(version: str | None) -> None:
    """Raise `SpecError` for a version that this code doesn't know."""
    if version is not None and version not in known_versions():
        raise SpecError(
            f"The schema's version is {version}, newer than this VisionDyno's {HEAD}. "
            "Upgrade VisionDyno, or restore a backup made with this one."
        )


def prepare(database: Database, upgrading: bool | None) -> None:
    """Make sure that the database has the code's schema.

    Args:
        database: the database.
        upgrading: whether to make or upgrade it here; None: only to make it, in an empty SQLite
            file.

    Raises:
        SpecError: the schema is absent, older or newer, and stays so.
    """
    with database.read() as connection:
        version = version_of(connection)
        empty = version is None and not inspect(connection).get_table_names()
    if version == HEAD:
        return
    refuse_newer(version)
    if upgrading is None:
        upgrading = database.is_sqlite and empty
    if not upgrading:
        has = "has no schema of ours" if version is None else f"has the older schema {version}"
        raise SpecError(
            f"The database {database.name} {has}. Run: dyno db upgrade (after dyno db backup FILE)."
        )
    bring_up(database)


def bring_up(database: Database) -> str | None:
    """Bring the database to the code's schema; return the version it had (None: no schema)."""
    with database.write() as connection:
        before = version_of(connection)
        upgrade(connection)
    return before


def _refuse_foreign(connection: Connection) -> None:
    taken = sorted(set(metadata.tables) & set(inspect(connection).get_table_names()))
    if taken:
        raise SpecError(
            f"The database holds tables of these names that aren't ours: {', '.join(taken)}. "
            "Use a database (or a PostgreSQL schema) of its own."
        )
