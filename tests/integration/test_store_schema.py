"""The migrations make what `tables` describes, on both databases."""

import subprocess
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import visiondyno.store
from services import binary, new_database
from visiondyno.errors import SpecError
from visiondyno.store.database import Database
from visiondyno.store.schema import HEAD, VERSION_TABLE, bring_up, known_versions
from visiondyno.store.sql import open_store
from visiondyno.store.tables import metadata


def drift(database: Database) -> list[object]:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        return list(compare_metadata(context, metadata))


def test_versions_are_one_chain_that_ends_at_the_codes() -> None:
    folder = Path(visiondyno.store.__file__).parent / "migrations"
    scripts = ScriptDirectory(folder)
    assert scripts.get_heads() == [HEAD]
    chain = [script.revision for script in scripts.walk_revisions()]
    assert sorted(chain) == known_versions()
    assert chain[0] == HEAD


def sqlite_definitions(database: Database) -> dict[str, str]:
    query = text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    with database.read() as connection:
        return {
            name: " ".join(sql.split())
            for name, sql in connection.execute(query)
            if name != VERSION_TABLE
        }


def test_sqlite_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    migrated = Database(f"sqlite:///{tmp_path}/a.sqlite")
    direct = Database(f"sqlite:///{tmp_path}/b.sqlite")
    assert bring_up(migrated) is None
    assert bring_up(migrated) == HEAD
    with direct.write() as connection:
        metadata.create_all(connection)
    assert drift(migrated) == []
    assert sqlite_definitions(migrated) == sqlite_definitions(direct)
    with direct.write() as connection:
        connection.execute(text("ALTER TABLE jobs DROP COLUMN owner"))
    assert drift(direct), "a difference would be found"
    migrated.close()
    direct.close()


def postgres_definitions(url: str) -> list[str]:
    command = [binary("pg_dump"), "--schema-only", "--no-owner", "--no-comments"]
    dump = subprocess.run(
        [*command, "--exclude-table", VERSION_TABLE, url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    # Newer versions guard their dumps with a random word.
    return [line for line in dump.splitlines() if not line.startswith("\\")]


def test_postgres_migrations_make_the_tables_of_the_code(postgres_server_url: str) -> None:
    with new_database(postgres_server_url) as one, new_database(postgres_server_url) as other:
        migrated, direct = Database(one), Database(other)
        bring_up(migrated)
        with direct.write() as connection:
            metadata.create_all(connection)
        assert drift(migrated) == []
        assert postgres_definitions(one) == postgres_definitions(other)
        assert any("ix_jobs_created_at" in line for line in postgres_definitions(one))
        migrated.close()
        direct.close()


def test_postgres_is_upgraded_on_demand_only(postgres_url: str) -> None:
    with pytest.raises(SpecError, match=r"no schema of ours.*dyno db upgrade"):
        open_store(postgres_url)
    open_store(postgres_url, upgrade=True).close()
    store = open_store(postgres_url)
    store.check()
    store.close()
