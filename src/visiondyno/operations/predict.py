"""`predict`: run a model on images that came with the request, or that lie here as files."""

import base64
import binascii
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from visiondyno.errors import DatasetError, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predicted import as_json, lowest_score
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.predictions import Image
from visiondyno.runtimes.base import LoadOptions
from visiondyno.specs.operations import PredictInput
from visiondyno.vision.chosen_classes import class_ids
from visiondyno.vision.decode import decode_image

_LARGEST_BYTES = 200_000_000
"""Of an image file; what its header announces is limited by the decoder."""

_KEPT_BYTES = 300_000_000
"""Of pixels, from the look at all images before the first is predicted; more are decoded twice."""


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
    images = _Images(spec.images, context)
    answers: list[dict[str, Any]] = []
    with _predictor(spec, context) as answer:
        for image in images:
            answers.append(answer(image))
            context.progress("predicting", done=len(answers), total=len(spec.images))
    return {"operation": "predict", "status": "success", "predictions": answers}


def predict_files(
    spec: PredictInput, paths: Sequence[Path], context: OperationContext
) -> Generator[tuple[Path, dict[str, Any]], None, None]:
    """Of each file what `run` answers of an image, as soon as it is known: one at a time in memory.

    A file that can't be read has `error` (`code`, `message`), and the others are predicted.

    Args:
        spec: its images aren't looked at.
        paths: of the image files.
        context: of the job.

    Raises:
        DatasetError: the only file can't be read.
        SpecError, ModelError: as `run`.
    """
    files = ((path, _from_file(path)) for path in paths)
    for first in files:
        if not isinstance(first[1], DatasetError):
            break
        if len(paths) == 1:
            raise first[1]
        yield first[0], _told(first[1])
    else:
        return
    with _predictor(spec, context) as answer:
        for path, one in chain([first], files):
            context.check()
            yield path, _told(one) if isinstance(one, DatasetError) else answer(one)


@contextmanager
def _predictor(
    spec: PredictInput, context: OperationContext
) -> Iterator[Callable[[Image], dict[str, Any]]]:
    """The model, as what answers an image."""
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    with context.model(spec.model, options) as model:
        card = model.description.card
        names, least = card.classes, lowest_score(spec.confidence, card)
        kept = None if spec.classes is None else class_ids(spec.classes, names)

        def answer(image: Image) -> dict[str, Any]:
            (prediction,) = model.predict([image], confidence=least)
            return as_json(prediction, names, least, kept)

        yield answer


class _Images:
    """A request's images, all looked at before the first; never many of them in memory."""

    def __init__(self, texts: Sequence[str], context: OperationContext) -> None:
        """Decodes each, so that a bad one is told before a model is loaded.

        Raises: as `run`.
        """
        self._texts = texts
        self._files: WorkerFiles | None = None
        self._kept: list[Image | None] = []
        room_bytes = _KEPT_BYTES
        for number in range(1, len(texts) + 1):
            context.check()
            image = self._decoded(number)
            room_bytes -= image.nbytes
            self._kept.append(image if room_bytes >= 0 else None)

    def __iter__(self) -> Iterator[Image]:
        """Each in turn, once."""
        for index in range(len(self._texts)):
            image, self._kept[index] = self._kept[index], None
            yield self._decoded(index + 1) if image is None else image

    def _decoded(self, number: int) -> Image:
        text = self._texts[number - 1]
        if text.startswith("sha256:"):
            self._files = self._files or WorkerFiles.of_this_worker()
            data = self._files.read(text, f"Image {number}", _LARGEST_BYTES)
            return decode_image(data, f"image {number}")
        return _decode(text, number)


def _from_file(path: Path) -> Image | DatasetError:
    try:
        return decode_image(path.read_bytes(), str(path))
    except OSError as error:
        return DatasetError(f"{path} can't be read: {error.strerror}. Check the path.")
    except DatasetError as error:
        # The one that was raised refers to the image, and to itself by way of the caller's frame.
        return DatasetError(error.message)


def _told(error: DatasetError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message}}


def _decode(text: str, number: int) -> Image:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(
            f"Image {number} is neither base64 nor a blob (sha256:…); encode the file's bytes."
        ) from error
    return decode_image(data, f"image {number}")
