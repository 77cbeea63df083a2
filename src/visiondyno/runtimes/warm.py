"""Models that stay loaded between jobs: least recently used first out, counted in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import (
    Cancelled,
    ClassMismatch,
    DatasetError,
    SpecError,
    TimeLimitExceeded,
)
from visiondyno.runtimes.base import Device, LoadedModel, LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.model_files import model_files
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.registry import load_model

Announce = Callable[[bool], None]
"""Told before a model is opened whether it is warm; what it raises passes through."""

_Key = tuple[str, Path | None, LoadOptions]
_Stamp = tuple[int, int, int] | None

_NOT_THE_MODELS = (Cancelled, TimeLimitExceeded, ClassMismatch, DatasetError, SpecError)
"""Errors that end a use of a model without a doubt about the model."""


@dataclass(slots=True)
class _Entry:
    """A loaded model; `stamps` of its files from when it was loaded."""

    key: _Key
    model: LoadedModel
    stamps: dict[Path, _Stamp]
    size_bytes: int


class WarmModels:
    """Keeps models loaded after their use, together at most `capacity_bytes`.

    A model counts as the memory in use after its first use less that before it was loaded, at
    least its file's size. A multiple of the file's size would say little: of five small detectors
    the rise was 4 to 28 times the file, most of it the runtime's workspace. The rise errs upwards
    for the process's first model (the libraries' own start is in it), downwards where a model
    took over memory that an evicted one left. Where memory can't be read, a model counts as the
    whole capacity and is kept alone.

    A model is loaded anew when one of its files (the model or what its folder holds, its card, its
    external weights) has
    another inode, size or time of change than when it was loaded. It isn't kept if it alone
    exceeds the capacity, or if its use ended in an error that may be the model's. Of the
    models with a limit of GPU memory only one is kept, because each session may use the whole
    limit; it counts as its file's size: the limit bounds it, and what the GPU has in use is other
    processes' too.

    Thread safety: any method from any thread. A model in use is out of reach of eviction and of
    other users: whoever opens the same one meanwhile gets a copy of their own.
    """

    def __init__(
        self,
        capacity_bytes: int,
        used_bytes: Callable[[Device], int | None],
        load: Callable[[str, LoadOptions], LoadedModel] = load_model,
    ) -> None:
        """`used_bytes` tells the memory now in use for models of a device; None: unknown."""
        self._capacity_bytes = capacity_bytes
        self._used_bytes = used_bytes
        self._load = load
        self._kept: OrderedDict[_Key, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """What the kept models count together; those in use aren't in it."""
        with self._lock:
            return sum(entry.size_bytes for entry in self._kept.values())

    @contextmanager
    def open(
        self, reference: str, options: LoadOptions, announce: Announce = lambda _: None
    ) -> Iterator[LoadedModel]:
        """The model, ready to run, for as long as the context lasts; don't close it.

        Raises:
            ModelError: it can't be found, read, understood or run.
            SpecError: an option is wrong.
            Unavailable: the device isn't here.
        """
        key = (reference, resolve_reference(reference).path, options)
        entry = self._take(key)
        before_bytes = self._used_bytes(options.device)
        was_kept = entry is not None
        is_sound = False
        try:
            announce(was_kept)
            if entry is None:
                entry = self._load_cold(key)
            yield entry.model
            is_sound = True
        except _NOT_THE_MODELS:
            is_sound = True
            raise
        finally:
            if entry is not None and not is_sound:
                entry.model.close()
            elif entry is not None:
                if not was_kept:
                    entry.size_bytes = self._size(entry, before_bytes)
                self._keep(entry)

    def close(self) -> None:
        """Close every kept model, and keep none from now on."""
        with self._lock:
            self._closed = True
            entries = list(self._kept.values())
            self._kept.clear()
        for entry in entries:
            entry.model.close()

    def _take(self, key: _Key) -> _Entry | None:
        """The kept model of `key`, no longer among the kept; None if there is none as on disk."""
        with self._lock:
            entry = self._kept.pop(key, None)
        if entry is None:
            return None
        if all(_stamp(path) == stamp for path, stamp in entry.stamps.items()):
            return entry
        entry.model.close()
        return None

    def _load_cold(self, key: _Key) -> _Entry:
        reference, path, options = key
        stamps = _stamps(reference, path)
        # What is no file has a size too, of its list: a few kB that don't matter.
        self._make_room(sum(stamp[1] for stamp in stamps.values() if stamp), options)
        model = self._load(reference, options)
        for external in model.files:
            stamps.setdefault(external, _stamp(external))
        return _Entry(key, model, stamps, model.description.file_bytes)

    def _size(self, entry: _Entry, before_bytes: int | None) -> int:
        if entry.key[2].gpu_memory_limit_bytes is not None:
            return entry.model.description.file_bytes
        now_bytes = self._used_bytes(entry.key[2].device)
        if before_bytes is None or now_bytes is None:
            return self._capacity_bytes
        return max(entry.model.description.file_bytes, now_bytes - before_bytes)

    def _keep(self, entry: _Entry) -> None:
        self._make_room(entry.size_bytes, entry.key[2])
        with self._lock:
            fits = entry.size_bytes <= self._capacity_bytes and not self._closed
            replaced = self._kept.pop(entry.key, None)
            if fits:
                self._kept[entry.key] = entry
        for one in (replaced, None if fits else entry):
            if one is not None:
                one.model.close()

    def _make_room(self, needed_bytes: int, options: LoadOptions) -> None:
        """Close the least recently used until `needed_bytes` more fit, or none is left."""
        evicted = []
        with self._lock:
            if options.gpu_memory_limit_bytes is not None:
                limited = [key for key in self._kept if key[2].gpu_memory_limit_bytes is not None]
                evicted += [self._kept.pop(key) for key in limited]
            used_bytes = sum(entry.size_bytes for entry in self._kept.values())
            while self._kept and used_bytes + needed_bytes > self._capacity_bytes:
                _, entry = self._kept.popitem(last=False)
                used_bytes -= entry.size_bytes
                evicted.append(entry)
        for entry in evicted:
            entry.model.close()


def _stamps(reference: str, path: Path | None) -> dict[Path, _Stamp]:
    """Of what can be told of the model's files without reading it; its card may come later."""
    if path is None:
        return {}
    files = model_files(resolve_reference(reference), is_deep=False)
    members = [] if files is None else files.members.values()
    return {one: _stamp(one) for one in (path, card_path(path), *members)}


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
