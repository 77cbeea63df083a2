"""What the confined child does with a model that isn't trusted: check, load, predict.

It is given paths of images and never a label. What it answers is judged outside.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from pydantic import BaseModel, ConfigDict

from visiondyno.errors import ModelError, VisionDynoError
from visiondyno.measuring.described import describe
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.measuring.prediction_files import save_predictions
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.model_cards import METADATA_KEY
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.untrusted_onnx import check_untrusted
from visiondyno.specs.evaluation_task import InputRule
from visiondyno.specs.model_card import ModelCard

Emit = Callable[[dict[str, Any]], None]

_ALLOCATION = ("bad_alloc", "bad allocation", "failed to allocate", "out of memory")
_LONGEST_REASON = 200


class UntrustedInput(BaseModel):
    """What the child needs; of the task, what has no labels in it.

    Attributes:
        model: path of the file.
        images: paths, in order.
        card: how the model is fed, where it doesn't say it itself.
        gpu_memory_limit_bytes: the worker's share of the GPU; None without a limit.
        predictions_file: where the predictions go; it must be there already.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    images: tuple[str, ...]
    rule: InputRule
    card: ModelCard | None
    batch_size: int
    device: str
    gpu_memory_limit_bytes: int | None = None
    threads: int | None
    max_bytes: int
    memory_bytes: int
    predictions_file: str
    started_ns: int


def predict_untrusted(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Check the model and predict every image.

    Returns:
        `description` of the model and `predict_s`.

    Raises:
        ModelError: it is refused, can't be run, or wants more memory than there is.
    """
    spec = UntrustedInput.model_validate(payload)
    path = Path(spec.model)
    emit({"stage": "checking the model"})
    with _in_words(spec.memory_bytes):
        check_untrusted(path, spec.rule, max_bytes=spec.max_bytes, memory_bytes=spec.memory_bytes)
    emit({"stage": "loading the model"})
    with _in_words(spec.memory_bytes):
        if spec.threads is not None:
            cv2.setNumThreads(spec.threads)
        says_itself = METADATA_KEY in read_onnx(path).metadata
        options = LoadOptions(
            device=spec.device,
            intra_op_threads=spec.threads,
            gpu_memory_limit_bytes=spec.gpu_memory_limit_bytes,
            card=None if says_itself else spec.card,
        )
        with load_model(spec.model, options) as model:
            description = describe(model.description)
            emit({"stage": "running the model", "description": description})
            start_s = time.monotonic()
            images = EncodedImages([Path(one) for one in spec.images])
            each = predict_each(
                model,
                images,
                batch_size=model.description.batch_size or spec.batch_size,
                on_done=lambda done: emit({"stage": "running the model", "done": done}),
            )
            save_predictions(Path(spec.predictions_file), each)
    return {"description": description, "predict_s": time.monotonic() - start_s}


@contextmanager
def _in_words(memory_bytes: int) -> Iterator[None]:
    """Whatever a hostile model makes our own code stumble over is the model's fault."""
    try:
        yield
    except (Exception, MemoryError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _ALLOCATION):
            raise ModelError(
                f"The model needs more memory than the {memory_bytes / 1e9:.1f} GB that a "
                "submission has; make it smaller."
            ) from error
        if isinstance(error, VisionDynoError):
            raise
        kind = type(error).__name__
        raise ModelError(
            f"The model can't be run ({kind}: {text[:_LONGEST_REASON]}); export it again."
        ) from error
