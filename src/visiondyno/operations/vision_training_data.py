"""What a detector learns from and is scored on: images with boxes of the classes asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from visiondyno.datasets.base import Dataset, Sample
from visiondyno.datasets.class_mapping import map_classes
from visiondyno.datasets.parts import part_of
from visiondyno.errors import ClassMismatch, DatasetError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.verified_data import open_verified
from visiondyno.predictions import BoxTruth, Image, IntArray
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.training.vision.base import LabelledImage
from visiondyno.vision.decode import decode_image

KEPT_BYTES = 500_000_000
"""Of decoded validation images, kept in memory; more are decoded after each epoch."""


@dataclass(frozen=True, slots=True)
class Held:
    """What each epoch is scored on.

    Attributes:
        reference, digest: of the data set.
        samples: of it.
        truths: one a sample; class ids are the training's.
        class_ids: that are scored: those that the data have.
    """

    reference: str
    digest: str
    samples: tuple[Sample, ...]
    truths: tuple[BoxTruth, ...]
    class_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """All data of a training.

    Attributes:
        reference, digest: of the data set that is learned from.
        classes: in the order of the model's output.
        images: to learn from.
        held: to score on; None where there is nothing.
        notes: what a reader of the result must know.
    """

    reference: str
    digest: str
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    held: Held | None
    notes: tuple[str, ...]


def open_training_images(spec: TrainVisionInput, context: OperationContext) -> TrainingImages:
    """Open the data, decode every image once, and divide them as asked.

    Raises:
        DatasetError: they can't be read, aren't labelled with boxes, or are too few to divide.
        ClassMismatch: a class isn't in the data, or has no label there.
    """
    data = _with_boxes(spec.data, spec, context, spec.max_images)
    classes = _classes(spec, data)
    chosen = np.arange(len(data))
    held, notes = None, list(data.notes)
    if spec.validation_share is not None:
        shares = (1 - spec.validation_share, spec.validation_share)
        chosen = part_of(len(data), 0, shares, spec.seed)
        held = _held(data, part_of(len(data), 1, shares, spec.seed), classes)
        notes.append(
            f"{len(held.samples)} of the {len(data)} images of {data.reference} were held back "
            "to score on and weren't learned from."
        )
    elif spec.validation_data is not None:
        other = _with_boxes(spec.validation_data, spec, context, None)
        held = _held(other, np.arange(len(other)), classes)
        notes += [*other.notes, *_about_both(data, other)]
    if data.skipped:
        notes.append(f"{len(data.skipped)} bad images of {data.reference} were left out.")
    ids = _ids(data, classes)
    images = tuple(_labelled(data.sample(int(index)), ids) for index in chosen)
    if not any(len(image.class_ids) for image in images):
        raise DatasetError(
            f"No image of {data.reference} has a box of {', '.join(classes)}; choose other data."
        )
    return TrainingImages(data.reference, data.digest, classes, images, held, tuple(notes))


def batches_of(
    samples: Sequence[Sample], size: int, context: OperationContext
) -> Iterator[list[Image]]:
    """The decoded images, some at a time."""
    for first in range(0, len(samples), size):
        context.check()
        yield [_pixels(sample) for sample in samples[first : first + size]]


def decoded_bytes(samples: Sequence[Sample]) -> int:
    """What the images take in memory, all together."""
    return sum(sample.width * sample.height * 3 for sample in samples)


def _pixels(sample: Sample) -> Image:
    try:
        return decode_image(sample.path.read_bytes(), str(sample.path))
    except OSError as error:
        raise DatasetError(
            f"{sample.path} can't be read any more: {error.strerror}. Put it back, and train again."
        ) from error


def _with_boxes(
    reference: str, spec: TrainVisionInput, context: OperationContext, max_images: int | None
) -> Dataset:
    data = open_verified(reference, skip_bad=spec.skip_bad, max_images=max_images, context=context)
    if data.task != "detection":
        raise DatasetError(
            f"{reference} is labelled for {data.task}, and {spec.model} learns from boxes; choose "
            "data that are labelled with boxes."
        )
    return data


def _classes(spec: TrainVisionInput, data: Dataset) -> tuple[str, ...]:
    map_classes(data.classes, data.classes, spec.classes)  # refuses what the data don't have
    return data.classes if spec.classes is None else spec.classes


def _ids(data: Dataset, classes: Sequence[str]) -> IntArray:
    """(data's classes,) int64: the training's number of each, -1 for those left out."""
    return np.array(
        [classes.index(name) if name in classes else -1 for name in data.classes], np.int64
    )


def _labelled(sample: Sample, ids: IntArray) -> LabelledImage:
    truth = cast("BoxTruth", sample.truth)
    numbers = ids[truth.class_ids]
    size = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
    # A box without an area teaches nothing, and some losses divide by it.
    taken = (numbers >= 0) & ~truth.is_crowd & (size > 0).all(axis=1)
    return LabelledImage(
        path=sample.path,
        width=sample.width,
        height=sample.height,
        boxes_xyxy=truth.boxes_xyxy[taken],
        class_ids=numbers[taken],
    )


def _held(data: Dataset, chosen: IntArray, classes: tuple[str, ...]) -> Held:
    ids = _ids(data, classes)
    there = tuple(sorted(int(number) for number in ids if number >= 0))
    if not there:
        raise ClassMismatch(
            f"{data.reference} has none of the classes that are learned ({', '.join(classes)}): it "
            f"has {', '.join(data.classes)}. Choose other validation data."
        )
    samples = tuple(data.sample(int(index)) for index in chosen)
    truths = tuple(_truth(cast("BoxTruth", sample.truth), ids) for sample in samples)
    return Held(data.reference, data.digest, samples, truths, there)


def _truth(truth: BoxTruth, ids: IntArray) -> BoxTruth:
    numbers = ids[truth.class_ids]
    kept = numbers >= 0
    return BoxTruth(truth.boxes_xyxy[kept], numbers[kept], truth.is_crowd[kept], truth.areas[kept])


def _about_both(data: Dataset, other: Dataset) -> list[str]:
    notes = []
    if other.digest == data.digest:
        notes.append(
            "The validation data are the training data: the scores say how well they were learned "
            "by heart, not how good the model is."
        )
    missing = [name for name in data.classes if name not in other.classes]
    if missing:
        notes.append(f"{other.reference} has no {', '.join(missing)}: they aren't scored.")
    return notes
