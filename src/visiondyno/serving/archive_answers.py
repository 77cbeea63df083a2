"""The answer to a zip file of images, piece by piece: JSON, lines of JSON, or a zip of pictures."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from pydantic_core import to_json

from visiondyno.serving.asked import Form
from visiondyno.serving.wire import Answer

LINES = b"application/x-ndjson"

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_ERRORS = "errors.json"
_SUFFIXES = {"jpeg": ((".jpg", ".jpeg"), ".jpg"), "png": ((".png",), ".png")}


class ArchiveAnswer(Protocol):
    """What an answer is made of: the pieces that these give, one after the other."""

    media_type: bytes

    def begin(self, names: Sequence[str], skipped: Sequence[str]) -> bytes:
        """What comes first: of the archive's files, and of those that were passed over."""

    def add(self, name: str, answer: Answer) -> bytes:
        """What came of the next file."""

    def end(self) -> bytes:
        """What comes last."""


def answer_in(form: Form, opening: bytes) -> ArchiveAnswer:
    """The answer in a form; `opening` is a JSON object's beginning, with its comma."""
    if form == "json":
        return _Whole(opening)
    return _Lines(opening) if form == "ndjson" else _Pictures(form, opening)


class _Whole:
    """One JSON object."""

    media_type = b"application/json"

    def __init__(self, opening: bytes) -> None:
        self._opening = opening
        self._comma = b""

    def begin(self, names: Sequence[str], skipped: Sequence[str]) -> bytes:
        return self._opening + _said(names, skipped) + b',"predictions":['

    def add(self, name: str, answer: Answer) -> bytes:
        comma, self._comma = self._comma, b","
        return comma + _entry(name, answer)

    def end(self) -> bytes:
        return b"]}"


class _Lines:
    """A JSON object a line; the first one is about the archive."""

    media_type = LINES

    def __init__(self, opening: bytes) -> None:
        self._opening = opening

    def begin(self, names: Sequence[str], skipped: Sequence[str]) -> bytes:
        return self._opening + _said(names, skipped) + b"}\n"

    def add(self, name: str, answer: Answer) -> bytes:
        return _entry(name, answer) + b"\n"

    def end(self) -> bytes:
        return b""


class _Pictures:
    """A zip file of what was drawn, with `errors.json` where something has no picture."""

    media_type = b"application/zip"

    def __init__(self, form: str, opening: bytes) -> None:
        self._known, self._suffix = _SUFFIXES[form]
        self._opening = opening
        self._given: set[str] = set()
        self._errors: list[bytes] = []
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_STORED)

    def begin(self, names: Sequence[str], skipped: Sequence[str]) -> bytes:
        self._said = _said(names, skipped)
        return b""

    def add(self, name: str, answer: Answer) -> bytes:
        if answer.status >= 400:
            self._errors.append(_entry(name, answer))
            return b""
        self._write(self._free(name), answer.body)
        return self._sink.taken()

    def end(self) -> bytes:
        if self._errors:
            listed = b',"errors":[' + b",".join(self._errors) + b"]}"
            self._write(_ERRORS, self._opening + self._said + listed)
        self._zip.close()
        return self._sink.taken()

    def _free(self, name: str) -> str:
        """The name, with the ending that fits, that no other picture has."""
        fits = name.lower().endswith(self._known)
        wanted = name if fits else name + self._suffix
        stem, number = str(PurePosixPath(wanted).with_suffix("")), 1
        while wanted.lower() in self._given:
            number += 1
            wanted = f"{stem}-{number}{self._suffix}"
        self._given.add(wanted.lower())
        return wanted

    def _write(self, name: str, content: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name, _EARLIEST), content)


class _Sink(io.RawIOBase):
    """What a zip file is written to that goes away piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        """What was written since the last time."""
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found


def lines(opening: bytes, said: bytes, bodies: Sequence[bytes]) -> bytes:
    """An answer that is whole already as lines of JSON.

    Args:
        opening: a JSON object's beginning, with its comma.
        said: more of the first line's object, with a comma at its end; b"": nothing.
        bodies: a JSON object each.
    """
    first = (opening + said).removesuffix(b",") + b"}"
    return b"\n".join((first, *bodies)) + b"\n"


def _said(names: Sequence[str], skipped: Sequence[str]) -> bytes:
    return b'"archive":' + to_json({"files": len(names), "skipped": list(skipped)})


def _entry(name: str, answer: Answer) -> bytes:
    """The JSON object of one file; a prediction's own is never empty."""
    if answer.status < 400:
        return b'{"name":' + to_json(name) + b"," + answer.body[1:]
    told = json.loads(answer.body)
    error = {"status": answer.status, "code": told["code"], "message": told["message"]}
    return to_json({"name": name, "error": error})
