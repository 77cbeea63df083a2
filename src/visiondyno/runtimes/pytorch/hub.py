"""Models of the Hugging Face Hub: files of a repository, in the hub's own cache on this machine.

`HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_TOKEN` and the like mean what they mean to `huggingface_hub`.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from visiondyno.errors import MissingExtra, ModelError, Unavailable
from visiondyno.runtimes.base import Progress
from visiondyno.runtimes.pytorch.module import reason
from visiondyno.runtimes.weights import is_offline, missing, refuse_offline
from visiondyno.whole_file import file_sha256

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?:@[\w./-]+)?")

MOST_BYTES = 16 * 2**30
"""Of all files of a model; a vision model has a tenth of it, and a name may be mistyped."""

_offline_lock = threading.Lock()
_offline_count = 0
_offline_before = False


@dataclass(frozen=True, slots=True)
class Repository:
    """A model on the hub.

    Attributes:
        reference: as the user gave it, for messages.
        name: `ORGANISATION/NAME`.
        revision: branch, tag or commit.
        patterns: of the files that are needed, as `fnmatch` reads them.
        extra: of ours that brings what reads them.
    """

    reference: str
    name: str
    revision: str
    patterns: tuple[str, ...]
    extra: str


def repository(name: str, reference: str, patterns: Sequence[str], extra: str) -> Repository:
    """The repository that `name` (`ORGANISATION/NAME`, optionally `@REVISION`) stands for.

    Raises:
        ModelError: it can't be the name of one.
    """
    if _NAME.fullmatch(name) is None or ".." in name:
        raise ModelError(
            f"'{reference}' names no model: there is no such folder, and a model of the hub is "
            f"called {extra}:ORGANISATION/NAME."
        )
    name, _, revision = name.partition("@")
    return Repository(reference, name, revision or "main", tuple(patterns), extra)


def find(wanted: Repository) -> Path:
    """The folder that holds the files; opens no connection.

    Raises:
        MissingExtra: huggingface_hub isn't installed.
        ModelError: they aren't all here; names the command that fetches them.
    """
    hub = _hub(wanted)
    try:
        return Path(
            hub.snapshot_download(
                wanted.name,
                revision=wanted.revision,
                allow_patterns=list(wanted.patterns),
                local_files_only=True,
            )
        )
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError, OSError) as error:
        raise missing(wanted.reference) from error


def fetch(wanted: Repository, needed: str, on_progress: Progress | None = None) -> Path:
    """The folder that holds the files, downloaded; what is in the cache already stays.

    Args:
        wanted: the model and its files.
        needed: pattern of a file that must be among them.
        on_progress: told of all files together, under the repository's name.

    Raises:
        MissingExtra: huggingface_hub isn't installed.
        ModelError: there is no such model, it lacks the needed file, it is longer than
            `MOST_BYTES`, or what came isn't what was announced.
        Unavailable: the hub can't be reached, or `VISIONDYNO_OFFLINE` is set.
    """
    if is_offline():
        refuse_offline(wanted.reference)
    hub = _hub(wanted)
    with _understood(wanted, hub):
        files = _listed(wanted, hub)
        if not any(fnmatch(name, needed) for name in files):
            raise ModelError(
                f"{wanted.name} holds no {needed} on the hub, and weights of other kinds aren't "
                "read (a pickle can run code); take a model that is published as safetensors."
            )
        total = sum(size for size, _ in files.values())
        if total > MOST_BYTES:
            raise ModelError(
                f"{wanted.name} is {total / 2**30:.1f} GiB on the hub, more than the "
                f"{MOST_BYTES / 2**30:.0f} GiB that are downloaded by themselves. If it is the "
                f"model that you mean, fetch it with: hf download {wanted.name}"
            )
        told = _Told(wanted.name, total, on_progress)
        folder = Path(
            hub.snapshot_download(
                wanted.name,
                revision=wanted.revision,
                allow_patterns=list(wanted.patterns),
                tqdm_class=_bar(told),
                endpoint=hub.constants.ENDPOINT,
            )
        )
    for name, (_, sha256) in files.items():
        _verify(folder / name, sha256, wanted)
    told.done()
    return folder


@contextmanager
def no_connections() -> Iterator[None]:
    """Inside, no library asks the hub for anything: configurations can name other models.

    It holds for the whole process: a `fetch` in another thread fails meanwhile.
    """
    global _offline_before, _offline_count  # noqa: PLW0603 - the hub's own switch is global
    from huggingface_hub import constants

    with _offline_lock:
        if _offline_count == 0:
            _offline_before = constants.HF_HUB_OFFLINE
            constants.HF_HUB_OFFLINE = True
        _offline_count += 1
    try:
        yield
    finally:
        with _offline_lock:
            _offline_count -= 1
            if _offline_count == 0:
                constants.HF_HUB_OFFLINE = _offline_before


def _hub(wanted: Repository) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise MissingExtra(wanted.extra, f"'{wanted.reference}'") from error
    return huggingface_hub


def _listed(wanted: Repository, hub: Any) -> dict[str, tuple[int, str | None]]:
    """Size and, of large files, SHA-256 of each needed file by name, as the hub announces them."""
    api = hub.HfApi(endpoint=hub.constants.ENDPOINT)
    info = api.model_info(wanted.name, revision=wanted.revision, files_metadata=True)
    return {
        one.rfilename: (one.size or 0, one.lfs.sha256 if one.lfs else None)
        for one in info.siblings or ()
        if any(fnmatch(one.rfilename, pattern) for pattern in wanted.patterns)
    }


@contextmanager
def _understood(wanted: Repository, hub: Any) -> Iterator[None]:
    """Whatever the hub or the way there answers becomes an error of ours."""
    errors = hub.errors
    place = f"{wanted.name} (revision {wanted.revision}) on {hub.constants.ENDPOINT}"
    try:
        yield
    except (ModelError, Unavailable):
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{place} is given only to those who accepted its terms: accept them on its page, and "
            "set HF_TOKEN to a token of yours."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelError(
            f"There is no {place}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"'{wanted.reference}' names no model: {reason(error)}") from error
    except Exception as error:
        # Connections fail with the classes of whichever HTTP library the hub's client uses.
        raise Unavailable(
            f"{place} can't be fetched now: {reason(error)} Check the connection and try again."
        ) from error


class _Told:
    """Adds up what came, of all files together, and tells it."""

    def __init__(self, name: str, total: int, on_progress: Progress | None) -> None:
        self._name, self._total, self._on_progress = name, total, on_progress
        self._lock = threading.Lock()
        self._done = 0

    def came(self, count: float) -> None:
        with self._lock:
            self._done = min(self._done + int(count), self._total)
            if self._on_progress is not None:
                self._on_progress(self._name, self._done, self._total)

    def done(self) -> None:
        """Files that were in the cache already count as come."""
        self.came(self._total)


def _bar(told: _Told) -> type[Any]:
    """What the hub's client takes for a progress bar: shows nothing, tells what came."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc] # untyped
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Two bars count bytes: of the network (which may be compressed), and of the files.
            name = kwargs.get("name") or ""
            self._counts = kwargs.get("unit") == "B" and not name.endswith(".transfer")
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts:
                told.came(n or 0)
            return None

    return Bar


def _verify(path: Path, sha256: str | None, wanted: Repository) -> None:
    """Compare with what the hub announced; a file that differs is removed from the cache."""
    if sha256 is None or file_sha256(path) == sha256:
        return
    real = path.resolve()
    path.unlink()
    real.unlink(missing_ok=True)
    raise ModelError(
        f"{path.name} of {wanted.name} isn't what the hub announced (its SHA-256 differs) and was "
        f"removed; fetch it again with: dyno models pull {wanted.reference}"
    )
