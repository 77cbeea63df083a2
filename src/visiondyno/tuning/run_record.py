"""What others than its own process know of a study: where its folder is, and whether it still runs.

A study's folder holds `run.json`, which tells of its last run. A home holds `studies/NAME.json`,
which points to the folder, and `studies/NAME.lock`, which the process that runs the study keeps
locked: the lock is gone as soon as that process is, however it ended.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from visiondyno.errors import StorageFull
from visiondyno.whole_file import write_whole

NAME = "run.json"
FORMAT = "visiondyno.study_run/1"
_NAMES = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class StudyRun:
    """The last run of a study.

    Attributes:
        title: of the study, in few words.
        where, endpoint, gpu, max_cost_usd, fallback: of its place; see `places.Place`. A key is
            never kept.
        workers: trials at once.
        objectives: names, each with its direction after a colon.
        began_at: seconds since the epoch.
        ended_at: None while it runs, and where its process was killed.
        stopped: why it ended before its last trial, in a sentence; None if it didn't.
    """

    title: str
    where: str
    workers: int
    objectives: tuple[str, ...]
    began_at: float
    endpoint: str | None = None
    gpu: str | None = None
    max_cost_usd: float | None = None
    fallback: str | None = None
    ended_at: float | None = None
    stopped: str | None = None

    def write(self, folder: Path) -> None:
        """Keep it in the study's folder.

        Raises:
            StorageFull: it can't be written.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"
        write_whole(folder / NAME, text.encode(), "What is known of the study's run")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of the study in `folder`; None where there is none that can be read."""
        found = _read(folder / NAME)
        if found is None or found.get("format") != FORMAT:
            return None
        known = {one.name for one in fields(cls)}
        given = {name: value for name, value in found.items() if name in known}
        try:
            return cls(**given | {"objectives": tuple(given["objectives"])})
        except (KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class KnownStudy:
    """A study that a home knows.

    Attributes:
        name: unique in the home.
        folder: of the study, absolute.
        is_running: whether a process runs it now.
    """

    name: str
    folder: Path
    is_running: bool


@contextmanager
def registered(home: Path, folder: Path) -> Iterator[str]:
    """Make the study in `folder` known to the home, as one that runs until this is left.

    Args:
        home: the settings' `folder`.
        folder: of the study.

    Yields:
        Its name in the home.

    Raises:
        StorageFull: the home can't be written.
    """
    folder = folder.resolve()
    name = _name_of(folder)
    studies = home / "studies"
    try:
        studies.mkdir(parents=True, exist_ok=True)
        lock = os.open(studies / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageFull(
            f"{studies} can't be written ({error.strerror}); set VISIONDYNO_HOME to a folder that "
            "may be written."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever looks holds it for an instant
        text = json.dumps({"format": FORMAT, "folder": str(folder)}) + "\n"
        write_whole(studies / f"{name}.json", text.encode(), "The study's address")
        yield name
    finally:
        os.close(lock)


def known_studies(home: Path) -> list[KnownStudy]:
    """Every study whose folder is still there, by name."""
    paths = sorted((home / "studies").glob("*.json"))
    found = (find_study(home, path.stem) for path in paths)
    return [study for study in found if study is not None]


def find_study(home: Path, name: str) -> KnownStudy | None:
    """The study of this name; None where the home knows none, or its folder is gone."""
    if not _NAMES.fullmatch(name):
        return None
    studies = home / "studies"
    pointer = _read(studies / f"{name}.json")
    if pointer is None or not isinstance(pointer.get("folder"), str):
        return None
    folder = Path(pointer["folder"])
    if not folder.is_dir():
        return None
    return KnownStudy(name, folder, _is_locked(studies / f"{name}.lock"))


def _name_of(folder: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-.")[:60] or "study"
    return f"{plain}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def _is_locked(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
