"""Backups of both databases, restored to both."""

import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text

from contracts.store_contract import HOOK, new_job, run_to
from services import new_database
from visiondyno.errors import Conflict, NotFound, SpecError, StorageFull, TransportDown
from visiondyno.job import JobState
from visiondyno.store.backup import restore_backup, write_backup
from visiondyno.store.database import Database
from visiondyno.store.records import (
    ApiKeyRecord,
    ComparisonRecord,
    KeyScope,
    SubmissionRecord,
    SubmissionState,
)
from visiondyno.store.schema import VERSION_TABLE
from visiondyno.store.sql import SqlStore, open_store
from visiondyno.store.tables import metadata


@pytest.fixture(params=["sqlite", "postgres"])
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Gives URLs of new, empty databases."""
    if request.param == "sqlite":
        names = iter(range(100))
        yield lambda: f"sqlite:///{tmp_path}/{next(names)}.sqlite"
        return
    server = request.getfixturevalue("postgres_server_url")
    blocks = []

    def make() -> str:
        blocks.append(new_database(server))
        return blocks[-1].__enter__()

    yield make
    for block in blocks:
        block.__exit__(None, None, None)


def filled(url: str, jobs: int = 3) -> SqlStore:
    store = open_store(url, upgrade=True)
    names = [f"ö{number:04}" for number in range(jobs)]
    store.jobs.add([new_job(name, webhook=HOOK) for name in names])
    run_to(store, JobState.COMPLETED, names[0])
    store.jobs.request_cancel(names[1])
    store.jobs.remember_request("s", "k", "d", names[0], 0.1 + 0.2)
    store.submissions.save(
        SubmissionRecord("sub", "t", "n", "ab", "f", SubmissionState.COMPLETED, 1e9, score=1 / 3)
    )
    store.comparisons.save(ComparisonRecord("c", 1.5, {"a": None}, comparison={"b": "\0\ud800"}))
    store.keys.add(ApiKeyRecord("key", "n", "digest", KeyScope.ALL, 1.0))
    return store


def content(store: SqlStore) -> dict[str, list[Any]]:
    with store.database.read() as connection:
        return {
            name: sorted(map(tuple, connection.execute(select(table))))
            for name, table in metadata.tables.items()
        }


def test_a_backup_comes_back_on_either_database(
    make_url: Callable[[], str], postgres_url: str, tmp_path: Path
) -> None:
    store = filled(make_url(), jobs=1_203)
    file = tmp_path / "b.gz"
    counts = write_backup(store.database, file)
    assert (counts["jobs"], counts["job_events"]) == (1_203, 1_205)
    assert file.stat().st_mode & 0o777 == 0o600
    for url in (make_url(), postgres_url, f"sqlite:///{tmp_path}/other.sqlite"):
        database = Database(url)
        assert restore_backup(database, file) == counts
        database.close()
        copy = open_store(url)
        copy.check()
        assert content(copy) == content(store)
        assert copy.jobs.get("ö0001").cancel_requested is True  # type: ignore[union-attr]
        run_to(copy, JobState.COMPLETED, "ö0002")
        copy.close()
    store.close()


def test_a_backup_holds_one_moment_while_others_write(
    make_url: Callable[[], str], tmp_path: Path
) -> None:
    store = filled(make_url())
    wrote = threading.Event()

    # As soon as the backup has read its first table, another thread adds to all of them.
    @event.listens_for(store.database.engine, "after_cursor_execute")
    def between(connection: Connection, _cursor: object, statement: str, *rest: object) -> None:
        if "FROM api_keys" in statement and not wrote.is_set():
            wrote.set()
            writer = threading.Thread(target=store.jobs.add, args=([new_job("later")],))
            writer.start()
            writer.join()

    counts = write_backup(store.database, tmp_path / "b.gz")
    assert wrote.is_set()
    assert store.jobs.get("later") is not None
    assert (counts["jobs"], counts["job_requests"], counts["job_events"]) == (3, 3, 5)
    store.close()


def test_restore_asks_before_it_replaces(make_url: Callable[[], str], tmp_path: Path) -> None:
    store = filled(make_url())
    file = tmp_path / "b.gz"
    write_backup(store.database, file)
    with pytest.raises(Conflict, match="--force"):
        write_backup(store.database, file)
    store.jobs.add([new_job("later")])
    with pytest.raises(Conflict, match="isn't empty"):
        restore_backup(store.database, file)
    assert store.jobs.get("later") is not None
    restore_backup(store.database, file, force=True)
    assert store.jobs.get("later") is None
    store.jobs.add([new_job("later")])
    assert write_backup(store.database, file, force=True)["jobs"] == 4
    store.close()


def rewritten(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    lines = change(gzip.decompress(file.read_bytes()).splitlines(keepends=True))
    other = file.with_name("other.gz")
    other.write_bytes(gzip.compress(b"".join(lines)))
    return other


def test_a_damaged_backup_changes_nothing(tmp_path: Path) -> None:
    store = filled(f"sqlite:///{tmp_path}/s.sqlite")
    file = tmp_path / "b.gz"
    write_backup(store.database, file)
    before = content(store)
    whole = file.read_bytes()
    short, torn, bits, plain = (tmp_path / name for name in ("short", "torn", "bits", "plain"))
    short.write_bytes(whole[:-20])
    bits.write_bytes(whole[:200] + bytes([whole[200] ^ 8]) + whole[201:])
    torn.write_bytes(gzip.compress(b'{"format":'))
    plain.write_text("a letter")
    empty = tmp_path / "empty"
    empty.write_bytes(gzip.compress(b""))
    cases = {
        short: "cut short",
        bits: "damaged",
        torn: "damaged",
        plain: "isn't a backup",
        empty: "cut short",
        tmp_path: "isn't a backup",
    }
    for damaged, said in cases.items():
        with pytest.raises(SpecError, match=said):
            restore_backup(store.database, damaged, force=True)
    for change, said in (
        (lambda lines: lines[:-1], "cut short"),
        (lambda lines: lines[:3] + lines[4:], "checksum"),
        (lambda lines: [b"[]\n", *lines], "isn't a backup of a store"),
        (lambda lines: [lines[0].replace(b"backup/1", b"backup/9"), *lines[1:]], "isn't a backup"),
    ):
        with pytest.raises(SpecError, match=said):
            restore_backup(store.database, rewritten(file, change), force=True)
    with pytest.raises(NotFound):
        restore_backup(store.database, tmp_path / "absent", force=True)
    assert content(store) == before
    store.close()


def resealed(lines: list[bytes]) -> list[bytes]:
    end = json.loads(lines[-1])
    end["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return [*lines[:-1], json.dumps(end).encode()]


def test_a_restore_that_fails_midway_changes_nothing(
    make_url: Callable[[], str], tmp_path: Path
) -> None:
    store = filled(make_url())
    file = tmp_path / "b.gz"
    write_backup(store.database, file)
    before = content(store)
    # Its checksum is right, but two jobs have one id.
    doubled = rewritten(file, lambda lines: resealed([*map(_one_id, lines)]))
    with pytest.raises(Conflict):
        restore_backup(store.database, doubled, force=True)
    assert content(store) == before
    store.check()
    newer = rewritten(
        file,
        lambda lines: resealed(
            [lines[0].replace(b'"schema":"0001"', b'"schema":"0999"'), *lines[1:]]
        ),
    )
    with pytest.raises(SpecError, match="0999, newer"):
        restore_backup(store.database, newer, force=True)
    store.close()


def _one_id(line: bytes) -> bytes:
    return line.replace(b'["\\u00f60001","default"', b'["\\u00f60000","default"')


def test_a_backup_needs_a_store_and_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Database(f"sqlite:///{tmp_path}/empty.sqlite")
    with pytest.raises(SpecError, match="nothing to save"):
        write_backup(empty, tmp_path / "b.gz")
    empty.close()
    store = filled(f"sqlite:///{tmp_path}/s.sqlite")
    with pytest.raises(SpecError, match="can't be written"):
        write_backup(store.database, tmp_path / "absent" / "b.gz")
    full = Path("/dev/full")
    if full.exists():
        monkeypatch.setattr("os.fsync", lambda number: full.write_bytes(b"x" * 10**6))
        with pytest.raises(StorageFull):
            write_backup(store.database, tmp_path / "b.gz")
    assert not list(tmp_path.glob("b.gz*"))
    store.close()


def test_a_newer_database_is_not_replaced(tmp_path: Path) -> None:
    store = filled(f"sqlite:///{tmp_path}/s.sqlite")
    file = tmp_path / "b.gz"
    write_backup(store.database, file)
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    with pytest.raises(SpecError, match="0999"):
        restore_backup(store.database, file, force=True)
    store.close()


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    store = filled(f"sqlite:///{tmp_path}/s.sqlite", jobs=500)
    store.close()
    file = tmp_path / "s.sqlite"
    data = bytearray(file.read_bytes())
    data[8_192:40_960] = b"\xff" * (40_960 - 8_192)
    file.write_bytes(data)
    broken = open_store(f"sqlite:///{file}")
    with pytest.raises(TransportDown, match=r"damaged.*restore a backup"):
        broken.jobs.open_jobs()
    broken.close()
