"""Files that came with a job: unpacked once, and called by the names that the user gave them."""

import base64
import binascii
import errno
import hashlib
import os.path
import re
import resource
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from visiondyno.datasets.confined import confine
from visiondyno.datasets.pull.archive import Selection, unpack
from visiondyno.errors import DatasetError, SpecError, StorageFull, TooLarge
from visiondyno.operations.context import OperationContext
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.probes.kernel_files import ROOT, read_text
from visiondyno.specs.attachments import (
    FIELD,
    LARGEST_BYTES,
    MOST_FILES,
    Attachment,
    Attachments,
    Kind,
    with_references,
)
from visiondyno.specs.operations import parse

KIND = "attachments"
"""Of what the worker's cache keeps: unpacked archives, by the SHA-256 of the archive. The machine's
boot is a part of the key, because a power cut may leave files shorter than they were."""

_ATTEMPTS = 5
_NAME_ENDS = r"(?![\w-]|\.\w)"
"""After a path: `val` isn't a part of `validation`, and a sentence may end with it."""
_OWN_FILES = 256
"""Beside those that are held: of the worker itself, and of what an operation opens."""
_NO_NAMES = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ})
_HOSTILE = (DatasetError, ValueError, struct.error, OverflowError)
Run = Callable[[dict[str, Any], OperationContext], dict[str, Any]]


def run_with_attachments(
    job_input: dict[str, Any], context: OperationContext, run: Run
) -> dict[str, Any]:
    """Run an operation on the files that came with its input; its output.

    Each archive is unpacked once, into the worker's cache, and held there while the operation runs.
    The references that it stands for become paths in it; output, progress and errors have the
    user's references again.

    Args:
        job_input: with `attachments`, see `visiondyno.specs.attachments`.
        context: of the job.
        run: runs the input without them.

    Raises:
        SpecError: the attachments aren't as they should be, one of them isn't used by the input,
            or its archive is refused.
        NotFound: an archive is a blob that this worker's store doesn't have.
        TooLarge: together they are larger than is taken.
        StorageFull, TransportDown: the worker has no room, or can't reach the blobs.
        VisionDynoError: whatever `run` raises.
    """
    rest = {name: value for name, value in job_input.items() if name != FIELD}
    given = {FIELD: job_input[FIELD]}
    attachments: Attachments = parse(Attachments, given, "The attachments are wrong")
    if not attachments.attachments:
        return run(rest, context)
    _check_used(attachments.attachments, rest)
    with _unpacked(attachments.attachments, context) as paths:
        names = GivenNames(paths)
        try:
            output = run(with_references(rest, names.path_of), context.putting_back(names.put_back))
        except Exception as error:
            names.put_back_in_error(error)
            raise
        found: dict[str, Any] = names.put_back(output)
        return found


class GivenNames:
    """The user's references, and the paths that they stand for on this worker."""

    def __init__(self, paths: Mapping[str, tuple[Path, str]]) -> None:
        """`paths`: of each reference, the folder that is its own, and the path in it."""
        self._paths = {name: str(root / inner) for name, (root, inner) in paths.items()}
        shown: dict[str, str] = {}
        for name, (root, inner) in paths.items():
            shown[str(root / inner)] = name
            shown[str(root)] = _folder_of(name, inner)
        # What is in a folder comes before the folder.
        longest = sorted(shown, key=len, reverse=True)
        self._shown = shown
        self._pattern = re.compile(f"(?:{'|'.join(map(re.escape, longest))}){_NAME_ENDS}")
        self._begins = os.path.commonprefix(longest)  # noqa: RUF071 - of texts, not of folders

    def path_of(self, kind: Kind, reference: str) -> str:
        """What stands for the reference here; itself where nothing does."""
        found = attached_name(kind, reference, self._paths)
        if found is None:
            return reference
        if kind == "model":
            return reference.removesuffix(found) + self._paths[found]
        return self._paths[found] + reference.removeprefix(found)

    def put_back(self, value: Any) -> Any:
        """A JSON value with the user's references in the place of paths, in keys too."""
        if isinstance(value, str):
            if self._begins not in value:  # most are long, and found out fast
                return value
            return self._pattern.sub(lambda match: self._shown[match[0]], value)
        if isinstance(value, Mapping):
            return {self.put_back(key): self.put_back(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.put_back(inner) for inner in value]
        return value

    def put_back_in_error(self, error: BaseException | None) -> None:
        """The same in what an error says, and in those that it came of."""
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            error.args = tuple(self._told(part) for part in error.args)
            for name in ("filename", "filename2", "traceback"):
                if isinstance(getattr(error, name, None), str):
                    setattr(error, name, self.put_back(getattr(error, name)))
            error = error.__cause__ or error.__context__

    def _told(self, part: Any) -> Any:
        return self.put_back(str(part) if isinstance(part, Path) else part)


def attached_name(kind: Kind, reference: str, names: Mapping[str, Any]) -> str | None:
    """Which of the attached names `reference` holds.

    It is one, or is one with `:SPLIT` after it (data) or `RUNTIME:` before it (models).
    """
    if reference in names:
        return reference
    stem, colon, _ = reference.rpartition(":")
    if colon and kind == "model":
        _, _, stem = reference.partition(":")
    return stem if colon and stem in names else None


def _folder_of(reference: str, inner: str) -> str:
    """What the user would call the folder in which `inner` is what `reference` names."""
    folder, parts = PurePosixPath(reference), PurePosixPath(inner).parts
    for part in reversed(parts):
        if folder.name != part:
            return reference
        folder = folder.parent
    return str(folder)


def _check_used(given: Mapping[str, Attachment], rest: dict[str, Any]) -> None:
    used: set[str | None] = set()

    def note(kind: Kind, reference: str) -> str:
        used.add(attached_name(kind, reference, given))
        return reference

    with_references(rest, note)
    unused = [name for name in given if name not in used]
    if unused:
        raise SpecError(
            f"The attachment {unused[0]!r:.200} stands for nothing in the job's input; give each "
            "under the reference that the input names."
        )


@contextmanager
def _unpacked(
    given: Mapping[str, Attachment], context: OperationContext
) -> Iterator[dict[str, tuple[Path, str]]]:
    """Of each reference a folder of its own, held as long as the context lasts, and the path."""
    files = WorkerFiles.of_this_worker()
    boot = read_text(ROOT / "proc/sys/kernel/random/boot_id") or "unknown"
    uses: Counter[str] = Counter()
    _have_room_for_files(len(given))
    room_bytes = LARGEST_BYTES
    paths: dict[str, tuple[Path, str]] = {}
    with ExitStack() as holding:
        for name, attachment in given.items():
            archive = _Archive(name, attachment, files, context)
            # One path would be two references, and no output could be told from the other's.
            key = f"{archive.sha256}-{uses[archive.sha256]}-{boot}"
            uses[archive.sha256] += 1
            root = archive.hold(key, room_bytes, holding)
            room_bytes -= files.cache.size_bytes(KIND, key)
            if room_bytes < 0:
                raise _too_large(name)
            if not _is_there(root / attachment.path):
                raise SpecError(
                    f"The attachment {name!r:.200} says '{attachment.path:.200}', which isn't in "
                    "its archive; send the path of what is."
                )
            paths[name] = root, attachment.path
        yield paths


def _have_room_for_files(count: int) -> None:
    """Let this process open so many: each attachment that is held is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OWN_FILES
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise SpecError(
            f"The job has {count:,} attachments, and this worker may open {hard:,} files in all; "
            "send what belongs together as one folder, or split the job."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def _too_large(name: str) -> TooLarge:
    return TooLarge(
        f"The attachment {name!r:.200} is too much: all that come with a job have at most "
        f"{LARGEST_BYTES / 1e9:g} GB. Put the data where the worker is, and name it there."
    )


class _Archive:
    """One attachment's archive, on its way into the worker's cache."""

    def __init__(
        self, name: str, attachment: Attachment, files: WorkerFiles, context: OperationContext
    ) -> None:
        self._name = name
        self._files = files
        self._context = context
        self._reference = attachment.archive if attachment.is_blob else None
        self._data = b"" if attachment.is_blob else self._decoded(attachment.archive)
        found = self._reference or hashlib.sha256(self._data).hexdigest()
        self.sha256 = found.removeprefix("sha256:")

    def hold(self, key: str, room_bytes: int, holding: ExitStack) -> Path:
        """The unpacked folder, which stays until `holding` is closed."""
        cache = self._files.cache
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # a blob that was evicted before it was opened
                cache.make(
                    KIND, key, lambda folder: self._unpack(folder, room_bytes), self._context.check
                )
                root = holding.enter_context(cache.hold(KIND, key))
                if root is not None:
                    return root
        raise StorageFull(
            f"The attachment {self._name!r:.200} was evicted from {cache.folder} before it could "
            f"be used, {_ATTEMPTS} times. Raise VISIONDYNO_CACHE_BYTES: the workers need more than "
            "it allows."
        )

    def _unpack(self, folder: Path, room_bytes: int) -> None:
        self._context.progress(f"unpacking {self._name:.200}")
        with tempfile.NamedTemporaryFile(dir=folder.parent) as file:
            path = Path(file.name)
            if self._reference is None:
                file.write(self._data)
                file.flush()
            else:
                path = self._fetched(self._reference)
            try:
                selection = Selection(most_bytes=room_bytes, most_files=MOST_FILES)
                unpack(path, "zip", folder, selection, self._context.check)
            except _HOSTILE as error:
                raise self._refused(str(error).replace(str(path), "its archive")) from error
            except OSError as error:
                if error.errno in _NO_NAMES:
                    reason = f"its archive has a name that no file can have ({error.strerror})"
                    raise self._refused(reason) from error
                raise
        confine(folder)

    def _fetched(self, reference: str) -> Path:
        what = f"The archive of {self._name!r:.200}"
        path = self._files.fetch(reference, what, self._context.check)
        if path.stat().st_size > LARGEST_BYTES + MOST_FILES * 1000:
            raise _too_large(self._name)
        return path

    def _decoded(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise self._refused(f"its archive isn't base64 ({error})") from error

    def _refused(self, reason: str) -> SpecError:
        sentence = reason.replace(". Download it again", "")
        return SpecError(
            f"The attachment {self._name!r:.200} can't be used: {sentence}. Send it again."
        )
