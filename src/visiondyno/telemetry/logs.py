"""Logs for people (text) or for programs (a JSON object a line), with the ids that are bound."""

import datetime
import json
import logging
import sys
from typing import Literal

from visiondyno.telemetry.ids import bound_ids

LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")


def configure_logging(log_format: LogFormat = "text", level: int | str = logging.WARNING) -> None:
    """Log to standard error from now on; called again, it changes format and level.

    Handlers that others gave the root logger stay.

    Args:
        log_format: `text` (time, logger, message, ids) or `json`.
        level: of the root logger, as `logging` takes it.
    """
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _StandardError)]:
        root.removeHandler(handler)
    handler = _StandardError()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root.addHandler(handler)
    root.setLevel(level)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    Keys: `time` (ISO 8601, UTC), `level`, `logger`, `message`; where they are bound `request_id`,
    `job_id` and `trace_id`; `exception` with the traceback where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; ASCII, so that no name of a file can break it."""
        line = {
            "time": utc_time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **bound_ids(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """A record as a line for people, ids at its end; a traceback follows it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without the traceback."""
        ids = " ".join(f"{name}={value}" for name, value in bound_ids().items())
        line = super().formatMessage(record)
        return f"{line} [{ids}]" if ids else line


def utc_time(seconds: float) -> str:
    """Seconds since the epoch as `2026-11-22T18:00:00.123Z`."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable in 3.11
    """Writes to what `sys.stderr` is now: it may be replaced after the handler was made."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]  # an attribute there
        return sys.stderr
