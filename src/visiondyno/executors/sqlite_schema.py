"""The file of the local queue: its tables, and how it is opened."""

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

_VERSION = 2
_CHECKPOINT_PAGES = 10_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    place INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    execution_timeout_ms INTEGER,
    ttl_at REAL,
    max_attempts INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    token TEXT,
    worker TEXT,
    not_before REAL NOT NULL,
    lease_until REAL,
    created_at REAL NOT NULL,
    started_at REAL,
    claimed_at REAL,
    ended_at REAL,
    last_number INTEGER NOT NULL
);
CREATE TABLE inputs (job_id TEXT PRIMARY KEY, input TEXT NOT NULL);
CREATE INDEX waiting ON jobs (priority, place) WHERE state = 'IN_QUEUE';
CREATE INDEX mortal ON jobs (ttl_at) WHERE state = 'IN_QUEUE' AND attempt = 0;
CREATE INDEX running ON jobs (lease_until) WHERE state = 'IN_PROGRESS';
CREATE INDEX ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    progress TEXT,
    answer TEXT
);
CREATE INDEX events_of_job ON events (job_id, number);
CREATE TABLE workers (name TEXT PRIMARY KEY, seen_at REAL NOT NULL, info TEXT NOT NULL);
CREATE TABLE commands (worker TEXT PRIMARY KEY, command TEXT NOT NULL);
CREATE TABLE places (last INTEGER NOT NULL);
INSERT INTO places VALUES (0);
CREATE TABLE boot (id TEXT NOT NULL);
COMMIT;
"""


def open_queue_file(path: Path, boot_id: str | None = None) -> sqlite3.Connection:
    """A connection to the queue in `path`, made if there is none.

    The queue is transport, the store is the truth: a file that is damaged, of another version, or
    of an earlier boot of the machine is put aside, and the store puts its jobs back. Why of an
    earlier boot: with synchronous=NORMAL a loss of power may undo the last commits, and then events
    would get numbers that were given already; the workers of that boot are gone anyway.

    Args:
        path: the file; its folder is made.
        boot_id: which boot this is; the kernel's own if None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path):
        wanted = boot_id if boot_id is not None else _this_boot()
        try:
            connection = _connect(path)
            if _is_usable(connection, wanted):
                return connection
            connection.close()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, full, not allowed: the file itself may be sound
        _put_aside(path)
        connection = _connect(path)
        _make(connection, wanted)
        return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    return connection


def _is_usable(connection: sqlite3.Connection, boot_id: str) -> bool:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        _make(connection, boot_id)
        return True
    if version != _VERSION:
        return False
    return bool(connection.execute("SELECT id FROM boot").fetchone() == (boot_id,))


def _make(connection: sqlite3.Connection, boot_id: str) -> None:
    connection.executescript(_TABLES)
    connection.execute("INSERT INTO boot VALUES (?)", (boot_id,))
    connection.execute(f"PRAGMA user_version = {_VERSION}")  # last: now it is whole


def _put_aside(path: Path) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.rename(path.with_name(f"{path.name}.{stamp}.aside"))


def _this_boot() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""  # not Linux: a loss of power can't be told from a restart


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with Path(f"{path}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
