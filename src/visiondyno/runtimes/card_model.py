"""A loaded model whose pre- and post-processing follow its model card."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.predictions import Image, Predictions
from visiondyno.runtimes.base import LoadedModel, ModelDescription
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.heads import HEADS, Output, check_no_nan
from visiondyno.vision.preprocess import PreparedBatch, PreparedGroups, Preprocessor


class CardModel(LoadedModel):
    """Everything of `LoadedModel` but running the graph itself, which subclasses do in `_run`."""

    def __init__(self, description: ModelDescription, output_names: Sequence[str]) -> None:
        self.description = description
        self._output_names = list(output_names)
        self._preprocessor = Preprocessor(description.card.input)
        self._is_any_size = description.card.input.resize == "letterbox_to_stride"
        self._head = HEADS[description.card.head]
        output = description.card.output
        self._quantisation = (output.quantisation if output else None) or ()
        self._batch_size = description.batch_size
        self._is_open = True

    @abstractmethod
    def _run(self, tensor: NDArray[Any]) -> list[Output]:
        """The outputs for one input tensor, of the fixed batch size where there is one."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of what the model holds."""

    def preprocess(self, images: Sequence[Image]) -> PreparedBatch | PreparedGroups:
        """See `LoadedModel.preprocess`. Groups where the model takes images of any size."""
        self._require_open()
        return (
            self._preprocessor.by_shape(images) if self._is_any_size else self._preprocessor(images)
        )

    def infer(self, prepared: PreparedBatch | PreparedGroups) -> list[Output]:
        """See `LoadedModel.infer`. Of the model's own batch size, nothing is copied.

        Groups are run one after another, and so are their outputs: what a model answers for an
        image doesn't depend on which others came with it.
        """
        self._require_open()
        if isinstance(prepared, PreparedGroups):
            return [output for batch in prepared.batches for output in self._infer(batch.tensor)]
        return self._infer(prepared.tensor)

    def postprocess(
        self,
        outputs: list[Output],
        prepared: PreparedBatch | PreparedGroups,
        *,
        confidence: float | None = None,
        iou: float | None = None,
    ) -> list[Predictions]:
        """See `LoadedModel.postprocess`."""
        self._require_open()
        card = self.description.card
        if iou is not None and card.detection is not None and card.detection.nms_iou is not None:
            detection = card.detection.model_copy(update={"nms_iou": iou})
            card = card.model_copy(update={"detection": detection})
        if confidence is None:
            confidence = card.detection.confidence if card.detection else 0.0
        if isinstance(prepared, PreparedBatch):
            return self._decoded(outputs, prepared, card, confidence)
        found: dict[int, Predictions] = {}
        count = len(outputs) // len(prepared.batches)
        for number, (batch, places) in enumerate(
            zip(prepared.batches, prepared.places, strict=True)
        ):
            part = outputs[number * count : (number + 1) * count]
            decoded = self._decoded(part, batch, card, confidence)
            found.update(zip(places, decoded, strict=True))
        return [found[place] for place in range(len(prepared))]

    def _infer(self, tensor: NDArray[Any]) -> list[Output]:
        if self._batch_size is None or len(tensor) == self._batch_size:
            return self._run(tensor)
        return self._run_in_pieces(tensor, self._batch_size)

    def _decoded(
        self, outputs: list[Output], batch: PreparedBatch, card: ModelCard, confidence: float
    ) -> list[Predictions]:
        check_no_nan(outputs, self._output_names)
        if self._quantisation:
            outputs = self._dequantised(outputs)
        return self._head.decode(outputs, card, batch.geometries, confidence)

    def close(self) -> None:
        """See `LoadedModel.close`."""
        if self._is_open:
            self._is_open = False
            self._free()

    def _run_in_pieces(self, tensor: NDArray[Any], size: int) -> list[Output]:
        pieces = []
        for start in range(0, len(tensor), size):
            piece = tensor[start : start + size]
            count = len(piece)
            if count < size:
                padding = np.zeros((size - count, *piece.shape[1:]), piece.dtype)
                piece = np.concatenate([piece, padding])
            found = self._head.with_batch_axis(self._run(piece), self.description.card)
            pieces.append([output[:count] for output in found])
        return [_joined(parts) for parts in zip(*pieces, strict=True)]

    def _dequantised(self, outputs: list[Output]) -> list[Output]:
        return [
            output
            if said is None
            else (output.astype(np.float32) - np.float32(said.zero_point)) * np.float32(said.scale)
            for output, said in zip(outputs, self._quantisation, strict=True)
        ]

    def _require_open(self) -> None:
        if not self._is_open:
            raise ModelError(f"{self.description.reference} is closed; load it again.")


def _joined(parts: Sequence[Output]) -> Output:
    """One output of several pieces; rows of boxes, whose number may differ, are filled with 0."""
    if len({part.shape[1:] for part in parts}) > 1:
        most = max(part.shape[1] for part in parts)
        parts = [
            np.pad(part, [(0, 0), (0, most - part.shape[1]), *[(0, 0)] * (part.ndim - 2)])
            for part in parts
        ]
    return np.concatenate(parts)
