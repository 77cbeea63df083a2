"""How good a vision model is after an epoch: point values only, the same for every library.

The same code as that of comparisons gives them, less the intervals, which would take longer than
small trainings themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from visiondyno.operations.context import OperationContext
from visiondyno.operations.scoring import THRESHOLD_OF_CLASSIFIERS
from visiondyno.operations.vision_training_data import (
    KEPT_BYTES,
    Held,
    batches_of,
    decoded_bytes,
)
from visiondyno.predictions import Classification, Detections, Image, Predictions
from visiondyno.vision.accuracy import score_image_level
from visiondyno.vision.accuracy.coco import evaluate

Predict = Callable[[Sequence[Image]], list[Predictions]]
Metrics = dict[str, float]

BATCH_SIZE = 16

MAIN = {"detection": "map_50_95", "classification": "image_ap"}
"""What the best epoch is best in."""

_LEAST_RESAMPLES = 2
_IMAGE_LEVEL = ("image_ap", "image_auc", "image_accuracy", "precision", "recall", "f1")


class EpochScores:
    """Scores a model on the images that were held back; keeps them decoded where they are few."""

    def __init__(self, held: Held, classes: tuple[str, ...], context: OperationContext) -> None:
        """`classes` are the model's, in order."""
        self._held = held
        self._classes = classes
        self._context = context
        self._kept: list[list[Image]] | None = None

    def __call__(self, predict: Predict, epoch: int) -> Metrics:
        """The metrics of the model that `predict` is of, less those that the data can't tell."""
        found: list[Predictions] = []
        for images in self._batches():
            found += predict(images)
            self._context.check()
        self._context.progress("scoring", epoch=epoch)
        if found and isinstance(found[0], Classification):
            metrics = self._image_level(cast("list[Classification]", found))
        else:
            metrics = self._boxes(cast("list[Detections]", found))
        return {name: value for name, value in metrics.items() if value is not None}

    def _boxes(self, found: list[Detections]) -> dict[str, float | None]:
        held = self._held
        table = evaluate(held.truths, found, held.class_ids)
        return {
            "map_50_95": table.average_precision(),
            "map_50": table.average_precision(iou=0.5),
            "map_75": table.average_precision(iou=0.75),
        }

    def _image_level(self, found: list[Classification]) -> dict[str, float | None]:
        held = self._held
        scored = score_image_level(
            held.truths,
            found,
            self._classes,
            [self._classes[class_id] for class_id in held.class_ids],
            threshold=THRESHOLD_OF_CLASSIFIERS,
            resamples=_LEAST_RESAMPLES,
        )
        return {name: scored.measures[name].value for name in _IMAGE_LEVEL}

    def _batches(self) -> Any:
        samples = self._held.samples
        if decoded_bytes(samples) > KEPT_BYTES:
            return batches_of(samples, BATCH_SIZE, self._context)
        if self._kept is None:
            self._kept = list(batches_of(samples, BATCH_SIZE, self._context))
        return self._kept
