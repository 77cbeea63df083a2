"""Images of a classification data set as samples: decoded once, kept as arrays, memory-mapped.

All workers of a home share the arrays: one makes them, the others wait for it. They are named by
the data set's content and by how they were made of it; which content a reference has is noted by
the files' times and sizes, so that opening the same data again reads no image.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from visiondyno import __version__
from visiondyno.datasets.fingerprint import fingerprint
from visiondyno.datasets.indexed import IndexedDataset
from visiondyno.datasets.parts import part_of
from visiondyno.datasets.registry import (
    builtin_dataset,
    default_cache_dir,
    find_data,
    open_dataset,
)
from visiondyno.errors import DatasetError, SpecError, StorageFull, TooLarge
from visiondyno.operations.context import OperationContext
from visiondyno.operations.prepared_images import (
    PREPARED_VERSION,
    PreparedImages,
    map_images,
    prepare_images,
)
from visiondyno.operations.sample_parts import SamplesPart
from visiondyno.specs.training_data import PART_NAMES, DataPart, ImageData
from visiondyno.training.array_samples import ImageSamples
from visiondyno.training.data import Samples

if TYPE_CHECKING:
    from visiondyno.operations.worker_files import WorkerFiles

_ARRAYS, _KNOWN = "samples", "samples-known"
_ATTEMPTS = 5


@dataclass(frozen=True)
class LabelledImages:
    """Samples of a data set.

    Attributes:
        samples: their labels are indices of `classes`.
        classes: the data set's, in its order.
        digest: `sha256:…` of pixels, labels and normalisation, wherever the data lie.
        notes: on how the data set was read, and what was left out.
    """

    samples: Samples
    classes: tuple[str, ...]
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """What a data set was found to be: its digest, and its notes."""

    digest: str
    notes: tuple[str, ...]


def image_samples(
    data: ImageData, place: str, files: "WorkerFiles", context: OperationContext
) -> LabelledImages:
    """The images that `data` names, opened or prepared.

    Args:
        data: what is wanted of which data set.
        place: of it in the job, for messages.
        files: its cache keeps what is prepared.
        context: told of the progress, and asked whether to stop.

    Raises:
        DatasetError: the data set can't be read, or isn't of labelled images.
        SpecError: the normalisation has another number of channels than the images.
        TooLarge: the cache may not hold so much.
        StorageFull: there is no room for the arrays.
    """
    import torch

    context.progress("reading the data", data=data.data)
    try:
        known, prepared = _Opening(data, files, context).run()
    except (DatasetError, TooLarge) as error:
        raise type(error)(f"'{place}': {error.message}") from error
    channels = prepared.pixels.shape[1]
    for name, values in (("mean", data.mean), ("std", data.std)):
        if values is not None and len(values) != channels:
            raise SpecError(
                f"'{place}.{name}' holds {len(values)} numbers, and the images have "
                f"{channels} channel{'s' * (channels > 1)}; give one number for each."
            )
    samples = ImageSamples(
        prepared.pixels,
        torch.from_numpy(prepared.labels),
        mean=data.mean,
        std=data.std,
        layout=data.layout,
    )
    how: list[Any] = [prepared.content, data.mean, data.std, data.layout]
    notes = (*known.notes, *prepared.notes)
    if data.part is None:
        return LabelledImages(samples, prepared.classes, f"sha256:{_sha256(how)}", notes)
    part = _part(samples, data.part, place)
    note = (
        f"{data.data!r:.200}: '{data.part.name}' is {len(part):,} of {len(samples):,} images, "
        f"chosen by seed {data.part.seed}"
    )
    how.append(data.part.model_dump(mode="json"))
    return LabelledImages(part, prepared.classes, f"sha256:{_sha256(how)}", (*notes, note))


def _part(samples: Samples, part: DataPart, place: str) -> SamplesPart:
    try:
        chosen = part_of(len(samples), PART_NAMES.index(part.name), part.shares, part.seed)
    except DatasetError as error:
        raise DatasetError(f"'{place}': {error.message}") from error
    return SamplesPart(samples, chosen)


class _Opening:
    """One data set's way to its arrays; the data set itself is opened only where it must be."""

    def __init__(self, data: ImageData, files: "WorkerFiles", context: OperationContext) -> None:
        self._data = data
        self._cache = files.cache
        self._context = context
        self._dataset: IndexedDataset | None = None

    def run(self) -> tuple[_Known, PreparedImages]:
        note = self._note()
        known = self._recalled(note) if note is not None else None
        if known is None:
            dataset = self._opened()
            digest = dataset.read_digest(self._context.check)
            known = _Known(digest, (*dataset.notes, *_about_skipped(dataset)))
            # Only if nothing changed while it was read, and a later change would show.
            if note is not None and note.settled and note == self._note():
                text = json.dumps({"digest": known.digest, "notes": known.notes})
                self._cache.put(_KNOWN, note.key, text.encode())
        return known, self._arrays(known, note)

    def _arrays(self, known: _Known, note: "_Note | None") -> PreparedImages:
        data = self._data
        key = _sha256(
            [known.digest, data.size, data.channels, data.skip_bad, PREPARED_VERSION,
             cv2.__version__]
        )  # fmt: skip

        def write(folder: Path) -> None:
            prepare_images(folder, self._opened(), data, self._cache.max_bytes, self._context)
            after = self._note()
            if note is not None and (after is None or after.key != note.key):
                raise DatasetError(
                    f"{data.data!r:.200} was changed while it was read. Run it again when its "
                    "files are complete."
                )

        for _ in range(_ATTEMPTS):
            folder = self._cache.make(_ARRAYS, key, write, self._context.check)
            prepared = map_images(folder)
            if prepared is not None:
                return prepared
            # Evicted before it was opened, or damaged: made anew.
            self._cache.drop(_ARRAYS, key)
        raise StorageFull(
            f"The prepared images of {data.data!r:.200} were evicted from {self._cache.folder} "
            f"before they could be opened, {_ATTEMPTS} times. Raise VISIONDYNO_CACHE_BYTES: the "
            "workers need more than it allows."
        )

    def _opened(self) -> IndexedDataset:
        if self._dataset is None:
            builtin = builtin_dataset(self._data.data)
            _check_task(builtin.task if builtin else "classification", self._data)
            self._dataset = open_dataset(
                self._data.data,
                skip_bad=self._data.skip_bad,
                max_images=self._data.max_images,
                on_progress=self._told,
                check=self._context.check,
            )
            _check_task(self._dataset.task, self._data)
        return self._dataset

    def _told(self, done: int, total: int) -> None:
        self._context.progress("preparing the data", done=done, total=total)

    def _note(self) -> "_Note | None":
        data = self._data
        where = _where(data.data, self._context.check)
        if where is None:
            return None
        asked = [data.data, data.skip_bad, data.max_images, __version__, PREPARED_VERSION]
        return _Note(_sha256([*asked, where.facts]), where.settled)

    def _recalled(self, note: "_Note") -> _Known | None:
        text = self._cache.read(_KNOWN, note.key)
        try:
            values: dict[str, Any] = json.loads(text or b"{}")
            return _Known(str(values["digest"]), tuple(map(str, values["notes"])))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class _Note:
    """Under which key it is noted what the data are, and whether that may be noted already."""

    key: str
    settled: bool


@dataclass(frozen=True)
class _Where:
    """Everything that the content of a reference depends on, as of now."""

    facts: list[Any]
    settled: bool


def _where(reference: str, check: Callable[[], None]) -> _Where | None:
    """None where there are no data, or in a form that isn't labelled images."""
    builtin = builtin_dataset(reference)
    if builtin is not None:
        # Drawing it loads code that no other data need.
        from visiondyno.datasets.digits import DIGITS_VERSION

        return _Where([builtin.name, DIGITS_VERSION], settled=True)
    try:
        path, _ = find_data(reference, default_cache_dir())
        path = path.resolve()
        found = fingerprint(path, check)
    except (DatasetError, OSError, ValueError):
        return None  # opening it says what is wrong
    if found is None:
        return None
    return _Where([str(path), found.sha256], found.settled(time.time_ns()))


def _check_task(task: str, data: ImageData) -> None:
    if task != "classification":
        raise DatasetError(
            f"{data.data!r:.200} is a {task} data set, and training takes images with "
            "one class each: a folder of images per class, idx files, or digits:train. Others "
            "can be sent as tensors, 'features' and 'labels'."
        )


def _about_skipped(dataset: IndexedDataset) -> tuple[str, ...]:
    if not dataset.skipped:
        return ()
    first = dataset.skipped[0]
    count = f"{len(dataset.skipped):,} images were left out as bad"
    return (f"{count}, first {first.path.name}: {first.reason}",)


def _sha256(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
