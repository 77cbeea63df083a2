"""A published data set from its servers to a folder: found, downloaded, verified, unpacked."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from visiondyno.datasets.cache_folder import default_cache_dir, new_folder
from visiondyno.datasets.pull.archive import Selection, unpack
from visiondyno.datasets.pull.catalogue import (
    DownloadableDataset,
    SourceFile,
    data_folder,
    pulled_folder,
)
from visiondyno.datasets.pull.prepare import prepare
from visiondyno.downloading import Advice, Downloader
from visiondyno.errors import DatasetError
from visiondyno.whole_file import file_sha256, only_one

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes there so far, and in all where known."""

RECORD = "first-downloads.sha256"
"""Beside pulled data sets: SHA-256 of files for which none is published, from their first time."""

ADVICE = Advice(
    error=DatasetError,
    refused="Name a mirror with --url",
    unreachable="Try again later, name a mirror with --url, or put the file into the folder that "
    "VISIONDYNO_DATA names",
    no_room="Make room, or choose another folder with --dest",
)

_ABOUT = "PULLED.txt"
_MOST_TIMES_LARGER = 20
_SLACK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Pulled:
    """A data set that is on this machine.

    Attributes:
        folder: where.
        new: whether this call put it there.
        notes: what a user must know: where files came from, which checksums were only recorded.
    """

    folder: Path
    new: bool
    notes: tuple[str, ...]


def pull(
    dataset: DownloadableDataset,
    *,
    dest: Path | None = None,
    urls: Sequence[str] = (),
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
    downloader: Downloader | None = None,
) -> Pulled:
    """Put a published data set on this machine, unless it is there.

    It is looked for first, in the folder that `VISIONDYNO_DATA` names: as a folder of its name,
    or its files. The rest is downloaded, verified against its checksum, unpacked, and appears
    complete in one step. What an interruption left of a download is used by the next call. Calls
    at the same time wait for the one that works.

    Args:
        dataset: what to pull.
        dest: the folder appears in this one; None: in `datasets` of the cache.
        urls: addresses to use instead of those in the catalogue: one for each file, or one that
            ends in `/`, below which the files have the names that the catalogue says.
        cache_dir: `default_cache_dir()` if None.
        on_progress: called while downloading.
        downloader: what downloads; a new one if None.

    Raises:
        DatasetError: there's no such file, a checksum doesn't match, an archive is refused, or the
            folder can't be written.
        StorageFull: the disk has no room for a file.
        Unavailable: a server can't be reached or doesn't deliver.
    """
    sources = _sources(dataset, urls)
    shared = data_folder()
    if dest is None and shared is not None and (shared / dataset.name).is_dir():
        return Pulled(shared / dataset.name, new=False, notes=())
    target = (
        pulled_folder(dataset.name, cache_dir or default_cache_dir())
        if dest is None
        else dest / dataset.name
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_one(target), downloader or Downloader(ADVICE) as client:
            if target.is_dir():
                return Pulled(target, new=False, notes=())
            return _install(dataset, sources, target, client, on_progress)
    except OSError as error:
        raise DatasetError(
            f"{dataset.name} can't be written to '{target.parent}' ({error.strerror or error}). "
            "Choose a folder that can be written and has room, with --dest"
        ) from error


def _sources(dataset: DownloadableDataset, urls: Sequence[str]) -> list[tuple[SourceFile, str]]:
    """Each file with the address to use."""
    if not urls:
        return [(file, file.url) for file in dataset.files]
    if len(urls) == 1 and urls[0].endswith("/"):
        return [(file, urls[0] + file.name) for file in dataset.files]
    if len(urls) != len(dataset.files):
        names = ", ".join(file.name for file in dataset.files)
        raise DatasetError(
            f"{dataset.name} is {len(dataset.files)} files ({names}): name an address for each in "
            "that order, or one that ends in /"
        )
    return list(zip(dataset.files, urls, strict=True))


def _install(
    dataset: DownloadableDataset,
    sources: Sequence[tuple[SourceFile, str]],
    target: Path,
    client: Downloader,
    on_progress: Progress | None,
) -> Pulled:
    downloads = target.parent / f".{dataset.name}.downloads"
    downloads.mkdir(exist_ok=True)
    record = target.parent / RECORD
    files: list[_File] = []
    notes: list[str] = []
    for source, url in sources:
        found = _on_this_machine(source)
        if found is not None:
            notes.append(f"{source.name} was taken from {found.parent}")
            files.append(_File(source, str(found), found, file_sha256(found)))
            continue
        path = downloads / source.name
        if not path.is_file():
            _fetch(client, source, url, path, on_progress)
        files.append(_File(source, url, path, file_sha256(path)))
    recorded = _recorded(record)
    for file in files:
        _verify(file, recorded.get(f"{dataset.name}/{file.source.name}"), downloads, record)
    try:
        _make_folder(dataset, files, target)
    except DatasetError:
        # A file without a published checksum may be anything: the next call downloads it again.
        shutil.rmtree(downloads, ignore_errors=True)
        raise
    for file in files:
        key = f"{dataset.name}/{file.source.name}"
        if file.source.checksum is None and key not in recorded:
            with record.open("a", encoding="utf-8") as lines:
                lines.write(f"{file.sha256}  {key}\n")
            notes.append(
                f"No checksum of {file.source.name} is published: its SHA-256 {file.sha256} is "
                f"recorded in {record}, and later downloads must match it"
            )
    shutil.rmtree(downloads, ignore_errors=True)
    return Pulled(target, new=True, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class _File:
    source: SourceFile
    origin: str
    path: Path
    sha256: str


def _make_folder(dataset: DownloadableDataset, files: Sequence[_File], target: Path) -> None:
    with new_folder(target) as part:
        for file in files:
            _unpack(file.source, file.path, part)
        prepare(dataset, part)
        day = datetime.now(UTC).date().isoformat()
        about = [f"{dataset.name}, pulled on {day}", f"Terms: {dataset.terms}"]
        about += [
            f"{file.source.name}\n  from {file.origin}\n  sha256 {file.sha256}" for file in files
        ]
        (part / _ABOUT).write_text("\n".join(about) + "\n", "utf-8")


def _on_this_machine(source: SourceFile) -> Path | None:
    folder = data_folder()
    return folder / source.name if folder and (folder / source.name).is_file() else None


def _fetch(
    client: Downloader, source: SourceFile, url: str, path: Path, on_progress: Progress | None
) -> None:
    def told(done: int, total: int | None) -> None:
        if on_progress is not None:
            on_progress(source.name, done, total)

    most = 2 * source.about_bytes + _SLACK_BYTES
    client.fetch(url, path, most_bytes=most, on_progress=told)


def _verify(file: _File, recorded: str | None, downloads: Path, record: Path) -> None:
    """Compare a file with its checksum, published or recorded; nothing to compare is no error."""
    expected = file.source.checksum or recorded
    if expected is None:
        return
    algorithm, _, wanted = expected.partition(":")
    with file.path.open("rb") as opened:
        found = hashlib.file_digest(opened, algorithm).hexdigest()
    if found == wanted:
        return
    if file.path.parent == downloads:
        file.path.unlink()
        next_step = "The file was removed: pull again, or from another address with --url"
    else:
        next_step = "Remove or replace that file"
    if file.source.checksum is None:
        next_step += f". If its source changed it on purpose, remove its line in {record}"
    raise DatasetError(
        f"{file.path} isn't the file that was expected: its {algorithm.upper()} is {found}, not "
        f"{wanted}. {next_step}"
    )


def _recorded(record: Path) -> dict[str, str]:
    if not record.is_file():
        return {}
    lines = (line.split("  ", 1) for line in record.read_text("utf-8").splitlines())
    return {parts[1]: f"sha256:{parts[0]}" for parts in lines if len(parts) == 2}


def _unpack(source: SourceFile, path: Path, folder: Path) -> None:
    if source.unpack is None:
        shutil.copyfile(path, folder / source.name)
        return
    most = _MOST_TIMES_LARGER * source.about_bytes + _SLACK_BYTES
    unpack(path, source.unpack, folder, Selection(source.strip, source.keep, most))
