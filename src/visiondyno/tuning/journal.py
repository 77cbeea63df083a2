"""The file that a study goes on from: one JSON object a line, appended, never changed."""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, Self

from visiondyno.errors import Conflict, SpecError, StorageFull

NAME = "study.jsonl"
FORMAT = "visiondyno.study/1"
_LONGEST_BEGINNING = 1 << 20
_BEGINNING = f'{{"kind":"study","format":"{FORMAT}"'

Json = dict[str, Any]


class Journal:
    """What is known of a study's trials, in the order in which it became known.

    A line that was half written when the process was killed, or the machine went down, is dropped
    when the file is opened again; whatever was written before it is whole. While it is open, no
    other process opens it.
    """

    def __init__(self, file: FileIO, path: Path) -> None:
        """See `begin` and `go_on`."""
        self._file = file
        self.path = path

    @classmethod
    def begin(cls, folder: Path, study: Mapping[str, Any]) -> Self:
        """A new journal in `folder`, which is made if it isn't there.

        Args:
            folder: of the study.
            study: what the study was asked; told again by `go_on`.

        Raises:
            Conflict: the folder holds a study already.
            StorageFull: it can't be written.
        """
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        except OSError as error:
            raise _unwritable(path, error) from error
        journal = cls(file, path)
        try:
            journal._lock()
            journal._check_unbegun()
            journal._cut_off(0)
            journal.write("study", {"format": FORMAT, **study})
            _keep_name(folder)
        except BaseException:
            file.close()
            raise
        return journal

    @classmethod
    def go_on(cls, folder: Path) -> tuple[Self, Json, list[Json]]:
        """The journal in `folder`, what its study was asked, and its trials as they were told.

        Raises:
            SpecError: there is none, it is no journal of ours, or it is damaged elsewhere than at
                its end. The file stays as it is.
            Conflict: another process goes on with it.
        """
        path = folder / NAME
        try:
            file = FileIO(path, "r+")
        except FileNotFoundError:
            raise SpecError(
                f"{folder} holds no study to go on with; leave --resume out, or give its folder "
                "with --out."
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from error
        journal = cls(file, path)
        try:
            journal._lock()
            lines, end = _whole_lines(file, path)
            journal._cut_off(end)
        except BaseException:
            file.close()
            raise
        first, *others = lines
        return journal, first, [line["trial"] for line in others if "trial" in line]

    def write(self, kind: str, fields: Mapping[str, Any], *, is_final: bool = True) -> None:
        """Append a line; the end of this process can't take it back.

        Args:
            kind: of the line.
            fields: what it says.
            is_final: a power cut can't either: it is on the disk when this returns, which takes
                milliseconds.

        Raises:
            StorageFull: it can't be written.
        """
        line = json.dumps({"kind": kind, **fields}, allow_nan=True, separators=(",", ":"))
        begin = self._file.tell()
        rest = line.encode() + b"\n"
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            if is_final:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # half a line is cut off when it is opened again
                self._cut_off(begin)
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Let others open it."""
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"Another process goes on with the study in {self.path.parent}; wait for its end."
            ) from None

    def _check_unbegun(self) -> None:
        content = self._file.read(_LONGEST_BEGINNING)
        if len(content) == _LONGEST_BEGINNING or not _is_unbegun(content):
            raise Conflict(
                f"{self.path.parent} holds a study already; go on with it with --resume, or choose "
                "another folder with --out."
            )

    def _cut_off(self, end: int) -> None:
        """Go on after so many bytes; those that follow are gone."""
        self._file.seek(end)
        self._file.truncate()


def _is_unbegun(content: bytes) -> bool:
    """Whether it is nothing, or a beginning that was torn: a study that was never begun."""
    head = _BEGINNING.encode()
    torn = b"\n" not in content.rstrip(b"\0")
    return torn and (content.startswith(head) or head.startswith(content.rstrip(b"\0")))


def _whole_lines(file: FileIO, path: Path) -> tuple[list[Json], int]:
    """Every whole line, and where the last one ends; what is torn can only be after it."""
    lines: list[Json] = []
    end = 0
    damaged: int | None = None
    for number, line in enumerate(BytesIO(file.readall()), 1):
        found = _parsed(line)
        if number == 1 and found is None and _is_unbegun(line):
            break
        if number == 1 and (found is None or not _is_of_a_study(found)):
            raise SpecError(
                f"{path} is no study's journal; leave --resume out, or give a study's folder with "
                "--out."
            )
        if found is None:
            damaged = damaged or number
            continue
        if damaged is not None:
            raise SpecError(
                f"Line {damaged} of {path} is damaged, and whole ones follow it; delete that line "
                "to go on without what it says, or begin in another folder with --out."
            )
        end += len(line)
        lines.append(found)
    if not lines:
        raise SpecError(f"The study in {path.parent} was never begun; leave --resume out.")
    return lines, end


def _parsed(line: bytes) -> Json | None:
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_of_a_study(first: Json) -> bool:
    return first.get("kind") == "study" and first.get("format") == FORMAT


def _keep_name(folder: Path) -> None:
    """A new file's name outlasts a power cut only when its folder is on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _unwritable(path: Path, error: OSError) -> StorageFull:
    return StorageFull(
        f"{path} can't be written ({error.strerror}); choose a folder with --out that has room."
    )
