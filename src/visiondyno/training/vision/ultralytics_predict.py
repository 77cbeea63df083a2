"""Predictions of an Ultralytics detector as it is trained: as its runtime makes them later."""

from collections.abc import Callable, Sequence
from typing import Any

from visiondyno.predictions import Image, Predictions
from visiondyno.specs.model_card import DetectionCard, HeadName, InputCard, ModelCard
from visiondyno.vision.heads import HEADS
from visiondyno.vision.preprocess import Preprocessor

BATCH_SIZE = 16
_LEAST_STRIDE = 32
LOWEST_SCORE = 0.001


def stride_of(model: Any) -> int:
    """Sides of a `DetectionModel`'s images are multiples of it, pixels: 64 of those with a P6."""
    return max(int(model.stride.max()), _LEAST_STRIDE)


def predict(
    model: Any,
    images: Sequence[Image],
    classes: tuple[str, ...],
    side_pixels: int,
    check: Callable[[], None],
) -> list[Predictions]:
    """What `model` finds in decoded images, with scores above .001.

    Args:
        model: a `DetectionModel` in evaluation mode.
        images: decoded.
        classes: in the order of its output.
        side_pixels: of the square that images are padded to.
        check: called before each batch.
    """
    import torch

    head: HeadName = "end_to_end" if model.end2end else "yolov8"
    card = ModelCard(
        schema="visiondyno.model/1",
        task="detection",
        head=head,
        classes=classes,
        input=InputCard(
            height=side_pixels,
            width=side_pixels,
            resize="letterbox_to_stride",
            stride=stride_of(model),
        ),
        detection=DetectionCard(nms_iou=None) if model.end2end else DetectionCard(),
    )
    preprocess, device = Preprocessor(card.input), next(model.parameters()).device
    found: list[Predictions] = []
    with torch.no_grad():  # tensors that inference mode leaves in the model can't be trained on
        for first in range(0, len(images), BATCH_SIZE):
            check()
            groups = preprocess.by_shape(images[first : first + BATCH_SIZE])
            here: dict[int, Predictions] = {}
            for batch, places in zip(groups.batches, groups.places, strict=True):
                outputs = model(torch.from_numpy(batch.tensor).to(device))
                rows = (outputs[0] if isinstance(outputs, tuple) else outputs).float().cpu()
                decoded = HEADS[head].decode([rows.numpy()], card, batch.geometries, LOWEST_SCORE)
                here.update(zip(places, decoded, strict=True))
            found += [here[place] for place in range(len(groups))]
    return found
