from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from contracts.store_contract import NOW, StoreContract, new_job, run_to
from contracts.store_crash import check_crash
from services import new_database, postgres_server
from visiondyno.errors import SpecError, StorageFull, TransportDown
from visiondyno.job import JobState
from visiondyno.store.sql import SqlStore, open_store
from visiondyno.store.tables import metadata


@pytest.fixture(scope="module")
def opened(postgres_server_url: str) -> Iterator[SqlStore]:
    with new_database(postgres_server_url) as url:
        store = open_store(url, upgrade=True, clock=lambda: NOW)
        yield store
        store.close()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def store(self, opened: SqlStore) -> SqlStore:
        with opened.database.write() as connection:
            connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
        return opened


def test_a_killed_writer_leaves_nothing_half_written_in_postgres(postgres_url: str) -> None:
    check_crash(postgres_url)


def test_a_cut_connection_is_made_anew(opened: SqlStore, postgres_server_url: str) -> None:
    opened.check()
    with psycopg.connect(postgres_server_url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'visiondyno'"
        )
    opened.check()


def test_a_connection_cut_inside_a_transaction_is_down_for_now(
    opened: SqlStore, postgres_server_url: str
) -> None:
    def cut() -> None:
        with opened.database.write() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with psycopg.connect(postgres_server_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [pid])
            connection.execute(text("SELECT 1"))

    with pytest.raises(TransportDown):
        cut()
    opened.check()


def test_postgres_out_of_disk_refuses_and_loses_nothing(postgres_url: str) -> None:
    store = open_store(postgres_url, upgrade=True)
    store.jobs.add([new_job("before")])
    with store.database.write() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION full_disk() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION"
                " 'could not extend file' USING ERRCODE = 'disk_full'; END $$ LANGUAGE plpgsql"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER full_disk BEFORE INSERT ON job_events"
                " FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
        )
    with pytest.raises(StorageFull):
        store.jobs.add([new_job("after")])
    with pytest.raises(StorageFull):
        run_to(store, JobState.COMPLETED, "before")
    [job] = store.jobs.open_jobs()
    assert (job.id, job.state, job.seen) == ("before", JobState.IN_QUEUE, 0)
    store.close()


def test_text_that_postgres_cannot_hold_is_refused(opened: SqlStore) -> None:
    with pytest.raises(SpecError, match="can't be stored"):
        opened.jobs.add([new_job("nul \0")])


def test_a_stopped_server_is_down(tmp_path: Path) -> None:
    with postgres_server(tmp_path) as url:
        store = open_store(url, upgrade=True)
        store.jobs.add([new_job()])
    with pytest.raises(TransportDown):
        store.jobs.get("job")
    with pytest.raises(TransportDown):
        store.check()
    store.close()
    with pytest.raises(TransportDown):
        open_store(url)
