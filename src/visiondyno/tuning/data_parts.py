"""On which data a study trains, compares its trials and tests the best one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.cache_folder import Progress
from visiondyno.datasets.pull.catalogue import downloadable, pulled_folder
from visiondyno.datasets.registry import (
    builtin_dataset,
    default_cache_dir,
    find_data,
    open_dataset,
)
from visiondyno.datasets.splits import splits_at
from visiondyno.errors import DatasetError, SpecError
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training_data import DataPart, ImageData, TrainingData
from visiondyno.specs.tuning import StudySpec
from visiondyno.vision.decode import decode_image

_OF_TRAIN = (0.9, 0.1, 0.0)
"""Shares where the data have a test split of their own."""
_OF_ALL = (0.5, 0.25, 0.25)
_LOOKED_AT = 64
"""Images, evenly spaced, of which one in colour makes a data set one in colour."""

Wire = dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class ImageShape:
    """What a model for the data must take and tell apart."""

    channels: int
    height: int
    width: int
    classes: int


@dataclass(frozen=True, slots=True)
class StudyData:
    """The three parts of a study's data, each as `training_data` of a job has it.

    Attributes:
        training: what trials learn from.
        validation: what they are compared on.
        test: what the best one is tested on, once; None where the study has none.
        shape: of the images; None where the study doesn't need to know.
        is_here: whether the training data were found on this machine, or are inside the job.
        notes: how the parts were chosen, in sentences.
    """

    training: Wire
    validation: Wire
    test: Wire | None
    shape: ImageShape | None
    is_here: bool
    notes: tuple[str, ...]


def study_data(
    spec: StudySpec,
    *,
    on_progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> StudyData:
    """The data of a study.

    Of `spec.data`, with splits of its own (`digits`, a published data set, a folder with `train`
    and `test`), the splits: validation is `val`, or else a tenth of `train`, and the test split is
    left untouched. Anything else is divided: half, a quarter, a quarter. Parts that the
    specification names come before these.

    Args:
        spec: the study.
        on_progress: as of `open_dataset`.
        check: called again and again; what it raises is passed on.

    Raises:
        DatasetError: the data can't be read or aren't labelled images; or the study needs to know
            the images' shape, and the data aren't here: the message says what to give.
    """
    given = (spec.training_data, spec.validation_data, spec.test_data)
    parts: tuple[TrainingData | None, ...] = (None, None, None)
    notes: tuple[str, ...] = ()
    if spec.data is not None:
        parts, notes = _parts_of(spec.data)
    chosen = [_with_size(own or part, spec) for own, part in zip(given, parts, strict=True)]
    training = chosen[0]
    assert training is not None, "the specification has data"
    facts = _Facts(training, spec, on_progress, check)
    shape = facts.shape() if spec.space is None or spec.space.job is None else None
    if shape is not None and facts.opened:
        chosen = [_with_channels(part, shape.channels) for part in chosen]
    first, second, third = (None if part is None else _wire(part) for part in chosen)
    assert first is not None, "the specification has data"
    assert second is not None, "the specification has data"
    if third is None:
        notes = (*notes, "There is no test part: nothing is known of data no trial was chosen on")
    return StudyData(first, second, third, shape, facts.is_here, notes)


def anywhere(reference: str) -> str:
    """The reference as it is to be kept: it means the same data from whichever folder is worked in.

    Args:
        reference: to data; what isn't a relative path to some here stays as it is.
    """
    if builtin_dataset(reference) is not None:
        return reference
    try:
        path, split = find_data(reference, default_cache_dir())
    except (DatasetError, OSError, ValueError):
        return reference
    suffix = f":{split}" if split is not None and reference.endswith(f":{split}") else ""
    named = Path(reference.removesuffix(suffix)).expanduser()
    if named.is_absolute() or not named.exists() or not named.samefile(path):
        return reference
    return f"{os.path.abspath(named)}{suffix}"  # noqa: PTH100 - links stay as they are


def _parts_of(reference: str) -> tuple[tuple[TrainingData | None, ...], tuple[str, ...]]:
    """Training, validation and test data, and how they were chosen."""
    splits = _splits(reference)
    named = [next((name for name in names if name in splits), None) for names in _NAMES]
    train, validation, test = named
    if train is None or (test is None and validation is None):
        note = (
            f"{reference!r:.200} is divided: half of it to train on, a quarter each to compare "
            "trials on and to test the best one on"
        )
        return _shares(reference, _OF_ALL), (note,)
    if validation is not None and test is not None:
        parts = tuple(f"{reference}:{name}" for name in (train, validation, test))
        return parts, (f"Its splits are used: {train}, {validation}, and {test} for the test",)
    test = test or validation
    shared = _shares(f"{reference}:{train}", _OF_TRAIN)
    return (*shared[:2], f"{reference}:{test}"), (
        f"A tenth of '{train}' is kept back to compare trials on; '{test}' is for the test",
    )


_NAMES = (("train",), ("val", "valid", "validation"), ("test", "demo"))


def _shares(reference: str, shares: tuple[float, float, float]) -> tuple[ImageData | None, ...]:
    names = ("train", "validation", "test")
    return tuple(
        ImageData(data=reference, part=DataPart(name=name, shares=shares)) if share else None
        for name, share in zip(names, shares, strict=True)
    )  # fmt: skip


def _splits(reference: str) -> tuple[str, ...]:
    builtin = builtin_dataset(reference)
    if builtin is not None:
        return tuple(builtin.splits) if reference == builtin.name else ()
    path = _found(reference)
    if path is None:
        known = downloadable(reference)
        return known.splits if known else ()
    try:
        return splits_at(path)
    except OSError as error:
        raise DatasetError(f"Folder {path} can't be read: {error.strerror}") from error


def _found(reference: str) -> Path | None:
    """Where the data lie that the whole reference names; None: it names a split, or nothing."""
    try:
        path, split = find_data(reference, default_cache_dir())
    except (DatasetError, OSError, ValueError):
        return None
    return None if split is not None and reference.endswith(f":{split}") else path


def _with_size(part: TrainingData | None, spec: StudySpec) -> TrainingData | None:
    """Images of the size and channels that the study gives; a part's own come before these."""
    if isinstance(part, str) and not part.startswith("sha256:"):
        part = ImageData(data=part)
    if not isinstance(part, ImageData):
        return part
    return part.model_copy(
        update={
            "image_size": part.image_size or spec.image_size,
            "channels": part.channels or spec.channels,
        }
    )


def _with_channels(part: TrainingData | None, channels: int) -> TrainingData | None:
    if not isinstance(part, ImageData) or part.channels is not None:
        return part
    return part.model_copy(update={"channels": channels})


def _wire(part: TrainingData) -> Wire:
    if isinstance(part, str):
        return part
    if isinstance(part, InlineData):
        return part.model_dump(mode="json")
    fields = part.model_dump(mode="json", exclude_defaults=True)
    if part.size is not None and part.size[0] == part.size[1]:
        fields["image_size"] = part.size[0]
    return part.data if fields.keys() == {"data"} else fields


class _Facts:
    """What the images of the training data are.

    Attributes:
        opened: whether the data were opened to know it.
        is_here: whether they were found.
    """

    def __init__(
        self,
        data: TrainingData,
        spec: StudySpec,
        on_progress: Progress | None,
        check: Callable[[], None],
    ) -> None:
        self._data = data
        self._spec = spec
        self._on_progress = on_progress
        self._check = check
        self.opened = False
        self.is_here = _is_here(data)

    def shape(self) -> ImageShape:
        found = self._known()
        if found is None:
            return self._given()
        asked = self._spec.classes
        if asked is not None and asked != found.classes:
            raise SpecError(
                f"--classes is {asked}, and the data have {found.classes}; leave it out: it is for "
                "data that aren't on this machine."
            )
        return found

    def _known(self) -> ImageShape | None:
        """From the data themselves, or what is published of them."""
        if isinstance(self._data, InlineData):
            return _inline_shape(self._data)
        if isinstance(self._data, ImageData):
            known = _published(self._data)
            if known is not None:
                return self._as_asked(*known)
            if self.is_here:
                return self._opened(self._data)
        return None

    def _as_asked(self, channels: int, height: int, width: int, classes: int) -> ImageShape:
        assert isinstance(self._data, ImageData), "others have no size to ask for"
        size = self._data.size or (height, width)
        return ImageShape(self._data.channels or channels, *size, classes)

    def _opened(self, data: ImageData) -> ImageShape:
        dataset = open_dataset(
            data.data,
            skip_bad=data.skip_bad,
            max_images=data.max_images,
            on_progress=self._on_progress,
            check=self._check,
        )
        self.opened = True
        if dataset.task != "classification":
            raise DatasetError(
                f"{data.data!r:.200} is a {dataset.task} data set, and a study trains image "
                "classifiers; give a folder of images per class, idx files, or digits."
            )
        height, width = data.size or _one_size(dataset)
        channels = data.channels or _channels(dataset)
        return ImageShape(channels, height, width, len(dataset.classes))

    def _given(self) -> ImageShape:
        size = self._spec.size
        classes, channels = self._spec.classes, self._spec.channels
        if isinstance(self._data, ImageData):
            size, channels = self._data.size or size, self._data.channels or channels
        missing = [
            name
            for name, value in (("image_size", size), ("channels", channels), ("classes", classes))
            if value is None
        ]
        if size is None or channels is None or classes is None:
            shown = self._data.data if isinstance(self._data, ImageData) else self._data
            options = " ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise DatasetError(
                f"The training data {shown!r:.200} aren't on this machine, and models for them "
                f"can't be made without knowing {', '.join(missing)}. Give "
                f"{options} for data that the workers have, or check the name."
            )
        return ImageShape(channels, *size, classes)


def _is_here(data: TrainingData) -> bool:
    if isinstance(data, InlineData):
        return True
    if not isinstance(data, ImageData):
        return False
    if builtin_dataset(data.data) is not None:
        return True
    try:
        find_data(data.data, default_cache_dir())
    except (DatasetError, OSError, ValueError):
        return False
    return True


def _published(data: ImageData) -> tuple[int, int, int, int] | None:
    """Of data whose images are known without looking: built-in digits, and some published sets."""
    name, _, split = data.data.partition(":")
    if name == "digits":
        from visiondyno.datasets.digits import CLASSES, SIDE_PIXELS

        return 1, SIDE_PIXELS, SIDE_PIXELS, CLASSES
    known = downloadable(name)
    if known is None or known.image_shape is None or known.class_count is None:
        return None
    if split not in ("", *known.splits):
        return None
    cache_dir = default_cache_dir()
    try:
        path, _ = find_data(data.data, cache_dir)
    except DatasetError:
        return (*known.image_shape, known.class_count)
    is_as_published = path == pulled_folder(name, cache_dir)
    return (*known.image_shape, known.class_count) if is_as_published else None


def _one_size(dataset: Dataset) -> tuple[int, int]:
    """Height and width of all images."""
    first = dataset.sample(0)
    for index in range(1, len(dataset)):
        other = dataset.sample(index)
        if (other.height, other.width) != (first.height, first.width):
            raise DatasetError(
                f"{other.path} is {other.width}×{other.height} pixels and the first image "
                f"{first.width}×{first.height}; give --image-size, to which all are resized."
            )
    return first.height, first.width


def _channels(dataset: Dataset) -> int:
    """1 where all images that are looked at are grey, else 3."""
    count = len(dataset)
    for index in sorted({index * count // _LOOKED_AT for index in range(_LOOKED_AT)}):
        sample = dataset.sample(index)
        try:
            image = decode_image(sample.path.read_bytes(), str(sample.path))
        except OSError as error:
            raise DatasetError(f"{sample.path} can't be read: {error.strerror}.") from error
        if (image != image[..., :1]).any():
            return 3
    return 1


def _inline_shape(data: InlineData) -> ImageShape:
    features, labels = data.features_array(), data.labels_array()
    if features.ndim != 4 or labels.ndim != 1 or labels.dtype.kind != "i":
        raise DatasetError(
            f"'training_data' has features of shape {features.shape} and labels of shape "
            f"{labels.shape}; the built-in models take images (samples, channels, height, width) "
            "with one class each. Give a space with a 'job' for others."
        )
    channels, height, width = features.shape[1:]
    return ImageShape(channels, height, width, int(labels.max()) + 1)
