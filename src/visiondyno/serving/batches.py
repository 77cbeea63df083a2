"""A batch of items through a loaded model, in the replica: every item gets its own answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

from visiondyno.errors import DatasetError, ModelError, SpecError, VisionDynoError
from visiondyno.predictions import Image, Predictions
from visiondyno.runtimes.base import LoadedModel
from visiondyno.serving.bodies import body_of
from visiondyno.serving.tensor_batches import PreparedTensors, TensorBatches
from visiondyno.serving.wire import Answer, Item, Kind, Media, Stages
from visiondyno.specs.operations import DEFAULT_CONFIDENCE
from visiondyno.vision.decode import decode_image

"""Of a detector's boxes where neither request nor server says: cards keep far lower scores, for
scoring accuracy."""


@dataclass(slots=True)
class Prepared:
    """A batch that is decoded and pre-processed.

    Attributes:
        items: all of the batch.
        images: of those that could be decoded, by their place in `items`.
        refused: answers of the others, by their place.
        tensor: for `infer`; None where nothing could be decoded.
        decode_ms, preprocess_ms: taken so far.
    """

    items: Sequence[Item]
    images: dict[int, Image]
    refused: dict[int, Answer]
    tensor: Any
    decode_ms: float
    preprocess_ms: float


class Batches:
    """Runs batches through one model. `prepare` may be called from a thread of its own."""

    def __init__(self, model: LoadedModel, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """`clock` gives ns."""
        self._model = model
        self._card = model.description.card
        self._is_detector = self._card.task == "detection"
        self._clock = clock
        self._tensors = TensorBatches(model.graph, clock)

    def prepare(self, items: Sequence[Item]) -> Prepared | PreparedTensors:
        """Decode and pre-process; an item that can't be decoded gets its answer here.

        Items of tensors share no batch with others.
        """
        if items[0].kind is Kind.TENSORS:
            return self._tensors.prepare(items)
        started = self._clock()
        images: dict[int, Image] = {}
        refused: dict[int, Answer] = {}
        for place, item in enumerate(items):
            try:
                images[place] = _pixels(item)
            except VisionDynoError as error:
                refused[place] = problem(error)
        decoded = self._clock()
        tensor = self._model.preprocess(list(images.values())) if images else None
        done = self._clock()
        return Prepared(
            items, images, refused, tensor, (decoded - started) / 1e6, (done - decoded) / 1e6
        )

    def finish(self, prepared: Prepared | PreparedTensors) -> list[Answer]:
        """Infer and post-process; one answer an item, in order."""
        if isinstance(prepared, PreparedTensors):
            return self._tensors.finish(prepared)
        if not prepared.images:
            return [prepared.refused[place] for place in range(len(prepared.items))]
        started = self._clock()
        try:
            outputs = self._model.infer(prepared.tensor)
        except ModelError as error:
            failed = problem(error, 500)
            return [prepared.refused.get(place, failed) for place in range(len(prepared.items))]
        inferred = self._clock()
        bodies = self._bodies(prepared, outputs)
        stages = Stages(
            prepared.decode_ms,
            prepared.preprocess_ms,
            (inferred - started) / 1e6,
            (self._clock() - inferred) / 1e6,
        )
        answers = []
        for place in range(len(prepared.items)):
            if place in prepared.refused:
                answers.append(prepared.refused[place])
                continue
            status, media, body = bodies[place]
            answers.append(Answer(status, media, body, stages, rows=1))
        return answers

    def run(self, items: Sequence[Item]) -> list[Answer]:
        """`prepare` and `finish`."""
        return self.finish(self.prepare(items))

    def _bodies(self, prepared: Prepared, outputs: Any) -> dict[int, tuple[int, Media, bytes]]:
        """By place. Post-processing is of the whole batch, so once for each pair of thresholds."""
        found: dict[tuple[float | None, float | None], list[Predictions]] = {}
        bodies: dict[int, tuple[int, Media, bytes]] = {}
        for index, (place, image) in enumerate(prepared.images.items()):
            options = prepared.items[place].options
            conf = options.get("conf", DEFAULT_CONFIDENCE if self._is_detector else 0.0)
            cut = (conf if self._is_detector else None, options.get("iou"))
            try:
                if cut not in found:
                    found[cut] = self._model.postprocess(
                        outputs, prepared.tensor, confidence=cut[0], iou=cut[1]
                    )
                media, body = body_of(found[cut][index], image, self._card, options, conf)
                bodies[place] = (200, media, body)
            except VisionDynoError as error:
                refusal = problem(error, 500 if isinstance(error, ModelError) else None)
                bodies[place] = (refusal.status, refusal.media, refusal.body)
        return bodies


def problem(error: VisionDynoError, status: int | None = None) -> Answer:
    """The answer that tells of an item's own error."""
    body = to_json({"code": error.code, "message": error.message})
    return Answer(status or error.http_status, Media.PROBLEM, body)


def _pixels(item: Item) -> Image:
    if item.kind is Kind.IMAGE:
        return decode_image(bytes(item.payload), "The image")
    if item.kind is Kind.PIXELS:
        height, width = item.options["height"], item.options["width"]
        if height * width * 3 != len(item.payload):
            raise DatasetError(f"A frame of {width}×{height} pixels has {len(item.payload)} bytes.")
        return np.frombuffer(item.payload, np.uint8).reshape(height, width, 3)
    raise SpecError("This model takes images here; tensors go to /v2/models/NAME/infer.")
