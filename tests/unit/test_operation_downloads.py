"""Downloads as an operation tells of them, and as it stops them."""

from typing import Any

import pytest

from visiondyno.errors import Cancelled
from visiondyno.operations.context import OperationContext
from visiondyno.operations.downloads import DownloadTicker


def test_a_file_is_told_of_at_its_start_now_and_then_and_at_its_end() -> None:
    said: list[dict[str, Any]] = []
    now_s = 0.0
    ticker = DownloadTicker(OperationContext(said.append), "family:net", lambda: now_s)
    for step in range(101):
        now_s = step * 0.01
        ticker.tell("a.bin", step, 100)
    assert [one["done"] for one in said] == [0, 25, 50, 75, 100]
    assert said[0] == {
        "stage": "downloading a.bin",
        "model": "family:net",
        "done": 0,
        "total": 100,
        "unit": "bytes",
    }


def test_files_that_come_together_do_not_drown_what_is_told() -> None:
    said: list[dict[str, Any]] = []
    ticker = DownloadTicker(OperationContext(said.append), "family:net", lambda: 0.0)
    for step in range(50):
        ticker.tell("a.bin", step, None)
        ticker.tell("b.bin", step, None)
    assert [one["stage"] for one in said] == ["downloading a.bin", "downloading b.bin"]


def test_a_cancelled_job_stops_its_download() -> None:
    context = OperationContext(is_cancelled=lambda: True)
    with pytest.raises(Cancelled):
        DownloadTicker(context, "family:net").tell("a.bin", 1, None)
