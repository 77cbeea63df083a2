"""A loaded model whose own library prepares its images and reads its outputs."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, Detections, Image, Predictions
from visiondyno.runtimes.base import LoadedModel, ModelDescription
from visiondyno.vision.preprocess import check_crop, check_image


class NativeModel(LoadedModel):
    """What all such models share: open or closed, NaN refused, boxes above the confidence only."""

    def __init__(self, description: ModelDescription) -> None:
        self.description = description
        self._is_open = True

    @abstractmethod
    def _prepare(self, images: Sequence[Image]) -> Any:
        """See `LoadedModel.preprocess`."""

    @abstractmethod
    def _forward(self, prepared: Any) -> Any:
        """See `LoadedModel.infer`; what it returns is on the host: a GPU has finished."""

    @abstractmethod
    def _read(
        self, outputs: Any, prepared: Any, confidence: float, iou: float | None
    ) -> list[Predictions]:
        """See `LoadedModel.postprocess`; `confidence` is 0 where nobody said any."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of what the model holds."""

    def preprocess(self, images: Sequence[Image]) -> Any:
        """See `LoadedModel.preprocess`."""
        self._require_open()
        if not images:
            raise ModelError("No image was given; a batch holds at least one.")
        shortest = self._cropped_from()
        for image in images:
            check_image(image)
            if shortest is not None:
                check_crop(image, shortest)
        return self._prepare(images)

    def infer(self, prepared: Any) -> Any:
        """See `LoadedModel.infer`."""
        self._require_open()
        return self._forward(prepared)

    def postprocess(
        self,
        outputs: Any,
        prepared: Any,
        *,
        confidence: float | None = None,
        iou: float | None = None,
    ) -> list[Predictions]:
        """See `LoadedModel.postprocess`."""
        self._require_open()
        card = self.description.card
        if confidence is None:
            confidence = card.detection.confidence if card.detection else 0.0
        found = self._read(outputs, prepared, confidence, iou)
        for one in found:
            self._check_finite(one)
        return found

    def close(self) -> None:
        """See `LoadedModel.close`."""
        if self._is_open:
            self._is_open = False
            self._free()

    def _cropped_from(self) -> int | None:
        """Pixels of the shorter side before the middle is cut out; None where nothing is."""
        card = self.description.card.input
        return card.crop_from if card.resize == "shortest_side_crop" else None

    def _check_finite(self, one: Predictions) -> None:
        arrays: tuple[Any, ...]
        if isinstance(one, Detections):
            arrays = (one.boxes_xyxy, one.scores)
        else:
            arrays = (one.probabilities if isinstance(one, Classification) else one.depth,)
        if any(np.isnan(array).any() for array in arrays):
            raise ModelError(
                f"{self.description.reference} answered NaN; its weights are damaged, or its "
                "precision is too low for its input."
            )

    def _require_open(self) -> None:
        if not self._is_open:
            raise ModelError(f"{self.description.reference} is closed; load it again.")
