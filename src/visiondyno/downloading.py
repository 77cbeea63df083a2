"""One file over HTTP: streamed, resumed where it stopped, never longer than it may be."""

import json
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from visiondyno import __version__
from visiondyno.errors import InputError, StorageFull, Unavailable

Progress = Callable[[int, int | None], None]
"""Called with bytes there so far and in all, None where the server doesn't say."""

TIMEOUT_S = 60.0
"""Without a single byte; how long the whole takes isn't limited."""

_ATTEMPTS = 5
_MOST_ATTEMPTS = 200
_LONGEST_WAIT_S = 60.0
_SPARE_BYTES = 2**26
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Advice:
    """How a download that failed is told to those who asked for it.

    Attributes:
        error: raised where asking again doesn't help.
        refused: what to do where the server doesn't give the file out.
        unreachable: what to do where it can't be reached.
        no_room: what to do where the disk is too full.
    """

    error: type[InputError]
    refused: str
    unreachable: str
    no_room: str


class _Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Refused(Exception):
    """The file can't be had, and asking again won't help."""

    def __init__(self, reason: str, next_step: str = "") -> None:
        super().__init__(f"{reason}. {next_step}" if next_step else reason)


class Downloader:
    """Downloads files; use as a context manager.

    What has come of a file is kept as `NAME.part` until it is complete, with the server's mark of
    that version (a strong ETag, else Last-Modified) in `NAME.part.json`. A later attempt, in this
    process or another, asks for the rest if the file is still that version (`Range` and
    `If-Range`, RFC 9110 section 13.1.5 and 14.2), and starts again where it isn't, where there
    was no mark, or where the server has no ranges.
    """

    def __init__(
        self,
        advice: Advice,
        *,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to download.

        Args:
            advice: how failures are told.
            timeout_s: to connect, and to wait for a next byte.
            sleep: waits between attempts; seconds.
        """
        self._advice = advice
        self._sleep = sleep
        self._client = httpx.Client(
            follow_redirects=True,
            timeout=timeout_s,
            # The stored bytes are wanted, not what a server may unpack them to.
            headers={"Accept-Encoding": "identity", "User-Agent": f"visiondyno/{__version__}"},
        )

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(
        self, url: str, target: Path, *, most_bytes: int, on_progress: Progress | None = None
    ) -> None:
        """Download `url` to `target`, which appears when it is complete.

        After a failure that may pass it tries again, at most 5 times without getting further.

        Raises:
            InputError: of the advice's class: the address is wrong, there's nothing at it, or the
                file is longer than `most_bytes`.
            StorageFull: the disk has no room for it.
            Unavailable: the server can't be reached or doesn't deliver; what has come is kept.
        """
        if not re.match(r"https?://[^/]", url):
            raise self._advice.error(
                f"'{url}' isn't an address to download from: http(s)://… was expected"
            )
        part = _Part(target, url)
        failures, furthest = 0, part.size
        for _ in range(_MOST_ATTEMPTS):
            try:
                self._transfer(url, part, most_bytes, on_progress)
            except _Refused as refused:
                raise self._advice.error(str(refused)) from None
            except _Interrupted as stopped:
                failures = 1 if part.size > furthest else failures + 1
                furthest = max(furthest, part.size)
                if failures >= _ATTEMPTS:
                    raise self._gave_up(url, part, stopped) from None
                wait_s = stopped.wait_s if stopped.wait_s is not None else 0.5 * 2**failures
                self._sleep(min(wait_s, _LONGEST_WAIT_S))
            else:
                part.complete()
                return
        raise self._gave_up(url, part, _Interrupted("it stopped again and again"))

    def _transfer(
        self, url: str, part: "_Part", most_bytes: int, on_progress: Progress | None
    ) -> None:
        shown = _without_password(url)
        try:
            with self._client.stream("GET", url, headers=part.resume_headers()) as response:
                _refuse_downgrade(shown, response)
                self._check_status(shown, part, response)
                offset, total = _range(part, response)
                self._check_size(shown, part, total, offset, most_bytes)
                with part.open(offset, _validator(response)) as file:
                    got = _copy(response, file, shown, offset, total, most_bytes, on_progress)
        except httpx.UnsupportedProtocol as error:
            raise _Refused(f"{shown} can't be downloaded: {error}") from None
        except httpx.TransportError as error:
            raise _Interrupted(str(error) or type(error).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Refused(f"{shown} can't be downloaded: {error}") from None
        if total is not None and got != total:
            raise _Interrupted(f"the connection ended after {got:,} of {total:,} bytes")

    def _check_status(self, url: str, part: "_Part", response: httpx.Response) -> None:
        status = response.status_code
        if status in (200, 206):
            return
        if status == 416:
            part.forget()
            raise _Interrupted("the server has no such rest of the file", wait_s=0)
        if status in _TRY_AGAIN:
            raise _Interrupted(f"the server answers {status}", _retry_after_s(response))
        why = {
            401: "asks for a password",
            403: "refuses it",
            404: "has no such file",
            410: "removed it",
        }
        raise _Refused(
            f"{url} can't be downloaded: the server {why.get(status, 'can not deliver it')} "
            f"({status})",
            self._advice.refused,
        )

    def _check_size(
        self, url: str, part: "_Part", total: int | None, offset: int, most_bytes: int
    ) -> None:
        if total is None:
            return
        if total > most_bytes:
            raise _too_long(url, most_bytes)
        free = shutil.disk_usage(part.path.parent).free
        if total - offset + _SPARE_BYTES > free:
            raise StorageFull(
                f"{url} is {total:,} bytes, and {part.path.parent} has room for {free:,}. "
                f"{self._advice.no_room}"
            )

    def _gave_up(self, url: str, part: "_Part", stopped: _Interrupted) -> Unavailable:
        kept = ""
        with suppress(OSError):
            kept = f" What has come, {part.size:,} bytes, is kept." if part.size else ""
        return Unavailable(
            f"{_without_password(url)} can't be downloaded: {stopped}.{kept} "
            f"{self._advice.unreachable}"
        )


def downloaded_bytes(target: Path) -> int:
    """What has come so far of a file that somebody downloads to `target`, bytes."""
    try:
        return _part_path(target).stat().st_size
    except OSError:
        return 0


def _part_path(target: Path) -> Path:
    return target.with_name(target.name + ".part")


class _Part:
    """What has come of a file, and of which version it is."""

    def __init__(self, target: Path, url: str) -> None:
        self._target = target
        self._url = url
        self.path = _part_path(target)
        self._note = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def resume_headers(self) -> dict[str, str]:
        """What asks for the rest; nothing where it can't be told that the rest would fit."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            validator = note["validator"] if note["url"] == self._url else None
        except (OSError, ValueError, KeyError, TypeError):
            validator = None
        if not validator or not self.size:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def open(self, offset: int, validator: str | None) -> IO[bytes]:
        """Open for writing from `offset` on; whatever lay behind it is dropped."""
        if validator is None:
            self._note.unlink(missing_ok=True)
        else:
            text = json.dumps({"url": self._url, "validator": validator})
            self._note.write_text(text, "utf-8")
        file = self.path.open("r+b" if self.path.exists() else "wb")
        file.truncate(offset)
        file.seek(offset)
        return file

    def forget(self) -> None:
        """Drop what has come."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def complete(self) -> None:
        """Give the file its name."""
        self.path.replace(self._target)
        self._note.unlink(missing_ok=True)


def _refuse_downgrade(url: str, response: httpx.Response) -> None:
    if url.startswith("https:") and response.url.scheme != "https":
        raise _Refused(f"{url} leads to {response.url}, which isn't encrypted: it isn't followed")


def _retry_after_s(response: httpx.Response) -> float | None:
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else None


def _range(part: _Part, response: httpx.Response) -> tuple[int, int | None]:
    """Where the answer's bytes begin, and how many there are in all, None where it isn't said."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    given = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
    if match is None or int(match[1]) != part.size:
        part.forget()
        raise _Interrupted(f"the server sends another range than was asked for ('{given}')", 0)
    return part.size, None if match[2] == "*" else int(match[2])


def _too_long(url: str, most_bytes: int) -> _Refused:
    return _Refused(
        f"{url} is longer than {most_bytes:,} bytes, the most that the file can be: it isn't the "
        "file that was expected"
    )


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _validator(response: httpx.Response) -> str | None:
    etag = str(response.headers.get("ETag", ""))
    if etag and not etag.startswith("W/"):
        return etag
    modified = response.headers.get("Last-Modified")
    return str(modified) if modified else None


def _copy(
    response: httpx.Response,
    file: IO[bytes],
    url: str,
    offset: int,
    total: int | None,
    most_bytes: int,
    on_progress: Progress | None,
) -> int:
    """Write what comes; the bytes there are then."""
    got = offset
    # Pieces as they come: a buffer of pieces would be lost with the connection.
    for chunk in response.iter_raw():
        got += len(chunk)
        if got > most_bytes:
            raise _too_long(url, most_bytes)
        file.write(chunk)
        if on_progress is not None:
            on_progress(got, total)
    return got
