"""One line for what becomes of each worker and each job of an emulated endpoint."""

from pathlib import Path

import pytest

from visiondyno.emulator.billing import WorkerBill
from visiondyno.emulator.journal import Journal
from visiondyno.emulator.records import Json


class Told:
    """A journal, and its lines."""

    def __init__(self, logs: Path | None = None) -> None:
        self.lines: list[str] = []
        self.journal = Journal(self.lines.append, logs, lambda: "12:00:00")

    def left(self, code: int, crashes: int = 0, *, is_closing: bool = False) -> str:
        bill = WorkerBill("w0", 0.0, 7.5, 8, 0.00128, 1, is_running=False)
        self.journal.left(bill, code, crashes, is_closing=is_closing)
        return self.lines[-1]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (
            {"id": "j", "status": "COMPLETED", "delayTime": 31618, "executionTime": 1437}
            | {"workerId": "w0", "output": 1},
            "12:00:00 job j COMPLETED: waited 31.6 s, ran 1.4 s, on worker w0",
        ),
        ({"id": "j", "status": "CANCELLED"}, "12:00:00 job j CANCELLED"),
        (
            {"id": "j", "status": "FAILED", "delayTime": 0, "retries": 1, "error": "gone"},
            "12:00:00 job j FAILED: waited 0.0 s, retries: 1: gone",
        ),
        (
            {
                "id": "j",
                "status": "FAILED",
                "error": '{"code": "bad_spec", "message": "No\\nway."}',
            },
            "12:00:00 job j FAILED: No way.",
        ),
        (
            {"id": "j", "status": "FAILED", "error": '{"error_message": "a defect"}'},
            "12:00:00 job j FAILED: a defect",
        ),
        ({"id": "j", "status": "FAILED", "error": [1]}, "12:00:00 job j FAILED: [1]"),
        (
            {"id": "j", "status": "FAILED", "error": "x" * 301},
            f"12:00:00 job j FAILED: {'x' * 300}…",
        ),
    ],
    ids=["completed", "cancelled", "put-back", "our-error", "the-packages", "any", "long"],
)
def test_a_job_is_a_line(status: Json, line: str) -> None:
    told = Told()
    told.journal.job_ended(status)
    assert told.lines == [line]


def test_a_worker_that_ends_as_it_was_told_is_a_line() -> None:
    told = Told()
    told.journal.started("w0")
    told.journal.terminated("w0", "it was idle for 5 s")
    assert told.left(143) == "12:00:00 worker w0 has ended: 8 s billed, 1 job done"
    told.journal.killed("w0", "on request")
    assert told.lines[-1] == "12:00:00 worker w0 is killed: on request"
    assert "died" not in told.left(137)
    assert "died" not in told.left(137, is_closing=True)
    assert "died with code 137" in told.left(137), "this one wasn't told to"


def test_a_worker_that_dies_has_its_last_words_told(tmp_path: Path) -> None:
    told = Told(tmp_path)
    assert "last words" not in told.left(1), "there is no file"
    path = tmp_path / "w0.log"
    path.write_bytes(b"")
    assert f"wrote nothing ({path})" in told.left(1)
    said = [f"line {n}" for n in range(20)] + ['{"message": "no disk", "level": "ERROR"}', ""]
    path.write_text("x" * 30_000 + "\n" + "\n".join(said))
    first, *rest = told.left(1, 3).splitlines()
    assert "died with code 1 before it asked for a job (3 in a row); its last words" in first
    assert rest == [*(f"    line {n}" for n in range(13, 20)), "    no disk"]


def test_without_a_folder_of_output_there_are_no_last_words() -> None:
    told = Told()
    assert told.left(1).endswith("died with code 1")
    told.journal.webhook_failed("http://h/", "j", "it answered 503")
    assert told.lines[-1] == "12:00:00 webhook http://h/ of job j failed: it answered 503"
