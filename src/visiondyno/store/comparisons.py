"""Comparisons in SQL."""

from typing import Any

from sqlalchemy import Row, Select, delete, select

from visiondyno.store.base import ComparisonStore
from visiondyno.store.codec import json_text, optional_json, optional_value
from visiondyno.store.database import Database
from visiondyno.store.records import ComparisonRecord
from visiondyno.store.tables import comparisons
from visiondyno.store.upsert import columns_of, save

_NEWEST = (comparisons.c.created_at.desc(), comparisons.c.id.desc())


class SqlComparisonStore(ComparisonStore):
    """Comparisons in the table `comparisons`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, comparison: ComparisonRecord) -> None:
        row = columns_of(comparisons, comparison) | {
            "spec": json_text(comparison.spec),
            "comparison": optional_json(comparison.comparison),
        }
        save(self._database, comparisons, row)

    def get(self, comparison_id: str) -> ComparisonRecord | None:
        found = self._found(select(comparisons).where(comparisons.c.id == comparison_id))
        return found[0] if found else None

    def with_content(self, content_key: str) -> ComparisonRecord | None:
        really_run = (
            comparisons.c.content_key == content_key,
            comparisons.c.comparison.is_not(None),
            comparisons.c.cached_from.is_(None),
        )
        found = self._found(select(comparisons).where(*really_run).order_by(*_NEWEST).limit(1))
        return found[0] if found else None

    def find(self, limit: int = 50) -> list[ComparisonRecord]:
        return self._found(select(comparisons).order_by(*_NEWEST).limit(limit))

    def delete(self, comparison_id: str) -> bool:
        wanted = delete(comparisons).where(comparisons.c.id == comparison_id)
        with self._database.write() as connection:
            return connection.execute(wanted).rowcount > 0

    def _found(self, query: Select[Any]) -> list[ComparisonRecord]:
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]


def _record(row: Row[Any]) -> ComparisonRecord:
    values = dict(row._mapping)
    values["spec"] = optional_value(row.spec)
    values["comparison"] = optional_value(row.comparison)
    return ComparisonRecord(**values)
