"""`predict`: run a model on images that came with the request."""

import base64
import binascii
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predicted import as_json
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.predictions import Image
from visiondyno.runtimes.base import LoadOptions
from visiondyno.specs.operations import PredictInput
from visiondyno.vision.chosen_classes import class_ids
from visiondyno.vision.decode import decode_image

_LARGEST_BYTES = 200_000_000
"""Of an image file; what its header announces is limited by the decoder."""


def run(spec: PredictInput, context: OperationContext) -> dict[str, Any]:
    """Predictions of each image, in order.

    Of a detector: `boxes_xyxy` (pixels), `scores`, `classes` (ids), `names`, best first. Of a
    classifier: the five best `scores`, `classes`, `names`.

    Raises:
        SpecError: an image isn't base64, or the model has no such class.
        NotFound: an image is a blob that this worker's store doesn't have.
        TooLarge: such a blob is longer than any image is.
        DatasetError: an image can't be decoded.
        ModelError: the model can't be read or run.
    """
    images = _decoded(spec.images)
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    answers: list[dict[str, Any]] = []
    with context.model(spec.model, options) as model:
        names = model.description.card.classes
        kept = None if spec.classes is None else class_ids(spec.classes, names)
        for image in images:
            (prediction,) = model.predict([image], confidence=spec.confidence)
            answers.append(as_json(prediction, names, spec.confidence, kept))
            context.progress("predicting", done=len(answers), total=len(images))
    return {"operation": "predict", "status": "success", "predictions": answers}


def _decoded(texts: tuple[str, ...]) -> list[Image]:
    files = None
    images = []
    for number, text in enumerate(texts, start=1):
        if text.startswith("sha256:"):
            files = files or WorkerFiles.of_this_worker()
            data = files.read(text, f"Image {number}", _LARGEST_BYTES)
            images.append(decode_image(data, f"image {number}"))
        else:
            images.append(_decode(text, number))
    return images


def _decode(text: str, number: int) -> Image:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(
            f"Image {number} is neither base64 nor a blob (sha256:…); encode the file's bytes."
        ) from error
    return decode_image(data, f"image {number}")
