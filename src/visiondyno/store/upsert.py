"""A record as a row: made, and added or put in the place of the one with its key."""

from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from visiondyno.store.database import Database


def columns_of(table: Table, record: object) -> dict[str, Any]:
    """The record's attributes that the table has columns of, as they are."""
    return {column.name: getattr(record, column.name) for column in table.columns}


def save(database: Database, table: Table, row: dict[str, Any]) -> None:
    """Add `row` to the table, or replace the row with its `id`."""
    if database.is_sqlite:
        add: Any = sqlite.insert(table)
    else:
        add = postgresql.insert(table)
    rest = {name: add.excluded[name] for name in row if name != "id"}
    with database.write() as connection:
        connection.execute(add.on_conflict_do_update(index_elements=["id"], set_=rest), row)
