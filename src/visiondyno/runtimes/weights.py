"""Weights that a model's name stands for: where they are kept, and how they come here.

They lie in `weights/` of the cache folder, by the file names that their publishers gave them, and
beside each a record of what came from where. Loading a model never downloads: `fetch` does, before
anything is measured.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from visiondyno.errors import ModelError, SpecError, StorageFull, Unavailable
from visiondyno.runtimes.base import Progress
from visiondyno.whole_file import cache_folder, file_sha256, only_one, write_whole

OFFLINE = "VISIONDYNO_OFFLINE"
MIRROR = "VISIONDYNO_WEIGHTS_MIRROR"
"""Names the server to download from in place of each publisher's: `https://HOST` or
`https://HOST/FOLDER`, with the same paths below it."""

_INCOMING = ".incoming"
_LOOK_EVERY_S = 0.2
_SCHEMA = "visiondyno.weights/1"
_MOST_BYTES = 16 * 2**30

_checked: dict[Path, tuple[tuple[int, int, int], str]] = {}
"""SHA-256 of files that this process has read, each with its inode, size and time of change."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights as its publisher offers it.

    Attributes:
        url: where.
        name: of the file, as it is kept.
        sha256: hexadecimal, whole or only its beginning (torch names files by eight digits of it);
            None where the publisher tells none: what first came is then written down, and a later
            download that differs is refused.
        license: of the weights.
        most_bytes: a longer file isn't read.
    """

    url: str
    name: str
    sha256: str | None
    license: str | None = None
    most_bytes: int = _MOST_BYTES


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """Weights that were downloaded.

    Attributes:
        path: of the file.
        reference: that they were downloaded for.
        size_bytes: of the file.
        sha256: that they had when they came.
        license: of the weights, where it is known.
    """

    path: Path
    reference: str
    size_bytes: int
    sha256: str
    license: str | None


def weights_folder() -> Path:
    """Where they are kept: `weights` in VisionDyno's cache folder."""
    return cache_folder() / "weights"


def is_offline() -> bool:
    """Whether nothing may be downloaded: `--offline` or the environment says so."""
    return os.environ.get(OFFLINE, "").lower() not in {"", "0", "false", "no"}


def go_offline() -> None:
    """Download nothing from now on, in this process and those that it starts."""
    os.environ[OFFLINE] = "1"
    # Libraries of models have switches of their own, which they read when they are imported.
    os.environ["HF_HUB_OFFLINE"] = "1"


def refuse_offline(reference: str) -> NoReturn:
    """Says that weights aren't here, and that they may not be downloaded.

    Raises:
        Unavailable: always.
    """
    raise Unavailable(
        f"The weights of {reference} aren't on this machine, and nothing may be downloaded "
        f"(--offline or {OFFLINE}); fetch them where there is a connection, with: dyno models pull "
        f"{reference}"
    )


def missing(reference: str) -> ModelError:
    """What a load raises where weights aren't here: names the command that fetches them."""
    return ModelError(
        f"The weights of {reference} aren't on this machine; fetch them with: dyno models pull "
        f"{reference}"
    )


def find_weights(file: WeightsFile, reference: str) -> Path:
    """The file as it lies here.

    Raises:
        ModelError: it isn't here; names the command that fetches it.
    """
    path = _place(file)
    if not path.is_file():
        raise missing(reference)
    return path


def verify(file: WeightsFile, reference: str) -> str:
    """Read the file that is here, and compare it with what is known of it.

    That is the publisher's SHA-256, else the one of the first download; a file that somebody put
    here by hand and whose publisher tells none is taken as it is.

    Returns:
        `sha256:…` of the file.

    Raises:
        ModelError: it isn't here, or isn't as it was published or downloaded.
    """
    path = find_weights(file, reference)
    found = _digest(path)
    wanted = _expected(file)
    if wanted is not None and not found.startswith(wanted):
        raise ModelError(
            f"{path} isn't what was published or first downloaded for {reference}: its SHA-256 "
            f"begins with {found[:16]}, not with {wanted[:16]}. Download it again with: dyno "
            f"models pull {reference}"
        )
    return f"sha256:{found}"


def fetch_weights(
    file: WeightsFile,
    reference: str,
    on_progress: Progress | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The file, downloaded unless it is here undamaged.

    It appears complete and verified in one step, after its record. What an interruption left is
    used by the next call; calls at the same time wait for the one that downloads.

    Args:
        file: which, and where it is published.
        reference: that it is needed for, for messages and the record.
        on_progress: told while it comes, here or by another process.
        sleep: waits between attempts; seconds.

    Raises:
        ModelError: there is nothing at its address, it is too long, or its SHA-256 isn't the
            published one, or that of the first download from this address.
        SpecError: the mirror isn't an address.
        StorageFull: the disk has no room, or the folder can't be written.
        Unavailable: the server can't be reached, or `VISIONDYNO_OFFLINE` is set.
    """
    path = _place(file)
    if _is_intact(path, file):
        return path
    if is_offline():
        refuse_offline(reference)
    url = _mirrored(file.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_one(path, partial(_wait, path, on_progress, sleep)):
            if not _is_intact(path, file):
                came = _download(file, url, path, on_progress, sleep)
                _take(file, came, path, reference)
    except OSError as error:
        raise StorageFull(
            f"The weights of {reference} can't be written to {path.parent} "
            f"({error.strerror or error}). Make room there, or name another cache folder with "
            "XDG_CACHE_HOME."
        ) from error
    return path


def kept_weights() -> tuple[KeptWeights, ...]:
    """What was downloaded and is still here, by reference."""
    folder = weights_folder()
    found = []
    for path in folder.glob("*.json") if folder.is_dir() else ():
        record = _read_record(path)
        file = path.with_suffix("")
        if record is not None and file.is_file():
            said = record.get("reference"), record.get("sha256"), record.get("license")
            reference, sha256, license_ = (None if one is None else str(one) for one in said)
            size_bytes = file.stat().st_size
            found.append(KeptWeights(file, reference or "", size_bytes, sha256 or "", license_))
    return tuple(sorted(found, key=lambda one: (one.reference, one.path)))


def _place(file: WeightsFile) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", file.name):
        raise ModelError(f"'{file.name:.100}' isn't the name of a file of weights.")
    return weights_folder() / file.name


def _digest(path: Path) -> str:
    """SHA-256 of a file; read once a process unless it changes."""
    stat = path.stat()
    stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    kept = _checked.get(path)
    if kept is None or kept[0] != stamp:
        kept = _checked[path] = (stamp, file_sha256(path))
    return kept[1]


def _expected(file: WeightsFile) -> str | None:
    """The SHA-256 or its beginning; None where neither publisher nor an earlier download says it.

    What was recorded counts for its own address only: at another the publisher has another version.
    """
    if file.sha256:
        return file.sha256.lower()
    record = _read_record(_record_path(_place(file)))
    return record["sha256"] if record is not None and record.get("url") == file.url else None


def _is_intact(path: Path, file: WeightsFile) -> bool:
    if not path.is_file():
        return False
    wanted = _expected(file)
    return wanted is None or _digest(path).startswith(wanted)


def _mirrored(url: str) -> str:
    mirror = os.environ.get(MIRROR, "").strip().rstrip("/")
    if not mirror:
        return url
    if not re.match(r"https?://[^/]", mirror):
        raise SpecError(f"{MIRROR} isn't an address: https://HOST or https://HOST/FOLDER.")
    parts = urlsplit(url)
    return mirror + parts.path + (f"?{parts.query}" if parts.query else "")


def _wait(path: Path, on_progress: Progress | None, sleep: Callable[[float], None]) -> None:
    """Tell how far another's download is."""
    from visiondyno.downloading import downloaded_bytes

    if on_progress is not None:
        on_progress(path.name, downloaded_bytes(_incoming(path)), None)
    sleep(_LOOK_EVERY_S)


def _incoming(path: Path) -> Path:
    return path.parent / _INCOMING / path.name


def _download(
    file: WeightsFile,
    url: str,
    path: Path,
    on_progress: Progress | None,
    sleep: Callable[[float], None],
) -> Path:
    """Where the file lies once it has come, unverified."""
    # Whoever only loads models doesn't pay for what downloads them.
    from visiondyno.downloading import Advice, Downloader

    elsewhere = f"name a mirror with {MIRROR}, or put the file into {path.parent} yourself"
    advice = Advice(
        error=ModelError,
        refused=f"{elsewhere[0].upper()}{elsewhere[1:]}.",
        unreachable=f"Try again later, {elsewhere}.",
        no_room="Make room, or name another cache folder with XDG_CACHE_HOME.",
    )

    def told(done: int, total: int | None) -> None:
        if on_progress is not None:
            on_progress(file.name, done, total)

    came = _incoming(path)
    came.parent.mkdir(exist_ok=True)
    with Downloader(advice, sleep=sleep) as downloader:
        downloader.fetch(url, came, most_bytes=file.most_bytes, on_progress=told)
    return came


def _take(file: WeightsFile, came: Path, path: Path, reference: str) -> None:
    """Verify what came, write down what it is, and put it where weights are kept."""
    sha256 = file_sha256(came)
    wanted = _expected(file)
    if wanted is not None and not sha256.startswith(wanted):
        came.unlink()
        raise _another_file(file, path, reference, sha256, wanted)
    record = {
        "schema": _SCHEMA,
        "reference": reference,
        "url": file.url,
        "sha256": sha256,
        "size_bytes": came.stat().st_size,
        "license": file.license,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    data = json.dumps(record, indent=1).encode()
    write_whole(_record_path(path), data, f"The record of {file.name}")
    came.replace(path)


def _another_file(
    file: WeightsFile, path: Path, reference: str, found: str, wanted: str
) -> ModelError:
    said = f"What came for {reference} isn't the file that was expected: its SHA-256 is {found}"
    if file.sha256:
        return ModelError(
            f"{said}, and the published one begins with {wanted[:16]}. It was thrown away; pull it "
            f"again, and look at {MIRROR} if that is set."
        )
    return ModelError(
        f"{said}, and that of the first download was {wanted}. It was thrown away; if its "
        f"publisher replaced it on purpose, remove {_record_path(path)} and pull it again."
    )


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> Mapping[str, Any] | None:
    """A record; None where there is none, or what is there isn't one."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    is_record = isinstance(record, dict) and record.get("schema") == _SCHEMA
    return record if is_record and isinstance(record.get("sha256"), str) else None
