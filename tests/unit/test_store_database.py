import contextlib
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import ProgrammingError

from contracts.store_contract import new_job, observed, run_to
from contracts.store_crash import check_crash
from visiondyno.errors import MissingExtra, SpecError, StorageFull, TransportDown
from visiondyno.job import JobState
from visiondyno.settings import Settings
from visiondyno.store import schema
from visiondyno.store.database import Database, database_url
from visiondyno.store.sql import open_store


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder}/s.sqlite"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user:secret@host/db", "not in 'mysql'"),
        ("nonsense", "can't be read"),
        ("postgresql://user:secret@host:port/db", "can't be read"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_url_of_another_database_is_refused(url: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        open_store(url)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_postgresql_url_goes_to_the_same_driver(scheme: str) -> None:
    database = Database(f"{scheme}://user:secret@host:5433/name?sslmode=require")
    assert database.engine.dialect.driver == "psycopg"
    assert database.name == "postgresql+psycopg://user:***@host:5433/name?sslmode=require"


def test_the_default_is_a_file_in_the_home_folder(tmp_path: Path) -> None:
    home = tmp_path / "a folder #1?%41"
    url = database_url(Settings(home=home, database_url=None))
    store = open_store(url)
    store.check()
    store.close()
    assert (home / "store.sqlite").is_file()
    assert database_url(Settings(database_url="postgres://host/x")) == "postgres://host/x"


def test_sqlite_is_set_up_to_survive_kills(tmp_path: Path) -> None:
    for synchronous, number in (("NORMAL", 1), ("FULL", 2)):
        store = open_store(url_in(tmp_path), synchronous=synchronous)
        with store.database.read() as connection:
            said = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert said == ["wal", number, 1, 10_000]
        store.close()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    def opened(number: int) -> None:
        store = open_store(url_in(tmp_path))
        store.jobs.add([new_job(f"job{number}")])
        store.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(opened, range(12)))
    store = open_store(url_in(tmp_path))
    assert len(store.jobs.open_jobs()) == 12
    store.close()


def test_a_killed_writer_leaves_nothing_half_written(tmp_path: Path) -> None:
    check_crash(url_in(tmp_path))
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    with store.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    store.database.engine.dispose()

    @event.listens_for(store.database.engine, "connect")
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 60}")

    accepted: list[int] = []

    def fill() -> None:
        for number in range(10_000):
            store.jobs.add([new_job(f"job{number:05}"), new_job(f"twin{number:05}")])
            accepted.append(number)

    with pytest.raises(StorageFull, match="nothing stored is lost"):
        fill()
    assert accepted
    assert store.jobs.counts()[JobState.IN_QUEUE] == 2 * len(accepted)
    with pytest.raises(StorageFull):
        store.jobs.record(
            [
                observed(2, JobState.IN_PROGRESS, {"x": "y" * 300_000}, job="job00000"),
            ]
        )
    first = store.jobs.get("job00000")
    assert first is not None
    assert (first.state, first.seen, first.last_number) == (JobState.IN_QUEUE, 0, 1)
    store.close()

    with_space = open_store(url_in(tmp_path))
    run_to(with_space, JobState.COMPLETED, "job00000")
    assert with_space.jobs.get("job00000").state is JobState.COMPLETED  # type: ignore[union-attr]
    with_space.close()


def test_a_locked_database_is_down_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visiondyno.store.database.BUSY_TIMEOUT_MS", 1)
    store = open_store(url_in(tmp_path))
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransportDown, match="locked"):
        store.jobs.add([new_job()])
    assert store.jobs.open_jobs() == [], "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    store.jobs.add([new_job()])
    store.close()


def test_a_store_with_no_connection_to_spare_is_down_for_now(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    store.database.engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with contextlib.ExitStack() as held:
        for _ in range(40):
            held.enter_context(store.database.read())
        with pytest.raises(TransportDown, match="connections"):
            store.jobs.get("job")
    store.check()
    store.close()


def test_a_defect_is_not_called_an_outage(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    with pytest.raises(ProgrammingError):
        store.jobs.add([new_job(owner=object())])
    store.close()


def test_postgres_without_its_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"visiondyno\[postgres\]"):
        Database("postgresql://host/name")


def test_a_retried_jobs_count_reads_no_whole_table(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    asked: list[str] = []

    @event.listens_for(store.database.engine, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if "count" in statement:
            asked.append(statement)

    store.jobs.count_retried("default")
    with store.database.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0]}", ("default",))
        assert "INDEX ix_jobs_retried" in plan.one().detail
    store.close()


def test_text_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    with pytest.raises(SpecError, match="Unicode"):
        store.jobs.add([new_job("\ud800")])
    store.close()


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    file.write_text("a letter to a friend, long enough to be looked at by SQLite" * 100)
    before = file.read_bytes()
    with pytest.raises(SpecError, match="isn't a SQLite database"):
        open_store(url_in(tmp_path))
    assert file.read_bytes() == before


def test_somebody_elses_tables_are_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        connection.execute("CREATE TABLE jobs (theirs)")
    connection.close()
    with pytest.raises(SpecError, match="no schema of ours"):
        open_store(url_in(tmp_path))
    with pytest.raises(SpecError, match=r"aren't ours: jobs\."):
        open_store(url_in(tmp_path), upgrade=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="can't be made"):
        open_store(f"sqlite:///{tmp_path}/file/s.sqlite")
    (tmp_path / "s.sqlite").mkdir()
    with pytest.raises(TransportDown, match="unable to open"):
        open_store(url_in(tmp_path))


def test_an_older_schema_is_upgraded_on_demand_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(url_in(tmp_path)).close()
    with monkeypatch.context() as later:
        later.setattr(schema, "HEAD", "0002")
        with pytest.raises(SpecError, match=r"older schema 0001.*dyno db upgrade"):
            open_store(url_in(tmp_path))
    store = open_store(url_in(tmp_path), upgrade=True)
    store.check()
    store.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0999'"))
    with pytest.raises(TransportDown, match="0999"):
        store.check()
    store.close()
    for upgrade in (None, True, False):
        with pytest.raises(SpecError, match="0999, newer than"):
            open_store(url_in(tmp_path), upgrade=upgrade)


def test_check_finds_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))

    @event.listens_for(store.database.engine, "begin")
    def only_read(connection: object) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON")  # type: ignore[attr-defined]

    with pytest.raises(TransportDown, match="readonly"):
        store.check()
    store.close()


def test_a_closed_store_leaves_one_file(tmp_path: Path) -> None:
    store = open_store(url_in(tmp_path))
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"], (
        "a clean end leaves no log behind"
    )
