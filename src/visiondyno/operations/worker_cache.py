"""Files that a worker keeps to save time: decoded states, prepared data, checkpoints."""

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from visiondyno.blobs.streams import disk_errors
from visiondyno.errors import SpecError, StorageFull

Piece = bytes | bytearray | memoryview

_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+=-]{0,199}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_POLL_S = 0.05
_KEPT_FREE_SHARE = 0.05
_KEPT_FREE_BYTES = 2_000_000_000


class WorkerCache:
    """Files and folders by kind and key; the least recently used go first, over all kinds.

    It gives way to everything else on its disk: as long as it has something to evict, 5 % of the
    disk stay free, or 2 GB where that is less.

    All workers of a home share one, at the same time. A file is there entirely or not at all,
    whenever its writer is killed; what a dead writer left is removed when the cache is next
    opened. Only a power cut may leave a file shorter than it was: readers check what they read.

    A path that was given out may be evicted at any later moment. Who has the file open, or mapped
    into memory, reads it to its end; who comes too late finds it missing and does without. A folder
    that is held (`hold`) stays until nobody holds it, also where that is more than may be kept.

    A file is `entries/KIND/KEY`. A folder is `entries/KIND/KEY/content`, with its length beside
    it. The modification time of `KEY` is the last use. Writers fill a folder of their own in
    `partial/`, locked (flock) while they live, and rename. `lock` is held shared to use an entry
    and exclusively to put or evict one; never while bytes are written. Who holds a folder has it
    locked, shared, under `lock`: the system lets go for who dies.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        disk: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
    ) -> None:
        """Open the cache, making it if there's none.

        Args:
            folder: its place; nothing else may be in it.
            max_bytes: what it may hold, beside the entry that was put last.
            now_ns: nanoseconds since the epoch, for times of use.
            disk: bytes of the disk that holds a folder: all, used, and free.

        Raises:
            StorageFull, TransportDown: the folder can't be made or written.
        """
        self.folder = folder.expanduser().resolve()
        self.max_bytes = max_bytes
        self._now_ns = now_ns
        self._disk = disk
        self._entries = self.folder / "entries"
        self._partial = self.folder / "partial"
        with disk_errors(self.folder):
            for part in (self._entries, self._partial, self.folder / "locks"):
                part.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("ab"):
                pass
            self._remove_leftovers()

    def get(self, kind: str, key: str) -> Path | None:
        """The file or folder, which counts as a use; None if it isn't here.

        Raises:
            SpecError: no such name is possible.
        """
        entry = self._place(kind, key)
        now_ns = self._now_ns()
        with self._locked(fcntl.LOCK_SH):
            try:
                os.utime(entry, ns=(now_ns, now_ns))
            except FileNotFoundError:
                return None
            return entry / "content" if entry.is_dir() else entry

    def read(self, kind: str, key: str) -> bytes | None:
        """The bytes of a file, which counts as a use; None if it isn't here."""
        path = self.get(kind, key)
        if path is None:
            return None
        with disk_errors(self.folder), suppress(FileNotFoundError):  # evicted just now
            return path.read_bytes()
        return None

    def put(self, kind: str, key: str, data: Piece | Iterable[Piece]) -> Path:
        """Keep a file in place of what was there, and evict others until all fit.

        Args:
            kind: what it is one of.
            key: its name among them.
            data: its bytes, whole or in pieces; what the iteration raises is passed on, and
                nothing changes.

        Raises:
            SpecError: no such name is possible.
            StorageFull: there is no room on the disk; what is kept is intact.
        """
        target = self._place(kind, key)
        pieces = (data,) if isinstance(data, Piece) else data
        with self._work_folder() as work:
            entry = work / "entry"
            with disk_errors(self.folder):
                file = entry.open("xb", buffering=0)
            with file:
                for piece in pieces:
                    rest = memoryview(piece)
                    with disk_errors(self.folder):
                        while rest.nbytes:
                            rest = rest[file.write(rest) :]
            self._adopt(work, target)
        return target

    def make(
        self,
        kind: str,
        key: str,
        write: Callable[[Path], None],
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Path:
        """The folder, made by `write` if it isn't here: once, whoever else asks meanwhile.

        Args:
            kind: what it is one of.
            key: its name among them; says everything that the content depends on.
            write: fills the empty folder it is given; what it raises is passed on, and nothing
                is kept. The folder is elsewhere afterwards: open no file in it for later.
            while_waiting: called about twenty times a second while another makes the same; what
                it raises ends the wait.

        Raises:
            SpecError: no such name is possible.
            StorageFull: there is no room on the disk; what is kept is intact.
        """

        def fill(entry: Path) -> None:
            content = entry / "content"
            content.mkdir(parents=True)
            write(content)
            (entry / "bytes").write_text(str(_walked_bytes(content)))

        self._make_once(kind, key, fill, while_waiting)
        return self._place(kind, key) / "content"

    def make_file(
        self,
        kind: str,
        key: str,
        pieces: Callable[[], Iterable[Piece]],
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Path:
        """As `make`, for a file: its bytes are what `pieces` gives."""

        def fill(entry: Path) -> None:
            with entry.open("xb") as file:
                for piece in pieces():
                    file.write(piece)

        self._make_once(kind, key, fill, while_waiting)
        return self._place(kind, key)

    @contextmanager
    def hold(self, kind: str, key: str) -> Iterator[Path | None]:
        """The folder, which isn't evicted as long as the context lasts; None if it isn't here.

        Raises:
            SpecError: no such name is possible.
        """
        held = None
        with self._locked(fcntl.LOCK_SH):
            content = self.get(kind, key)
            if content is not None and content.name == "content":
                held = os.open(content.parent, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(held, fcntl.LOCK_SH)
        try:
            yield None if held is None else content
        finally:
            if held is not None:
                os.close(held)

    def size_bytes(self, kind: str, key: str) -> int:
        """What is in a folder that somebody holds."""
        return _folder_bytes(self._place(kind, key))

    def recount(self, kind: str, key: str) -> None:
        """Take note of what is in a folder now; for whoever holds it and writes there."""
        entry = self._place(kind, key)
        (entry / "bytes").write_text(str(_walked_bytes(entry / "content")))

    def drop(self, kind: str, key: str) -> None:
        """Remove it, if it is here and nobody holds it.

        Raises:
            SpecError: no such name is possible.
        """
        entry = self._place(kind, key)
        with self._work_folder() as work, self._locked(fcntl.LOCK_EX):
            _remove(entry, work)

    def _place(self, kind: str, key: str) -> Path:
        for name, what, pattern in ((kind, "kind", _KIND), (key, "key", _KEY)):
            if not pattern.fullmatch(name):
                raise SpecError(
                    f"{name[:80]!r} can't be the {what} of something a worker keeps: up to 200 "
                    "letters, digits and '_.:+=-' are taken, a letter or digit first. Rename it"
                )
        return self._entries / kind / key

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        # Opened anew each time: flock is of an open file, and threads must exclude each other too.
        with disk_errors(self.folder), (self.folder / "lock").open("rb") as lock:
            fcntl.flock(lock, operation)
            yield

    @contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """An empty folder that is removed at the end, or later if this process dies."""
        with disk_errors(self.folder):
            work, held = self._new_work_folder()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            os.close(held)

    def _new_work_folder(self) -> tuple[Path, int]:
        while True:
            work = self._partial / secrets.token_hex(16)
            work.mkdir()
            # A process that started before the lock was ours took it for a leftover.
            with suppress(FileNotFoundError):
                held = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(held, fcntl.LOCK_EX)
                if work.is_dir():
                    return work, held
                os.close(held)

    def _remove_leftovers(self) -> None:
        for work in self._partial.iterdir():
            with suppress(FileNotFoundError):
                held = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(work, ignore_errors=True)
                except BlockingIOError:
                    pass
                finally:
                    os.close(held)
        for path in (self.folder / "locks").iterdir():
            with suppress(FileNotFoundError), path.open("rb") as lock:
                if _try_lock(lock.fileno()) and _is_file_at(lock.fileno(), path):
                    path.unlink()

    def _make_once(
        self,
        kind: str,
        key: str,
        fill: Callable[[Path], None],
        while_waiting: Callable[[], None],
    ) -> None:
        if self.get(kind, key) is not None:
            return
        with self._only_maker(kind, key, while_waiting):
            if self.get(kind, key) is not None:
                return
            with self._work_folder() as work:
                try:
                    fill(work / "entry")
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    raise StorageFull(
                        f"There is no room left in {self.folder} ({error.strerror}). What is kept "
                        "is intact; make room, then try again"
                    ) from error
                self._adopt(work, self._place(kind, key))

    @contextmanager
    def _only_maker(self, kind: str, key: str, while_waiting: Callable[[], None]) -> Iterator[None]:
        path = self.folder / "locks" / f"{kind}:{key}"
        while True:
            with disk_errors(self.folder):
                lock = path.open("ab")
            with lock:
                if not _try_lock(lock.fileno()):
                    while_waiting()
                    time.sleep(_POLL_S)
                    continue
                # Whoever held it before removed the file: then this lock is of nothing.
                if not _is_file_at(lock.fileno(), path):
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def _adopt(self, work: Path, target: Path) -> None:
        now_ns = self._now_ns()
        with self._locked(fcntl.LOCK_EX):
            target.parent.mkdir(exist_ok=True)
            os.utime(work / "entry", ns=(now_ns, now_ns))
            if target.is_dir() or (work / "entry").is_dir():
                _remove(target, work)
            (work / "entry").replace(target)
            self._evict(target, work)

    def _evict(self, newest: Path, work: Path) -> None:
        entries = [_Entry.of(path) for path in self._entries.glob("*/*")]
        kept_bytes = sum(entry.size_bytes for entry in entries)
        excess_bytes = max(kept_bytes - self.max_bytes, self._lacking_bytes())
        for entry in sorted(entries, key=lambda entry: (entry.used_ns, entry.path)):
            if excess_bytes <= 0:
                return
            if entry.path != newest and _remove(entry.path, work):
                excess_bytes -= entry.size_bytes

    def _lacking_bytes(self) -> int:
        """How much more of the disk should be free."""
        total_bytes, _, free_bytes = self._disk(self.folder)
        return min(_KEPT_FREE_BYTES, int(total_bytes * _KEPT_FREE_SHARE)) - free_bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    used_ns: int
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> "_Entry":
        status = path.stat()
        size_bytes = _folder_bytes(path) if path.is_dir() else status.st_size
        return cls(path, status.st_mtime_ns, size_bytes)


def _folder_bytes(entry: Path) -> int:
    try:
        return int((entry / "bytes").read_text())
    except (OSError, ValueError):  # a power cut came before it was on the disk
        return _walked_bytes(entry)


def _walked_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(entry: Path, work: Path) -> bool:
    """Take an entry away in one step; a folder's files go with the folder `work`.

    Returns:
        False where somebody holds it: it stays.
    """
    with suppress(FileNotFoundError):
        if not entry.is_dir():
            entry.unlink()
            return True
        folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _try_lock(folder):
                return False
            entry.rename(work / secrets.token_hex(8))
        finally:
            os.close(folder)
    return True


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
