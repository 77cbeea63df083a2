"""The queue in a file keeps the queue contract; a full disk and a locked file are said so."""

import os
import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from contracts.queue_bench import RETENTION_S, Clock, OpenQueue, job
from contracts.queue_contract import QueueContract
from visiondyno.errors import StorageFull, TransportDown
from visiondyno.executors.fifo_bell import FifoBell, ring
from visiondyno.executors.queue import JobQueue
from visiondyno.executors.sqlite_queue import SqliteQueue


class TestSqliteQueue(QueueContract):
    @pytest.fixture
    def new_transport(self, tmp_path: Path) -> Callable[[], OpenQueue]:
        numbers = count()

        def make() -> OpenQueue:
            path = tmp_path / f"queue-{next(numbers)}.sqlite"

            def open_queue(clock: Clock) -> JobQueue:
                return SqliteQueue(path, retention_s=RETENTION_S, clock=clock)

            return open_queue

        return make


def test_a_full_disk_refuses_jobs_and_keeps_those_it_has(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "queue.sqlite")
    queue.put([job("kept")])
    queue._db.execute("PRAGMA max_page_count = 30")
    with pytest.raises(StorageFull, match="nothing that was accepted is lost"):
        queue.put([job(f"job-{number}") for number in range(10_000)])
    queue._db.execute("PRAGMA max_page_count = 1000000")
    assert queue.known(["kept"]) == {"kept"}
    queue.put([job("after")])
    assert queue.known(["after"]) == {"after"}
    queue.close()


def test_a_locked_file_is_a_transport_that_is_down_for_now(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    queue = SqliteQueue(path)
    queue._file.patience_s = 0.01
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransportDown, match="locked"):
        queue.put([job("a")])
    other.execute("ROLLBACK")
    other.close()
    queue.put([job("a")])
    assert queue.known(["a"]) == {"a"}
    queue.close()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TransportDown, match="can't be opened"):
        SqliteQueue(tmp_path / "file" / "queue.sqlite")


def test_the_pipe_of_a_listener_that_died_is_removed(tmp_path: Path) -> None:
    alive, dead = FifoBell(tmp_path, "work"), FifoBell(tmp_path, "work")
    leftover = next(path for path in (tmp_path / "work").iterdir() if path != alive.path)
    dead.close()
    assert not leftover.exists()
    os.mkfifo(leftover)
    for _ in range(20_000):  # more rings than the pipe holds bytes
        ring(tmp_path, "work")
    assert not leftover.exists()
    alive.drain()
    alive.close()
    alive.close()
    assert list((tmp_path / "work").iterdir()) == []
    ring(tmp_path, "events")  # nobody ever listened


def test_a_clock_set_back_ends_a_pause(tmp_path: Path) -> None:
    clock = Clock()
    queue = SqliteQueue(tmp_path / "queue.sqlite", clock=clock)
    queue.put([job("a")])
    queue.give_back(queue.claim(["w"], 10)[0], "It died.")
    assert (queue.claim(["w"], 10), queue.claimable(1), queue.counts().claimable) == ([], 0, 0)
    clock.advance(-3600)
    assert (queue.claimable(1), queue.counts().claimable) == (1, 1)
    assert [claim.job_id for claim in queue.claim(["w"], 10)] == ["a"]
    queue.close()


def test_bells_that_do_not_work_lose_no_job(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite.bells").write_text("not a folder")
    queue = SqliteQueue(tmp_path / "queue.sqlite")
    with pytest.raises(TransportDown, match="bells"):
        queue.bell("work")
    queue.put([job("a")])
    assert queue.known(["a"]) == {"a"}
    queue.close()
