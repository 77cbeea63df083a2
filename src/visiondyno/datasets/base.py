"""The dataset seam: labelled images, opened lazily, with a content digest."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visiondyno.predictions import Truth

VisionTask = Literal["detection", "classification", "depth"]

DataTask = Literal["detection", "classification", "depth", "unlabelled"]
"""What labels are for; images may have none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        image_id: unique in its data set, and stable between runs.
        path: the encoded image file; decoding is the caller's (it is measured).
        width: in pixels, as labelled or as the file's header says.
        height: in pixels.
        truth: boxes, a class, a depth map or nothing, according to the data set's task.
    """

    image_id: int
    path: Path
    width: int
    height: int
    truth: Truth


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A bad image or label that `skip_bad` left out, and why."""

    path: Path
    reason: str


class Dataset(ABC):
    """Labelled images of one vision task.

    Contract: opening reads labels and image headers and raises `DatasetError` (one sentence that
    names the file) for a missing file, an unreadable image or a label outside its image, unless
    `skip_bad` was asked for: then such samples are left out and listed in `skipped`. After that,
    `len` and `sample` never change and never raise for a valid index. Iteration order is
    sorted by image name, so that a prefix of a data set is the same prefix on every machine.
    `digest` is a SHA-256 of every image's bytes and of the labels as used, not of paths or
    times: copies of a data set in another folder have the same digest.
    Thread safety: `sample` may be called from several threads.
    """

    reference: str
    task: DataTask
    classes: tuple[str, ...]
    skipped: tuple[SkippedSample, ...]
    notes: tuple[str, ...]
    """What a reader of a report must know about how the data was read."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """The sample at `index`, 0 ≤ index < len."""

    @abstractmethod
    def without(self, bad: Mapping[int, str]) -> "Dataset":
        """The same data less the samples at these indices, listed in `skipped` with the reason.

        Raises:
            DatasetError: nothing would be left to score.
        """

    @property
    @abstractmethod
    def digest(self) -> str:
        """`sha256:…` of content; computed once, on first use (reads every image file)."""
