"""What every data set of files has in common: a fixed list of samples, counts and a digest."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from visiondyno.datasets.base import Dataset, DataTask, Sample, SkippedSample
from visiondyno.datasets.cache_folder import Progress, default_cache_dir
from visiondyno.datasets.confined import check_inside
from visiondyno.datasets.depth import summarise_depth
from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth, ClassTruth, DepthTruth, NoTruth, Truth

_TASKS: dict[str, DataTask] = {
    "coco": "detection",
    "yolo": "detection",
    "voc": "detection",
    "video": "detection",
    "image-folder": "classification",
    "idx": "classification",
    "depth-folder": "depth",
    "images": "unlabelled",
    "frames": "unlabelled",
}
"""Of each format."""

Check = Callable[[], None]
"""Raises where the work must stop."""

_DIGEST_VERSION = b"visiondyno.dataset/1"
_SMALL_BELOW_PX2 = 32**2
_MEDIUM_BELOW_PX2 = 96**2


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that a data set names, not checked yet.

    Attributes:
        path: the image file.
        load: reads header and labels; raises `DatasetError` where either is bad.
    """

    path: Path
    load: Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How a data set is opened.

    Attributes:
        reference: as the user gave it.
        skip_bad: leave bad samples out and list them, instead of stopping at the first.
        max_images: keep the first so many good samples only; None keeps all.
        split: which part of the data, where the format has parts; None: as the format does.
        cache_dir: where formats that aren't made of image files keep theirs.
        on_progress: called while such files are made.
        check: called for each sample that is looked at; what it raises ends the opening.
        within: where the files that the data set names must lie; None: anywhere.
        unlabelled: take images without labels too.
    """

    reference: str
    skip_bad: bool = False
    max_images: int | None = None
    split: str | None = None
    cache_dir: Path = field(default_factory=default_cache_dir)
    on_progress: Progress | None = None
    check: Check = lambda: None
    within: Path | None = None
    unlabelled: bool = False


class IndexedDataset(Dataset):
    """A data set whose samples are all known once it is open.

    Attributes:
        format: `coco`, `yolo`, `voc`, `video`, `image-folder`, `idx`, `depth-folder`, or
            without labels `images` or `frames` (of a video).
    """

    def __init__(
        self,
        options: OpenOptions,
        form: str,
        classes: tuple[str, ...],
        candidates: Iterable[Candidate],
        *,
        bad_labels: tuple[SkippedSample, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        """Check candidates in order, which must be that of their names.

        Raises:
            DatasetError: a sample is bad and `skip_bad` is off, or nothing is left to score.
        """
        self.reference = options.reference
        self.format = form
        self.task = _TASKS[form]
        self.classes = classes
        self.notes = notes
        # The others' images are made here, in the cache.
        within = None if form in ("idx", "video", "frames") else options.within
        self._samples, skipped = _checked(candidates, options, within)
        self.skipped = bad_labels + skipped
        self._max_images = options.max_images
        self._require_labels()
        self.notes += self._about_prefix()

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> Sample:
        """The sample at `index`; `IndexError` outside 0 ≤ index < len."""
        if not 0 <= index < len(self._samples):
            raise IndexError(f"sample {index} of a data set of {len(self._samples)}")
        return self._samples[index]

    def without(self, bad: Mapping[int, str]) -> "IndexedDataset":
        """As `Dataset.without`; what is left keeps its order."""
        rest = copy.copy(self)
        rest.__dict__.pop("digest", None)  # cached_property's value: of the whole set
        rest._samples = tuple(s for index, s in enumerate(self._samples) if index not in bad)
        more = (SkippedSample(self._samples[index].path, bad[index]) for index in sorted(bad))
        rest.skipped = (*self.skipped, *more)
        rest._require_labels()
        return rest

    @cached_property
    def digest(self) -> str:
        """SHA-256 over task, classes, and each sample's image bytes, size and labels, in order.

        Of a depth map, its file's bytes and unit.

        Raises:
            DatasetError: a file can't be read any more.
        """
        return self.read_digest(lambda: None)

    def read_digest(self, check: Check) -> str:
        """As `digest`, from the files as they are now; `check` is called before each."""
        total = hashlib.sha256(_DIGEST_VERSION)
        total.update(json.dumps([self.task, self.classes]).encode())
        for sample in self._samples:
            check()
            total.update(_file_digest(sample.path))
            total.update(np.array([sample.width, sample.height], "<i8").tobytes())
            total.update(_truth_bytes(sample.truth))
        return f"sha256:{total.hexdigest()}"

    def _about_prefix(self) -> tuple[str, ...]:
        """A note on a classification prefix that lacks classes: folders are ordered by class."""
        truths = (sample.truth for sample in self._samples)
        shown = {truth.class_id for truth in truths if isinstance(truth, ClassTruth)}
        if len(self) != self._max_images or not 0 < len(shown) < len(self.classes):
            return ()
        some = f"{len(shown)} of {len(self.classes)} classes"
        return (f"The first {len(self):,} images, by name, are of {some} only",)

    def _require_labels(self) -> None:
        if not self._samples:
            reason = (
                f"each of its {len(self.skipped)} images was left out as bad, "
                f"first {self.skipped[0].path.name}: {self.skipped[0].reason}"
                if self.skipped
                else "it names no image. Check that the path is the right one"
            )
            raise DatasetError(f"Data set {self.reference} has nothing to score: {reason}")
        # Of depth, every sample has a map with measured pixels: opening checks it.
        if self.task not in ("depth", "unlabelled") and not any(class_counts(self).values()):
            part = "" if self._max_images is None else f" in its first {len(self)} images"
            raise DatasetError(
                f"Data set {self.reference} has no labels{part}: nothing can be scored. "
                "Check that the labels lie where its format wants them"
            )


def _checked(
    candidates: Iterable[Candidate], options: OpenOptions, within: Path | None
) -> tuple[tuple[Sample, ...], tuple[SkippedSample, ...]]:
    samples: list[Sample] = []
    skipped: list[SkippedSample] = []
    for candidate in candidates:
        if len(samples) == options.max_images:
            break
        options.check()
        check_inside(candidate.path, within, options.reference)
        try:
            samples.append(candidate.load())
        except DatasetError as error:
            if not options.skip_bad:
                raise
            skipped.append(SkippedSample(candidate.path, error.message))
    return tuple(samples), tuple(skipped)


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DatasetError(f"File {path} can't be read: {error.strerror}") from None


def _truth_bytes(truth: Truth) -> bytes:
    if isinstance(truth, NoTruth):
        return b""
    if isinstance(truth, ClassTruth):
        return np.array([truth.class_id], "<i8").tobytes()
    if isinstance(truth, DepthTruth):
        return _file_digest(truth.path) + np.array([truth.metres_per_unit], "<f8").tobytes()
    return b"".join(
        (
            np.array([len(truth)], "<i8").tobytes(),
            truth.boxes_xyxy.astype("<f8").tobytes(),
            truth.class_ids.astype("<i8").tobytes(),
            truth.is_crowd.astype("u1").tobytes(),
            truth.areas.astype("<f8").tobytes(),
        )
    )


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Each class, in the data set's order, with its number of labelled objects or images.

    Crowd boxes aren't counted: COCO's rule neither rewards finding them nor punishes missing them.
    Depth has no classes, and no counts.
    """
    counts = np.zeros(len(dataset.classes), np.int64)
    for index in range(len(dataset)):
        truth = dataset.sample(index).truth
        if isinstance(truth, BoxTruth):
            np.add.at(counts, truth.class_ids[~truth.is_crowd], 1)
        elif isinstance(truth, ClassTruth):
            counts[truth.class_id] += 1
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a data set holds, for a summary; JSON types only.

    Returns:
        reference, task, images, objects, crowds, classes (name → count), sizes,
        images_without_objects, depth, skipped (image and reason), notes, digest. `sizes` counts
        objects by COCO's areas: small under 32² pixels, medium under 96², large from there on.
        `crowds`, `images_without_objects` and `sizes` are None but of a detection set; `depth`
        (see `summarise_depth`) is None but of a depth set, which has 0 objects.
    """
    counts = class_counts(dataset)
    summary: dict[str, Any] = {
        "reference": dataset.reference,
        "task": dataset.task,
        "images": len(dataset),
        "objects": sum(counts.values()),
        "classes": counts,
        "crowds": None,
        "images_without_objects": None,
        "sizes": None,
        "depth": None,
        "skipped": [{"image": str(bad.path), "reason": bad.reason} for bad in dataset.skipped],
        "notes": list(dataset.notes),
        "digest": dataset.digest,
    }
    if dataset.task == "detection":
        summary.update(_box_summary(dataset))
    if dataset.task == "depth":
        truths = (dataset.sample(index).truth for index in range(len(dataset)))
        summary["depth"] = summarise_depth(
            truth for truth in truths if isinstance(truth, DepthTruth)
        )
    return summary


def _box_summary(dataset: Dataset) -> dict[str, Any]:
    truths = [dataset.sample(index).truth for index in range(len(dataset))]
    boxes = [truth for truth in truths if isinstance(truth, BoxTruth)]
    areas = np.concatenate([truth.areas[~truth.is_crowd] for truth in boxes])
    small, medium, large = np.histogram(
        areas, bins=[-np.inf, _SMALL_BELOW_PX2, _MEDIUM_BELOW_PX2, np.inf]
    )[0].tolist()
    return {
        "crowds": int(sum(truth.is_crowd.sum() for truth in boxes)),
        "images_without_objects": sum(len(truth) == 0 for truth in boxes),
        "sizes": {"small": small, "medium": medium, "large": large},
    }
