"""Log lines and the ids they carry."""

import asyncio
import io
import json
import logging
import string
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.telemetry.ids import bind, bound, bound_ids, request_id_of
from visiondyno.telemetry.logs import JsonFormatter, TextFormatter, configure_logging


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Put back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(
    message: str, *arguments: object, error: BaseException | None = None
) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("some.logger", logging.ERROR, "file", 1, message, arguments, info)
    made.created = 1_795_000_000.1234
    return made


def raised(message: str) -> ValueError:
    with pytest.raises(ValueError) as caught:
        raise ValueError(message)
    return caught.value


def test_a_json_line_has_time_level_logger_message_and_ids() -> None:
    with bound(request_id="r-1", job_id="j-1", trace_id="t-1"):
        line = JsonFormatter().format(record("took %d s", 3))
    assert json.loads(line) == {
        "time": "2026-11-18T11:06:40.123Z",
        "level": "ERROR",
        "logger": "some.logger",
        "message": "took 3 s",
        "request_id": "r-1",
        "job_id": "j-1",
        "trace_id": "t-1",
    }


def test_a_json_line_has_the_traceback_and_stays_one_line() -> None:
    line = JsonFormatter().format(record("failed", error=raised("two\nlines")))
    assert "\n" not in line
    told = json.loads(line)
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("two\nlines")
    assert "request_id" not in told


@given(st.text())
def test_a_json_line_is_one_line_of_ascii_whatever_is_logged(message: str) -> None:
    line = JsonFormatter().format(record("%s", message))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == message


def test_a_text_line_ends_with_its_ids_and_a_traceback_follows_it() -> None:
    failed = record("failed", error=raised("odd"))
    with bound(request_id="r-1"):
        first, *rest = TextFormatter().format(failed).split("\n")
    assert first.endswith(" some.logger: failed [request_id=r-1]")
    assert rest[0].startswith("Traceback")
    assert TextFormatter().format(record("well")).endswith(" some.logger: well")


@pytest.mark.usefixtures("root_logger")
def test_the_format_can_be_changed_and_no_line_comes_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("text", logging.INFO)
    configure_logging("json", logging.WARNING)
    logging.getLogger("visiondyno.x").info("not shown")
    logging.getLogger("visiondyno.x").warning("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "shown"


@pytest.mark.usefixtures("root_logger")
def test_logs_go_where_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("text")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    logging.getLogger("visiondyno.x").warning("moved")
    assert later.getvalue().endswith(" visiondyno.x: moved\n")


def test_ids_belong_to_their_task_and_to_tasks_it_starts() -> None:
    async def inner() -> dict[str, str]:
        bind(job_id="inner")
        return dict(bound_ids())

    async def outer() -> tuple[dict[str, str], dict[str, str]]:
        with bound(request_id="r"):
            started = await asyncio.create_task(inner())
            return started, dict(bound_ids())

    assert asyncio.run(outer()) == ({"request_id": "r", "job_id": "inner"}, {"request_id": "r"})


def test_after_a_block_the_ids_are_as_before_it() -> None:
    with bound(request_id="a"):
        with bound(request_id="b"):
            bind(job_id="j")
            assert bound_ids() == {"request_id": "b", "job_id": "j"}
        assert bound_ids() == {"request_id": "a"}


_PRINTABLE = "".join(set(string.printable) - set(string.whitespace))


@given(st.text(_PRINTABLE, min_size=1, max_size=128))
def test_a_printable_request_id_is_kept(given_id: str) -> None:
    assert request_id_of(given_id) == given_id


@given(
    st.none()
    | st.text(_PRINTABLE, min_size=129)
    | st.text(st.characters(max_codepoint=0x20) | st.characters(min_codepoint=0x7F), min_size=1)
    | st.just("")
)
def test_another_request_id_is_replaced(given_id: str | None) -> None:
    made = request_id_of(given_id)
    assert len(made) == 32
    assert made != given_id
    assert made != request_id_of(given_id)
