"""The access log: a line for each answered request, of every server of ours."""

import json
import logging
import sys
from dataclasses import asdict, dataclass
from logging.handlers import WatchedFileHandler

from visiondyno.errors import SpecError
from visiondyno.telemetry.logs import LogFormat, utc_time

_LONGEST_PATH = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """One answered request.

    Attributes:
        time_s: when its answer ended, seconds since the epoch.
        client: the address it came from, or None.
        method: as the client sent it.
        path: without the query, which may hold a key; 200 characters of it are logged.
        route: the path's template.
        status: of the answer; 499 where the client hung up before it.
        took_ms: from the request's beginning to its answer's end.
        sent_bytes: of the answer's body.
        request_id: the client's or ours.
        job_id: of the job that it made or asked for.
        trace_id: of its trace, hexadecimal.
    """

    time_s: float
    client: str | None
    method: str
    path: str
    route: str
    status: int
    took_ms: float
    sent_bytes: int
    request_id: str
    job_id: str | None = None
    trace_id: str | None = None


def access_line(access: Access, log_format: LogFormat = "text") -> str:
    """The request as one line, without its end: `key=value` pairs (logfmt), or JSON.

    What isn't known isn't in it. Values with a space, a quote or anything beyond printable ASCII
    are quoted as JSON is, so that a line can be taken apart again whatever the client sent.
    """
    told = asdict(access)
    told["time"] = utc_time(told.pop("time_s"))
    told["path"] = access.path[:_LONGEST_PATH]
    told["took_ms"] = round(access.took_ms, 3)
    told["bytes"] = told.pop("sent_bytes")
    known = {name: told[name] for name in _ORDER if told[name] is not None}
    if log_format == "json":
        return json.dumps(known)
    return " ".join(f"{name}={_logfmt(value)}" for name, value in known.items())


_ORDER = (
    *("time", "client", "method", "path", "route", "status", "took_ms", "bytes"),
    *("request_id", "job_id", "trace_id"),
)


def _logfmt(value: object) -> str:
    text = str(value)
    plain = text and all("!" <= letter <= "~" and letter not in '"=\\' for letter in text)
    return text if plain else json.dumps(text)


class AccessLog:
    """Where access lines go: a file (opened again when it was moved away), or standard output.

    A line that can't be written is lost and the request is answered all the same; the log says so
    once, until writing succeeds again.
    """

    def __init__(self, target: str, log_format: LogFormat = "text") -> None:
        """`target`: a file's path, or `-` for standard output.

        Raises:
            SpecError: the file can't be opened.
        """
        self._format = log_format
        self._loses = False
        self._handler: logging.Handler
        try:
            self._handler = _Output() if target == "-" else _File(target, encoding="utf-8")
        except OSError as error:
            raise SpecError(
                f"The access log '{target}' can't be opened ({error.strerror}); give --access-log "
                "a file in a folder that exists and can be written to, or - for standard output."
            ) from error

    def write(self, access: Access) -> None:
        """Write one line; safe from any thread."""
        line = access_line(access, self._format)
        try:
            self._handler.handle(logging.makeLogRecord({"msg": line}))
        except (OSError, ValueError) as error:  # ValueError: standard output was closed
            if not self._loses:
                _log.error("Lines of the access log are lost: %s", error)
            self._loses = True
        else:
            self._loses = False

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


class _File(WatchedFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        """Let the caller see it: the handler's own way prints a traceback for each line."""
        raise  # noqa: PLE0704 - logging calls this while it handles the error


class _Output(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable in 3.11
    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        """As for a file."""
        raise  # noqa: PLE0704 - as there
