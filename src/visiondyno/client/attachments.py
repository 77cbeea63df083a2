"""Local files on their way to workers that don't see them: packed, uploaded once, attached."""

import base64
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from visiondyno.client.archive import size_bytes, status_of, write_archive
from visiondyno.client.client import Client
from visiondyno.client.data_files import ELSEWHERE, FilesOfReference, data_files, files_of_model
from visiondyno.errors import DatasetError, ModelError, StorageFull, TooLarge
from visiondyno.job import JobEvent, JobState
from visiondyno.runtimes.references import MODEL_SUFFIXES, expanded, resolve_reference
from visiondyno.specs.attachments import (
    FIELD,
    LARGEST_BYTES,
    MOST_FILES,
    Kind,
    with_references,
)

Json = dict[str, Any]
OnProgress = Callable[[Json], None]

INLINE_BYTES = 5_000_000
"""Attachments whose base64 is no longer, all together, travel inside the job."""

_REQUEST_BYTES = 8_000_000
"""Of a job's whole input; RunPod takes 10 MB."""
_TOLD_EVERY_BYTES = 10_000_000
_SPLIT = re.compile(r"[A-Za-z0-9_.-]+")


def ignore_progress(_: Json) -> None:
    """Nobody listens."""


def as_progress_of(on_event: Callable[[JobEvent], None]) -> OnProgress:
    """Tells a listener to events what is done before there is a job: event 0 of none."""

    def tell(progress: Json) -> None:
        event = JobEvent(job_id="", number=0, state=JobState.IN_QUEUE, progress=progress)
        on_event(event)

    return tell


def attach(
    job_input: Mapping[str, Any],
    client: Client,
    on_progress: OnProgress = ignore_progress,
    inline_bytes: int = INLINE_BYTES,
) -> Json:
    """The job's input, with the files of this machine that it names: `Attaching.attach`, once."""
    return Attaching(client).attach(job_input, on_progress, inline_bytes)


class Attaching:
    """Sends what a client's jobs name: each content once.

    Archives that were made before are known by their files' names, sizes, times and inodes, so that
    a later job of the same files neither reads nor packs them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def attach(
        self,
        job_input: Mapping[str, Any],
        on_progress: OnProgress = ignore_progress,
        inline_bytes: int = INLINE_BYTES,
    ) -> Json:
        """The job's input, with the files of this machine that it names.

        References to models and data that are paths here become attachments, where the client's
        workers are elsewhere; see `visiondyno.specs.attachments`. For workers of this machine they
        become absolute; in this process they stay. Names of built-in things and blobs stay anyway.

        Args:
            job_input: of any operation.
            on_progress: told `stage`, and `done` and `total` in bytes.
            inline_bytes: so much base64 travels inside the job; what is more, as blobs.

        Raises:
            ModelError, DatasetError, SpecError: a file can't be read or sent.
            TooLarge: the files are more than is sent.
            StorageFull, TransportDown: there is no room to pack or store them, or the store can't
                be reached.
            SpecError: client and workers share no store of blobs, and one is needed.
        """
        place = self._client.place
        if place.where == "inline":
            return dict(job_input)
        found = _LocalReferences()
        absolute = with_references(dict(job_input), found.absolute)
        if not place.is_remote:
            return dict(absolute)
        found.check_models()
        bundles = {name: _files(name, local) for name, local in found.all.items()}
        if not bundles:
            return dict(job_input)
        _check_size(bundles)
        room = min(inline_bytes, _REQUEST_BYTES - len(json.dumps(job_input)))
        return {**job_input, FIELD: self._sent(bundles, on_progress, room)}

    def _sent(
        self, bundles: dict[str, FilesOfReference], on_progress: OnProgress, room: int
    ) -> Json:
        sent: Json = {}
        for name, files in sorted(bundles.items(), key=lambda item: _total_bytes(item[1])):
            sending = _Sending(name, files, self._client, on_progress)
            if sending.base64_bytes <= room:
                archive = sending.inline()
                room -= len(archive)
            else:
                archive = self._as_blob(sending)
            sent[name] = {"archive": archive, "path": files.path}
        return sent

    def _as_blob(self, sending: "_Sending") -> str:
        known = self._known.get(sending.fingerprint)
        if known is None or not self._client.has_blob(known):
            known = self._known[sending.fingerprint] = sending.uploaded()
        return known


@dataclass(frozen=True)
class _Local:
    """What is on this machine.

    Attributes:
        runtime: the `RUNTIME:` that stands before a model.
        splits: of data that the job names, None for a reference without one.
    """

    kind: Kind
    path: Path
    runtime: str
    splits: frozenset[str | None] = frozenset()


class _LocalReferences:
    """Those of a job's references that are paths on this machine.

    Attributes:
        all: of each as the user wrote it, without a `:SPLIT` of data or a `RUNTIME:` of models.
    """

    def __init__(self) -> None:
        self.all: dict[str, _Local] = {}
        self._models: list[str] = []

    def check_models(self) -> None:
        """Refuse a job none of whose models is anywhere: a worker is paid to find that out.

        Raises:
            ModelError: says which files are meant.
        """
        missing = [name for name in self._models if _is_missing_file(name)]
        if missing and len(missing) == len(self._models):
            resolve_reference(missing[0])

    def absolute(self, kind: Kind, reference: str) -> str:
        """The reference with an absolute path, where it is one; notes it."""
        if kind == "model":
            self._models.append(reference)
        for before, name, after in _forms(kind, reference):
            path = expanded(name)
            if _exists(path):
                known = self.all.get(name) or _Local(kind, path, before)
                splits = known.splits | {after.removeprefix(":") or None}
                self.all[name] = replace(known, splits=splits)
                return before + os.path.abspath(path) + after  # noqa: PTH100 - links keep names
        return reference


def _forms(kind: Kind, reference: str) -> list[tuple[str, str, str]]:
    """What of a reference may be a path, and what stands around it, in the order they are tried."""
    if not reference.strip() or reference.startswith("sha256:"):
        return []
    if kind == "model":
        return [("", reference, ""), *_behind_runtime(reference)]
    from visiondyno.datasets.registry import builtin_dataset

    if builtin_dataset(reference) is not None:
        return []
    stem, colon, last = reference.rpartition(":")
    has_split = colon and stem.strip() and _SPLIT.fullmatch(last)
    split = [("", stem, f":{last}")] if has_split else []
    return [("", reference, ""), *split]


def _behind_runtime(reference: str) -> list[tuple[str, str, str]]:
    """The path of `RUNTIME:PATH`, where it is one on this machine."""
    try:
        resolved = resolve_reference(reference)
    except ModelError:
        return []  # the worker says so, beside the job's other models
    if resolved.path is None or not resolved.name or resolved.runtime == "onnx":
        return []
    return [(reference.removesuffix(resolved.name), resolved.name, "")]


def _is_missing_file(reference: str) -> bool:
    """Whether it is a file's name that means one here, and there is none.

    An absolute one may be on the workers.
    """
    path = Path(reference)
    is_file = path.suffix.lower() in MODEL_SUFFIXES and ":" not in reference
    return is_file and not path.is_absolute() and not _exists(expanded(reference))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _files(name: str, local: _Local) -> FilesOfReference:
    if local.kind == "data":
        return data_files(local.path, local.splits)
    return files_of_model(resolve_reference(f"{local.runtime}{name}"))


def _total_bytes(files: FilesOfReference) -> int:
    return sum(size_bytes(member) for member in files.members.values())


def _check_size(bundles: Mapping[str, FilesOfReference]) -> None:
    for name, files in bundles.items():
        if len(files.members) > MOST_FILES:
            raise DatasetError(
                f"{name} has {len(files.members):,} files, and {MOST_FILES:,} at most are sent. "
                f"{ELSEWHERE}"
            )
    total_bytes = sum(map(_total_bytes, bundles.values()))
    if total_bytes > LARGEST_BYTES:
        raise TooLarge(
            f"{', '.join(sorted(bundles))} have {total_bytes / 1e9:.1f} GB, and "
            f"{LARGEST_BYTES / 1e9:g} GB at most are sent with a job. {ELSEWHERE}"
        )


@dataclass
class _Sending:
    """One reference's archive."""

    name: str
    files: FilesOfReference
    client: Client
    on_progress: OnProgress

    @property
    def base64_bytes(self) -> int:
        """What it takes inside a job at least; the archive has names and a list too."""
        return _total_bytes(self.files) * 4 // 3 + 300 * len(self.files.members)

    @property
    def fingerprint(self) -> str:
        """Differs where a file was changed."""
        total = hashlib.sha256()
        for name, member in sorted(self.files.members.items()):
            facts: Any = member
            if isinstance(member, Path):
                status = status_of(member)
                facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            total.update(repr((name, str(member) if facts is not member else "", facts)).encode())
        return total.hexdigest()

    def inline(self) -> str:
        """The archive as base64."""
        with tempfile.TemporaryFile() as file:
            self._pack(file)
            file.seek(0)
            return base64.b64encode(file.read()).decode()

    def uploaded(self) -> str:
        """The archive's name among the blobs, where it is now."""
        with tempfile.NamedTemporaryFile(prefix="visiondyno-") as file:
            reference = f"sha256:{self._pack(file)}"
            file.flush()
            if not self.client.has_blob(reference):
                size = Path(file.name).stat().st_size
                self.client.put_file(Path(file.name), self._tell("uploading", size))
        return reference

    def _pack(self, file: IO[bytes]) -> str:
        tell = self._tell("packing", _total_bytes(self.files))
        try:
            return write_archive(file, self.files.members, tell)
        except OSError as error:
            raise StorageFull(
                f"{self.name} can't be packed in {tempfile.gettempdir()} ({error.strerror}); make "
                "room there, or set TMPDIR to a folder that has some."
            ) from error

    def _tell(self, what: str, total_bytes: int) -> Callable[[int], None]:
        stage = f"{what} {self.name}"
        told_bytes = -_TOLD_EVERY_BYTES

        def tell(done_bytes: int) -> None:
            nonlocal told_bytes
            if done_bytes - told_bytes >= _TOLD_EVERY_BYTES or done_bytes == total_bytes:
                told_bytes = done_bytes
                done = {"done": done_bytes, "total": total_bytes, "unit": "bytes"}
                self.on_progress({"stage": stage, **done})

        return tell
