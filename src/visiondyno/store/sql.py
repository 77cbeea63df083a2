"""The store on SQLite and PostgreSQL: one implementation for both."""

import time
from collections.abc import Callable

from sqlalchemy import update

from visiondyno.errors import TransportDown
from visiondyno.store.base import Store
from visiondyno.store.comparisons import SqlComparisonStore
from visiondyno.store.database import Database
from visiondyno.store.jobs import SqlJobStore
from visiondyno.store.keys import SqlKeyStore
from visiondyno.store.schema import HEAD, SCHEMA, prepare, version_of
from visiondyno.store.submissions import SqlSubmissionStore
from visiondyno.store.webhooks import SqlWebhookStore


class SqlStore(Store):
    """Everything that is kept, in one database with the code's schema. Safe for threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.jobs = SqlJobStore(database, clock)
        self.submissions = SqlSubmissionStore(database)
        self.comparisons = SqlComparisonStore(database)
        self.keys = SqlKeyStore(database)
        self.webhooks = SqlWebhookStore(database, clock)

    def check(self) -> None:
        same = update(SCHEMA).values(version_num=SCHEMA.c.version_num)
        with self.database.write() as connection:
            version = version_of(connection)
            if version == HEAD:
                connection.execute(same)
                return
        raise TransportDown(
            f"The database {self.database.name} has the schema {version}, and {HEAD} is needed. "
            "Run: dyno db upgrade."
        )

    def close(self) -> None:
        self.database.close()


def open_store(
    url: str,
    *,
    upgrade: bool | None = None,
    synchronous: str = "NORMAL",
    clock: Callable[[], float] = time.time,
) -> SqlStore:
    """The store at `url`.

    Args:
        url: `sqlite:////folder/store.sqlite`, or `postgresql://…` (`postgres://` is the same).
        upgrade: whether an absent or older schema is upgraded here; None: only an empty SQLite
            file gets one.
        synchronous: SQLite's NORMAL or FULL; see `Database` for the trade.
        clock: seconds since the epoch.

    Raises:
        SpecError: the URL is wrong, or the schema doesn't fit and isn't upgraded.
        TransportDown: the database can't be reached.
        MissingExtra: PostgreSQL's driver isn't installed.
    """
    database = Database(url, synchronous)
    try:
        prepare(database, upgrade)
    except BaseException:
        database.close()
        raise
    return SqlStore(database, clock)
