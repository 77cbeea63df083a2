"""Score a model's predictions against a data set's labels: shared by benchmark and evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.class_mapping import ClassMapping, apply, map_classes
from visiondyno.datasets.depth import read_depth
from visiondyno.datasets.indexed import class_counts
from visiondyno.errors import ModelError
from visiondyno.predictions import Predictions
from visiondyno.specs.model_card import DepthCard, ModelCard
from visiondyno.vision.accuracy import Accuracy, DepthScoring, score


@dataclass(frozen=True, slots=True)
class ScoringRules:
    """What is scored and how it is resampled."""

    classes: tuple[str, ...] | None
    resamples: int
    seed: int


def check_requested_classes(dataset: Dataset, classes: tuple[str, ...] | None) -> None:
    """Find a class that the data doesn't have before any model is started.

    Raises:
        ClassMismatch: names the class and those that there are.
    """
    map_classes(dataset.classes, dataset.classes, classes)


def match_classes(
    card: ModelCard, reference: str, dataset: Dataset, rules: ScoringRules
) -> ClassMapping:
    """How the model's classes stand for the data's.

    Raises:
        ModelError: the model's task isn't the data set's.
        ClassMismatch: classes of the data that the model doesn't know.
    """
    if card.task != dataset.task:
        raise ModelError(
            f"{reference} is a {card.task} model and {dataset.reference} is labelled for "
            f"{dataset.task}; choose data of the model's task."
        )
    counts = class_counts(dataset)
    return map_classes(card.classes, dataset.classes, rules.classes, counts=counts)


def map_predictions(
    mapping: ClassMapping, predictions: Sequence[Predictions]
) -> Sequence[Predictions]:
    """The predictions in the data set's class ids.

    Where there are no classes (depth) nothing is mapped: maps stay in their file until asked for.
    """
    if not mapping.model_classes:
        return predictions
    return [apply(mapping, prediction) for prediction in predictions]


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
