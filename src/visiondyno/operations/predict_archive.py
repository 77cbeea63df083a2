"""`predict` of a zip file: the model on its images, one after the other, never all in memory."""

import json
import tempfile
from pathlib import Path
from typing import IO, Any

from visiondyno.datasets.image_archive import JOB_LIMITS, ImageArchive
from visiondyno.errors import DatasetError, TooLarge
from visiondyno.operations.context import OperationContext
from visiondyno.operations.predicted import INLINE_BYTES, as_json, lowest_score, room_for_files
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.specs.archive import PredictArchiveInput
from visiondyno.vision.chosen_classes import class_ids
from visiondyno.vision.decode import decode_image


def run(spec: PredictArchiveInput, context: OperationContext) -> dict[str, Any]:
    """What `predict` answers of each image with its `name`, in the archive's order.

    A file that is no image, or a damaged one, has `error` (`code`, `message`) in its place, and the
    others are predicted; `errors` counts them. `predictions` are in the answer, or are a blob of
    JSON lines, `predictions_file`.

    Raises:
        NotFound: the zip file isn't among this worker's blobs.
        DatasetError, SpecError, TooLarge: it is refused; see `ImageArchive`.
        ModelError: the model can't be read or run.
        StorageFull, TransportDown: the blob can't be had, or what was made can't be kept.
    """
    files = WorkerFiles.of_this_worker()
    path = files.fetch(spec.archive, "The zip file", context.check)
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    with (
        room_for_files(),
        ImageArchive(path, JOB_LIMITS) as archive,
        tempfile.NamedTemporaryFile("w+b", prefix="visiondyno-") as lines,
        context.model(spec.model, options) as model,
    ):
        errors = _predict(archive, model, spec, lines, context)
        lines.flush()
        is_short = lines.tell() <= INLINE_BYTES
        context.progress("keeping the results")
        lines.seek(0)
        return {
            "operation": "predict",
            "status": "success",
            "images": len(archive.names) - errors,
            "errors": errors,
            "skipped": list(archive.skipped),
            "predictions": [json.loads(line) for line in lines] if is_short else None,
            "predictions_file": None if is_short else files.publish_file(Path(lines.name)),
        }


def _predict(
    archive: ImageArchive,
    model: LoadedModel,
    spec: PredictArchiveInput,
    lines: IO[bytes],
    context: OperationContext,
) -> int:
    """Write a line for each file; how many of them have errors."""
    card = model.description.card
    names, least = card.classes, lowest_score(spec.confidence, card)
    kept = None if spec.classes is None else class_ids(spec.classes, names)
    errors = 0
    for index, name in enumerate(archive.names):
        said: dict[str, Any] = {"name": name}
        try:
            image = decode_image(archive.read(index), f"'{name:.200}'")
        except (DatasetError, TooLarge) as error:
            said["error"] = {"code": error.code, "message": error.message}
            errors += 1
        else:
            (prediction,) = model.predict([image], confidence=least)
            said |= as_json(prediction, names, least, kept)
        lines.write(json.dumps(said).encode() + b"\n")
        context.progress("predicting", done=index + 1, total=len(archive.names))
    return errors
