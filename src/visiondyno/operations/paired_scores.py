"""Source and made model scored on the same labelled images, and their paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visiondyno.datasets.base import Dataset
from visiondyno.errors import ClassMismatch, ModelError
from visiondyno.operations.learned_images import learned_notes
from visiondyno.operations.scoring import (
    ScoringRules,
    level_of,
    map_predictions,
    match_classes,
    score_predictions,
)
from visiondyno.predictions import BoxTruth, Predictions
from visiondyno.runtimes.base import LoadedModel
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.accuracy import Accuracy, paired_difference

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Each None where the images can't be scored; `notes` then say why.

    Attributes:
        source_metrics: name → value.
        metrics: of what was made.
        differences: name → `difference` (made minus source) and `interval` (95 %, paired over the
            images' half-samples; None for too few images, and where nothing differs).
    """

    source_metrics: dict[str, float] | None = None
    metrics: dict[str, float] | None = None
    differences: dict[str, dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As in an operation's output."""
        return {
            "source_metrics": self.source_metrics,
            "metrics": self.metrics,
            "metric_differences": self.differences,
        }


def paired_scores(
    dataset: Dataset,
    source: LoadedModel,
    made: ModelCard,
    source_predictions: Sequence[Predictions],
    made_predictions: Sequence[Predictions],
) -> PairedScores:
    """Score both.

    Args:
        dataset: the images.
        source: whose card says how its predictions are read.
        made: the same of what was made.
        source_predictions: one a sample, in order.
        made_predictions: likewise.
    """
    if not _has_labels(dataset):
        return PairedScores(
            notes=(f"{dataset.reference} has no labels in these images: nothing is scored.",)
        )
    cards = (source.description.card, made)
    reference = source.description.reference
    try:
        rules = ScoringRules(None, _RESAMPLES, 0, level_of(None, dataset, cards))
        first, second = (
            _scored(dataset, card, reference, found, rules)
            for card, found in zip(cards, (source_predictions, made_predictions), strict=True)
        )
    except (ClassMismatch, ModelError) as error:
        return PairedScores(notes=(f"Not scored on {dataset.reference}: {error.message}",))
    return PairedScores(
        _values(first),
        _values(second),
        {name: _difference(second, first, name) for name in _comparable(first, second)},
        learned_notes([reference], dataset),
    )


def _has_labels(dataset: Dataset) -> bool:
    if dataset.task == "unlabelled":
        return False
    truths = (dataset.sample(index).truth for index in range(len(dataset)))
    return any(not isinstance(truth, BoxTruth) or len(truth) for truth in truths)


def _scored(
    dataset: Dataset,
    card: ModelCard,
    reference: str,
    predictions: Sequence[Predictions],
    rules: ScoringRules,
) -> Accuracy:
    mapping = match_classes(card, reference, dataset, rules, takes_classifiers=True)
    mapped = map_predictions(mapping, predictions, card)
    return score_predictions(dataset, card, mapping, mapped, rules)


def _values(accuracy: Accuracy) -> dict[str, float]:
    return {
        name: measure.value
        for name, measure in accuracy.measures.items()
        if measure.value is not None
    }


def _comparable(first: Accuracy, second: Accuracy) -> list[str]:
    shared = [name for name in first.resampled if name in second.resampled]
    return [name for name in shared if name in _values(first) and name in _values(second)]


def _difference(made: Accuracy, source: Accuracy, name: str) -> dict[str, Any]:
    value, interval = paired_difference(made, source, name)
    return {"difference": value, "interval": None if interval is None else list(interval)}
