"""API keys in SQL."""

from typing import Any

from sqlalchemy import Row, insert, select, update

from visiondyno.store.base import KeyStore
from visiondyno.store.database import Database
from visiondyno.store.records import ApiKeyRecord, KeyScope
from visiondyno.store.tables import api_keys
from visiondyno.store.upsert import columns_of


class SqlKeyStore(KeyStore):
    """API keys in the table `api_keys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: ApiKeyRecord) -> None:
        row = columns_of(api_keys, key) | {"scope": key.scope.value}
        with self._database.write() as connection:
            connection.execute(insert(api_keys), row)

    def with_digest(self, digest: str) -> ApiKeyRecord | None:
        query = select(api_keys).where(api_keys.c.digest == digest, api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _record(row)

    def find(self) -> list[ApiKeyRecord]:
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def touch(self, key_id: str, at: float) -> None:
        used = update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at)
        with self._database.write() as connection:
            connection.execute(used)

    def revoke(self, key_id: str, at: float) -> bool:
        in_force = (api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        revoked = update(api_keys).where(*in_force).values(revoked_at=at)
        with self._database.write() as connection:
            return connection.execute(revoked).rowcount > 0


def _record(row: Row[Any]) -> ApiKeyRecord:
    return ApiKeyRecord(**{**row._mapping, "scope": KeyScope(row.scope)})
