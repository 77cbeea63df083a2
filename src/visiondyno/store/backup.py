"""Backups: one portable file for both databases, made while a server runs.

The file is gzip of JSON lines: a header (`format`, `schema`, `tables` with their columns), then for
each table a line `{"table": …}` and its rows as arrays, and at the end how many rows there are and
the SHA-256 of all bytes before. It moves a store from SQLite to PostgreSQL and back.
"""

import errno
import gzip
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, column, insert, literal, select, table, text

from visiondyno import __version__
from visiondyno.errors import Conflict, NotFound, SpecError, StorageFull
from visiondyno.store.codec import json_text
from visiondyno.store.database import Database
from visiondyno.store.schema import HEAD, VERSION_TABLE, known_versions, upgrade, version_of
from visiondyno.store.tables import metadata

FORMAT = "visiondyno.backup/1"
_ROWS_AT_ONCE = 500


def write_backup(database: Database, file: Path, *, force: bool = False) -> dict[str, int]:
    """Write everything in the database, as it is at one moment, to `file`.

    The file appears when it is whole. Returns how many rows of each table it holds.

    Raises:
        Conflict: the file is there already, and `force` isn't set.
        SpecError: the database has no schema of ours, or the file can't be written.
        StorageFull: there is no space for the file.
    """
    if file.exists() and not force:
        raise Conflict(f"{file} is there already; name another file, or add --force.")
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        # Readable for its owner alone: requests and addresses of webhooks are in it.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
                counts = _dump(database, packed)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull(f"There is no space for {file}; nothing was written.") from error
        raise SpecError(f"{file} can't be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
    return counts


def restore_backup(database: Database, file: Path, *, force: bool = False) -> dict[str, int]:
    """Put what `file` holds in place of what the database holds, wholly or not at all.

    An older backup is brought to the code's schema. Returns the rows of each table.

    Raises:
        NotFound: there is no such file.
        SpecError: the file isn't a whole backup, or its schema is newer than this code's.
        Conflict: the database isn't empty, and `force` isn't set.
    """
    header, counts = _verified(file)
    if header["schema"] not in known_versions():
        raise SpecError(
            f"{file} has the schema {header['schema']}, newer than this VisionDyno's {HEAD}. "
            "Upgrade VisionDyno first."
        )
    with database.write() as connection:
        if version_of(connection) is not None:
            upgrade(connection)  # so that the tables to be dropped are those we know
            if not force and _holds_rows(connection):
                raise Conflict(
                    f"The database {database.name} isn't empty. Name an empty one, or replace "
                    "what it holds with --force."
                )
            metadata.drop_all(connection)
            connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))
        upgrade(connection, header["schema"])
        _load(connection, file, header["tables"])
        upgrade(connection)
    return counts


def _dump(database: Database, out: gzip.GzipFile) -> dict[str, int]:
    counts: dict[str, int] = {}
    digest = hashlib.sha256()

    def line(value: object) -> None:
        data = json_text(value).encode() + b"\n"
        digest.update(data)
        out.write(data)

    with database.snapshot() as connection:
        version = version_of(connection)
        if version is None:
            raise SpecError(f"The database {database.name} has no schema of ours: nothing to save.")
        # As they are in the database: a backup comes before the upgrade.
        found = MetaData()
        found.reflect(connection, only=lambda name, _: name in metadata.tables)
        tables = {table.name: table.columns.keys() for table in found.sorted_tables}
        about = {"format": FORMAT, "schema": version, "made_with": __version__}
        line({**about, "made_at": time.time(), "tables": tables})
        for one in found.sorted_tables:
            line({"table": one.name})
            counts[one.name] = 0
            query = select(one).execution_options(yield_per=_ROWS_AT_ONCE)
            for row in connection.execute(query):
                line(list(row))
                counts[one.name] += 1
    out.write(json_text({"rows": counts, "sha256": digest.hexdigest()}).encode() + b"\n")
    return counts


def _verified(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Header and row counts of a backup that was found whole."""
    digest = hashlib.sha256()
    header: dict[str, Any] | None = None
    counts: dict[str, int] = {}
    for value, data in _lines(file):
        if header is None:
            header = value if isinstance(value, dict) else {}
            if header.get("format") != FORMAT:
                raise SpecError(f"{file} isn't a backup of a store ({FORMAT}).")
        elif isinstance(value, dict) and "sha256" in value:
            if value["sha256"] == digest.hexdigest() and value["rows"] == counts:
                return header, counts
            raise SpecError(f"{file} is damaged: its checksum is wrong. Use another backup.")
        elif isinstance(value, dict):
            current = value["table"]
            counts[current] = 0
        else:
            counts[current] += 1
        digest.update(data)
    raise SpecError(f"{file} is cut short: its end is missing. Use another backup.")


def _lines(file: Path) -> Iterator[tuple[Any, bytes]]:
    try:
        with gzip.open(file) as unpacked:
            for data in unpacked:
                yield json.loads(data), data
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {file}.") from error
    except EOFError as error:
        raise SpecError(f"{file} is cut short: its end is missing. Use another backup.") from error
    except (OSError, zlib.error, ValueError) as error:
        raise SpecError(f"{file} isn't a backup, or it is damaged ({error}).") from error


def _load(connection: Connection, file: Path, tables: dict[str, list[str]]) -> None:
    name = ""
    rows: list[dict[str, Any]] = []

    def flush() -> None:
        if rows:
            target = table(name, *map(column, tables[name]))
            connection.execute(insert(target), rows)
            rows.clear()

    for value, _ in _lines(file):
        if isinstance(value, list):
            rows.append(dict(zip(tables[name], value, strict=True)))
            if len(rows) >= _ROWS_AT_ONCE:
                flush()
        elif "table" in value:
            flush()
            name = value["table"]
    flush()


def _holds_rows(connection: Connection) -> bool:
    return any(
        connection.execute(select(literal(1)).select_from(one).limit(1)).first()
        for one in metadata.sorted_tables
    )
