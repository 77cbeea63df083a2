"""The file that a study goes on from: one JSON object a line, appended, never changed."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from visiondyno.errors import Conflict, SpecError, StorageFull

NAME = "study.jsonl"
FORMAT = "visiondyno.study/1"

Json = dict[str, Any]


class Journal:
    """What is known of a study's trials, in the order in which it became known.

    A line that was half written when the process was killed is dropped when the file is opened
    again; whatever was written before it is whole. While it is open, no other process opens it.
    """

    def __init__(self, file: IO[bytes], path: Path) -> None:
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
            file = path.open("xb")
        except FileExistsError:
            raise Conflict(
                f"{folder} holds a study already; go on with it with --resume, or choose another "
                "folder with --out."
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from error
        journal = cls(file, path)
        journal._lock()
        journal.write("study", {"format": FORMAT, **study})
        return journal

    @classmethod
    def go_on(cls, folder: Path) -> tuple[Self, Json, list[Json]]:
        """The journal in `folder`, what its study was asked, and its trials as they were told.

        Raises:
            SpecError: there is none, or it is no journal of ours.
            Conflict: another process goes on with it.
        """
        path = folder / NAME
        try:
            file = path.open("r+b")
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
            lines = list(journal._whole_lines())
            first = _checked(lines[0] if lines else {}, path)
        except BaseException:
            file.close()
            raise
        return journal, first, [line["trial"] for line in lines if line.get("kind") == "trial"]

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
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            if is_final:
                os.fdatasync(self._file.fileno())
        except OSError as error:
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

    def _whole_lines(self) -> Iterator[Json]:
        """Every line that is JSON; the file is cut off after the last, and goes on there."""
        end = 0
        for line in self._file:
            try:
                found = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(found, dict):
                break
            end += len(line)
            yield found
        self._file.seek(end)
        self._file.truncate()


def _checked(first: Json, path: Path) -> Json:
    if first.get("kind") != "study" or first.get("format") != FORMAT:
        raise SpecError(f"{path} is no study's journal; choose another folder with --out.")
    return first


def _unwritable(path: Path, error: OSError) -> StorageFull:
    return StorageFull(
        f"{path} can't be written ({error.strerror}); choose a folder with --out that has room."
    )
