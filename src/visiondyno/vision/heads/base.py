"""The head seam: how a model's raw output is read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.predictions import Predictions
from visiondyno.specs.model_card import HeadName, ModelCard
from visiondyno.vision.preprocess import Geometry

Output = NDArray[Any]
Shape = tuple[int | None, ...]
"""A tensor's shape as its graph states it; None for a size known at run time only."""


class Head(ABC):
    """Reads the output of one family of models.

    Contract: `decode` gives one prediction an image, in order; boxes are in pixels of the original
    image, cut at its edges where the card says so, best first, at most `max_detections`. Only
    scores **above** the confidence are kept. It keeps no state and may be called from any thread.
    """

    name: ClassVar[HeadName]
    task: ClassVar[str]
    layout: ClassVar[str]
    """The output's shape in words, for messages."""

    @abstractmethod
    def class_count(self, shape: Shape, card: ModelCard) -> int | None:
        """How many classes an output of `shape` has; None where the shape doesn't say.

        Raises:
            ModelError: an output of this shape isn't this head's.
        """

    @abstractmethod
    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,
    ) -> list[Predictions]:
        """The model's outputs (first axis: images) to predictions.

        Raises:
            ModelError: the outputs don't fit this head, the card or the number of images.
        """

    def check(self, shapes: Sequence[Shape], card: ModelCard) -> None:
        """Raise `ModelError` unless outputs of these shapes fit this head and the card's names."""
        if len(shapes) != 1:
            raise ModelError(
                f"Head '{self.name}' reads one output {self.layout}, but the model has "
                f"{len(shapes)} ({', '.join(map(show_shape, shapes))})."
            )
        count = self.class_count(shapes[0], card)
        if count is not None and count != len(card.classes):
            raise ModelError(
                f"The model's output {show_shape(shapes[0])} has {count} classes, but "
                f"{len(card.classes)} class names are given; correct 'classes' in the model card."
            )

    def wrong_shape(self, shape: Shape) -> ModelError:
        """The error for an output that isn't this head's."""
        return ModelError(
            f"Head '{self.name}' reads an output {self.layout}, but the model's is "
            f"{show_shape(shape)}; choose another 'head' in the model card."
        )

    def single_output(
        self, outputs: Sequence[Output], card: ModelCard, images: int
    ) -> NDArray[np.float32]:
        """The one output as float32, checked against the card and the number of images."""
        self.check([output.shape for output in outputs], card)
        output = outputs[0]
        if len(output) != images:
            raise ModelError(
                f"{images} images went in, but the output {show_shape(output.shape)} holds "
                f"{len(output)}; export the model again with a dynamic or another batch size."
            )
        return output.astype(np.float32, copy=False)


def show_shape(shape: Sequence[int | None]) -> str:
    """`[1, 84, ?]`."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def check_no_nan(outputs: Sequence[Output], names: Sequence[str]) -> None:
    """Raise `ModelError` naming the first output that holds a NaN."""
    for output, name in zip(outputs, names, strict=True):
        # The minimum is NaN where any value is, and needs no array of flags.
        if output.size and output.dtype.kind == "f" and np.isnan(output.min()):
            raise ModelError(
                f"The model's output '{name}' holds NaN; its numbers can't be used. Check the "
                "export, and that an fp16 model doesn't overflow."
            )
