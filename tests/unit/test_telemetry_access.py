"""Lines of the access log, and where they go."""

import io
import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.telemetry.access import Access, AccessLog, access_line

ACCESS = Access(
    time_s=1_795_000_000.0,
    client="10.0.0.7",
    method="POST",
    path="/v2/default/run",
    route="/v2/{endpoint}/run",
    status=200,
    took_ms=12.34567,
    sent_bytes=345,
    request_id="r-1",
    job_id="j-1",
)


def test_a_line_of_text_is_pairs_of_key_and_value() -> None:
    assert access_line(ACCESS) == (
        "time=2026-11-18T11:06:40.000Z client=10.0.0.7 method=POST path=/v2/default/run "
        "route=/v2/{endpoint}/run status=200 took_ms=12.346 bytes=345 request_id=r-1 job_id=j-1"
    )


def test_a_line_of_json_has_the_same_and_leaves_out_what_is_not_known() -> None:
    assert json.loads(access_line(replace(ACCESS, client=None, job_id=None), "json")) == {
        "time": "2026-11-18T11:06:40.000Z",
        "method": "POST",
        "path": "/v2/default/run",
        "route": "/v2/{endpoint}/run",
        "status": 200,
        "took_ms": 12.346,
        "bytes": 345,
        "request_id": "r-1",
    }


_PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


@given(st.text(max_size=200), st.text(min_size=1, max_size=20))
def test_a_line_can_be_taken_apart_whatever_the_client_sent(path: str, method: str) -> None:
    line = access_line(replace(ACCESS, path=path, method=method))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    found = _PAIR.findall(line)
    assert "".join(f"{key}={value} " for key, value in found) == line + " "
    values = dict(found)
    assert list(values) == [
        *("time", "client", "method", "path", "route", "status", "took_ms", "bytes"),
        *("request_id", "job_id"),
    ]
    for key, sent in (("path", path), ("method", method)):
        text = values[key]
        assert (json.loads(text) if text.startswith('"') else text) == sent


def test_a_long_path_is_cut() -> None:
    line = access_line(replace(ACCESS, path="/" + "x" * 5000), "json")
    assert len(json.loads(line)["path"]) == 200


def test_lines_are_added_to_a_file_that_may_be_moved_away(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    file.write_text("earlier\n")
    log = AccessLog(str(file), "json")
    log.write(ACCESS)
    file.rename(tmp_path / "access.log.1")
    log.write(ACCESS)
    log.close()
    assert (tmp_path / "access.log.1").read_text().splitlines()[0] == "earlier"
    assert len((tmp_path / "access.log.1").read_text().splitlines()) == 2
    assert json.loads(file.read_text())["request_id"] == "r-1"


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("-")
    log.write(ACCESS)
    log.close()
    assert capsys.readouterr().out.endswith("request_id=r-1 job_id=j-1\n")


def test_a_file_that_can_not_be_opened_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent/access\.log' can't be opened .*--access-log"):
        AccessLog(str(tmp_path / "absent" / "access.log"))


def test_lost_lines_are_said_once_and_cost_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(io.StringIO):
        is_full = True

        def write(self, text: str) -> int:
            if self.is_full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    disk = Full()
    monkeypatch.setattr(sys, "stdout", disk)
    log = AccessLog("-")
    with caplog.at_level(logging.ERROR):
        log.write(ACCESS)
        log.write(ACCESS)
        assert [entry.getMessage() for entry in caplog.records] == [
            "Lines of the access log are lost: [Errno 28] No space left on device"
        ]
        disk.is_full = False
        log.write(ACCESS)
        disk.is_full = True
        log.write(ACCESS)
    assert len(caplog.records) == 2
    assert disk.getvalue().count("\n") == 1


def test_a_file_whose_folder_went_away_costs_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(str(folder / "access.log"))
    (folder / "access.log").unlink()
    folder.rmdir()
    log.write(ACCESS)
    assert "lost" in caplog.text
    folder.mkdir()
    log.write(ACCESS)
    log.close()
    assert (folder / "access.log").read_text().count("\n") == 1
