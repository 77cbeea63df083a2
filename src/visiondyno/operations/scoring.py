"""Score a model's predictions against a data set's labels: shared by benchmark and evaluate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.class_mapping import ClassMapping, apply, map_classes
from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.indexed import class_counts
from visiondyno.errors import ClassMismatch, ModelError, SpecError
from visiondyno.operations.unlabelled import unscored
from visiondyno.predictions import BoxTruth, Classification, Detections, Predictions
from visiondyno.specs.model_card import DepthCard, ModelCard
from visiondyno.specs.operations import DEFAULT_CONFIDENCE
from visiondyno.vision.accuracy import Accuracy, DepthScoring, score, score_image_level

Level = Literal["image"] | None
"""`image`: which classes are in an image, not where."""

THRESHOLD_OF_CLASSIFIERS = 0.5
THRESHOLD_OF_DETECTORS = DEFAULT_CONFIDENCE
"""From which score on a class is said to be in an image: a detector's is that of the boxes that
predictions and the inference server show."""


@dataclass(frozen=True, slots=True)
class ScoringRules:
    """What is scored and how it is resampled."""

    classes: tuple[str, ...] | None
    resamples: int
    seed: int
    level: Level = None


def level_of(asked: Level, dataset: Dataset, cards: Iterable[ModelCard]) -> Level:
    """The level that all of these models are scored at: one that each can answer.

    Raises:
        SpecError: image level is asked for on data without boxes.
    """
    if dataset.task == "unlabelled" and asked is not None:
        raise SpecError(
            f"Image level asks which classes are in an image, and {dataset.reference} has no "
            "labels. Leave --level out."
        )
    if dataset.task != "detection":
        if asked is not None:
            raise SpecError(
                f"Image level asks which classes are in an image that is labelled with boxes; "
                f"{dataset.reference} is labelled for {dataset.task}. Leave --level out."
            )
        return None
    return "image" if any(card.task == "classification" for card in cards) else asked


def images_with_classes(dataset: Dataset, scored: Sequence[str]) -> dict[str, int]:
    """Each scored class with the number of images that hold it; crowds don't count."""
    counts = np.zeros(len(dataset.classes), np.int64)
    for index in range(len(dataset)):
        truth = dataset.sample(index).truth
        if isinstance(truth, BoxTruth):
            counts[np.unique(truth.class_ids[~truth.is_crowd])] += 1
    return {name: int(counts[dataset.classes.index(name)]) for name in scored}


def level_note(cards: Mapping[str, ModelCard], asked: Level) -> str:
    """What a report says of a scoring at image level; `cards` by what the models are called."""
    classifiers = [name for name, card in cards.items() if card.task == "classification"]
    why = (
        "as was asked for"
        if asked == "image" or not classifiers
        else f"since classifiers find no boxes ({', '.join(classifiers)})"
    )
    return (
        f"Every model is scored at image level, {why}: is the class in the image, not where. A "
        "detector's score of a class is its best box's, a classifier's its probability. Accuracy "
        "is average precision, which no threshold enters; for image accuracy, precision, recall "
        f"and F1 a detector says yes from a score of {THRESHOLD_OF_DETECTORS:g} on, a classifier "
        f"from {THRESHOLD_OF_CLASSIFIERS:g} on. Images where only a crowd of a class is labelled "
        "are left out for it."
    )


def check_requested_classes(dataset: Dataset, classes: tuple[str, ...] | None) -> None:
    """Find a class that the data doesn't have before any model is started.

    Raises:
        ClassMismatch: names the class and those that there are.
    """
    if dataset.task != "unlabelled":
        map_classes(dataset.classes, dataset.classes, classes)


def match_classes(
    card: ModelCard,
    reference: str,
    dataset: Dataset,
    rules: ScoringRules,
    *,
    takes_classifiers: bool = False,
) -> ClassMapping:
    """How the model's classes stand for the data's.

    `takes_classifiers`: a classifier fits data with boxes too, to be scored at image level.

    Raises:
        ModelError: the model's task isn't the data set's.
        ClassMismatch: classes of the data that the model doesn't know.
    """
    if dataset.task == "unlabelled":
        return _own_classes(card, reference, rules)
    answers = takes_classifiers and (card.task, dataset.task) == ("classification", "detection")
    if card.task != dataset.task and not answers:
        raise ModelError(
            f"{reference} is a {card.task} model and {dataset.reference} is labelled for "
            f"{dataset.task}; choose data of the model's task."
        )
    counts = class_counts(dataset)
    return map_classes(card.classes, dataset.classes, rules.classes, counts=counts)


def _own_classes(card: ModelCard, reference: str, rules: ScoringRules) -> ClassMapping:
    """The model's classes as they are, less those that aren't asked for."""
    unknown = [name for name in rules.classes or () if name not in card.classes]
    if unknown:
        raise ClassMismatch(
            f"{reference} doesn't know {', '.join(unknown)}, and the data have no labels that say "
            f"what is meant; its classes are {', '.join(card.classes[:20])}."
        )
    return map_classes(card.classes, card.classes, rules.classes)


def map_predictions(
    mapping: ClassMapping, predictions: Sequence[Predictions], card: ModelCard
) -> Sequence[Predictions]:
    """The predictions in the data set's class ids.

    Where there are no classes (depth) nothing is mapped: maps stay in their file until asked for.
    """
    if not mapping.model_classes:
        return predictions
    if card.task == "classification" and card.activation == "sigmoid":
        return [_best_of_each(mapping, cast("Classification", one)) for one in predictions]
    return [apply(mapping, prediction) for prediction in predictions]


def _best_of_each(mapping: ClassMapping, prediction: Classification) -> Classification:
    """As `apply` where answers exclude none: what stands for one class isn't added up."""
    probabilities = np.zeros(len(mapping.dataset_classes), np.float32)
    known = mapping.to_dataset >= 0
    np.maximum.at(probabilities, mapping.to_dataset[known], prediction.probabilities[known])
    return Classification(probabilities)


def score_predictions(
    dataset: Dataset,
    card: ModelCard,
    mapping: ClassMapping,
    mapped: Sequence[Predictions],
    rules: ScoringRules,
) -> Accuracy:
    """The accuracy of predictions in the data set's class ids, one for each sample in order.

    Raises:
        DatasetError: a depth map can't be read, or has no measured pixel.
    """
    truths = [dataset.sample(index).truth for index in range(len(dataset))]
    if rules.level == "image":
        detects = card.task == "detection"
        return score_image_level(
            cast("list[BoxTruth]", truths),
            cast("Sequence[Detections | Classification]", mapped),
            dataset.classes,
            mapping.scored,
            threshold=THRESHOLD_OF_DETECTORS if detects else THRESHOLD_OF_CLASSIFIERS,
            resamples=rules.resamples,
            seed=rules.seed,
        )
    if dataset.task == "unlabelled":
        return unscored(card, len(dataset), rules.seed)
    depth = DepthScoring(card.depth or DepthCard(), read_depth) if card.task == "depth" else None
    return score(
        dataset.task,
        truths,
        mapped,
        dataset.classes,
        mapping.scored,
        depth=depth,
        resamples=rules.resamples,
        seed=rules.seed,
    )
