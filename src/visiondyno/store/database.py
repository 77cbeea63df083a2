"""The connection to SQLite or PostgreSQL: transactions, and errors in our own words."""

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql.expression import Insert, Update

from visiondyno.errors import (
    Conflict,
    MissingExtra,
    SpecError,
    StorageFull,
    TransportDown,
    VisionDynoError,
)
from visiondyno.settings import Settings

BUSY_TIMEOUT_MS = 10_000
CHECKPOINT_PAGES = 10_000
"""How long a SQLite connection waits for another process's write."""

_WRITES = "visiondyno_writes"
# PostgreSQL's SQLSTATEs.
_DISK_FULL = "53100"
_NOT_OURS_TO_USE = {"42P01", "42501", "3F000"}  # no such table, not allowed, no such schema


def database_url(settings: Settings) -> str:
    """The URL of the settings, or of the SQLite file in their home folder."""
    if settings.database_url is not None:
        return settings.database_url
    file = str(settings.folder / "store.sqlite")
    return URL.create("sqlite", database=file).render_as_string()


class Database:
    """One database and its pool of connections. Safe for use from several threads.

    SQLite runs in WAL mode with `synchronous=NORMAL`: a killed process loses nothing, a power cut
    may lose the commits of the last moments (never older ones, and the file stays whole).
    `synchronous=FULL` also survives the power cut and costs an fsync for each commit.

    With `create=False` a SQLite file must be there.

    Raises:
        SpecError: the URL is of another database, or the file can't be made or isn't SQLite's.
        TransportDown: the database can't be reached.
    """

    def __init__(self, url: str, synchronous: str = "NORMAL", *, create: bool = True) -> None:
        self.url = _normalised(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and not create and not Path(self.name).is_file():
            raise SpecError(f"There is no database at {self.name}; check --database-url.")
        # In one process, waiting for a lock is fairer and quicker than SQLite's polling.
        self._writing: AbstractContextManager[Any] = nullcontext()
        if self.is_sqlite:
            self._writing = threading.Lock()
            self.engine = _sqlite_engine(self.url, synchronous)
        else:
            self.engine = _postgres_engine(self.url)
        self._writes = self.engine.execution_options(**{_WRITES: True})
        if self.is_sqlite:
            self._use_wal()

    @property
    def name(self) -> str:
        """The database for messages, without its password."""
        if self.is_sqlite:
            return str(self.url.database)
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads."""
        with self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; SQLite takes the write lock at its start."""
        with self._translated(), self._writing, self._writes.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database, while others write on."""
        engine = self.engine
        if not self.is_sqlite:  # a read transaction of SQLite is a snapshot by itself
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._translated(), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Free the connections."""
        self.engine.dispose()

    def _use_wal(self) -> None:
        with self._translated(), self.engine.connect() as connection:
            # Outside of a transaction: within one the mode can't change.
            raw = connection.connection.dbapi_connection
            assert raw is not None, "a connection that was just made"
            mode = raw.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise SpecError(
                f"SQLite can't keep a write-ahead log beside {self.name} ({mode} instead). "
                "Put the file on a local disk."
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except VisionDynoError:
            raise
        except UnicodeEncodeError as error:
            raise SpecError("A text isn't valid Unicode, so it can't be stored.") from error
        except DBAPIError as error:
            if _is_defect(error):
                raise
            raise _translation(error, self.name) from error
        except PoolTimeout as error:
            raise TransportDown(
                f"All connections to the database {self.name} are in use. Try again shortly."
            ) from error


class BatchStatement:
    """An insert or update of many rows, compiled once.

    SQLAlchemy's own path costs several times what SQLite needs for a row; this one gives the
    driver its text and plain tuples. Values must be of the driver's own types.
    """

    def __init__(
        self, statement: Insert | Update, dialect: Dialect, columns: Sequence[str] | None = None
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self._text = str(compiled)
        self._values = itemgetter(*compiled.positiontup)

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each row (values by column name), if there is any."""
        if rows:
            connection.exec_driver_sql(self._text, list(map(self._values, rows)))


def _normalised(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise SpecError(
            "The database URL can't be read; write sqlite:////folder/store.sqlite or "
            "postgresql://user:password@host/database."
        ) from error
    backend = url.drivername.partition("+")[0]
    if backend in {"postgres", "postgresql"}:
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise SpecError(
            f"The store is kept in SQLite or PostgreSQL, not in '{backend}'. "
            "Write sqlite:///… or postgresql://…"
        )
    if url.database in {None, "", ":memory:"}:
        raise SpecError("The store needs a file: write sqlite:////folder/store.sqlite.")
    return url.set(drivername="sqlite+pysqlite")


def _sqlite_engine(url: URL, synchronous: str) -> Engine:
    folder = Path(str(url.database)).resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"The folder {folder} of the database can't be made: {error.strerror}."
        ) from error
    engine = create_engine(
        url,
        # None: the driver starts no transactions of its own; `_begin` does.
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_MS / 1000},
        pool_size=8,
        max_overflow=32,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        # A checkpoint waits for the disk twice: at 40 MB instead of 4, a tenth as often.
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres_engine(url: URL) -> Engine:
    try:
        return create_engine(
            url,
            paramstyle="format",
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=32,
            # A pooler between us and the server may give each transaction another server process,
            # where statements prepared before are unknown.
            connect_args={
                "connect_timeout": 5,
                "prepare_threshold": None,
                "application_name": "visiondyno",
            },
        )
    except (ImportError, NoSuchModuleError) as error:
        raise MissingExtra("postgres", "A store in PostgreSQL") from error


def _is_defect(error: DBAPIError) -> bool:
    """Whether asking again can't help, as the statement itself is wrong."""
    state = getattr(error.orig, "sqlstate", None)
    return isinstance(error, ProgrammingError) and state not in _NOT_OURS_TO_USE


def _translation(error: DBAPIError, name: str) -> VisionDynoError:
    original = error.orig
    code = getattr(original, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL or getattr(original, "sqlstate", None) == _DISK_FULL:
        return StorageFull(
            f"The disk of the database {name} is full; nothing stored is lost. "
            "Free some space and try again."
        )
    said = _first_line(original)
    if isinstance(error, IntegrityError):
        return Conflict(f"It stands in the way of what is stored already: {said}.")
    if isinstance(error, DataError):
        return SpecError(f"A value can't be stored: {said}.")
    if code == sqlite3.SQLITE_NOTADB:
        return SpecError(f"{name} isn't a SQLite database; name another file.")
    if code is not None and code & 0xFF == sqlite3.SQLITE_CORRUPT:
        return TransportDown(
            f"The database {name} is damaged: {said}. Stop the server and restore a backup."
        )
    return TransportDown(
        f"The database {name} can't be used just now: {said}. Try again when it is back."
    )


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return re.sub(r"\.$", "", lines[0]) if lines else type(error).__name__
