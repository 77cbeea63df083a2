"""The head seam: how a model's raw outputs are read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.predictions import FloatArray, Predictions
from visiondyno.specs.model_card import HeadName, ModelCard, OutputCard, OutputRole
from visiondyno.vision.preprocess import Geometry

Output = NDArray[Any]
Shape = tuple[int | None, ...]
"""A tensor's shape as its graph states it; None for a size known at run time only."""
Item = TypeVar("Item")


class Head(ABC):
    """Reads the outputs of one family of models.

    Contract: `decode` gives one prediction an image, in order; boxes are in pixels of the original
    image, cut at its edges where the card says so, best first, at most `max_detections`. Only
    scores **above** the confidence are kept. It keeps no state and may be called from any thread.
    """

    name: ClassVar[HeadName]
    task: ClassVar[str]
    layout: ClassVar[str]
    """The outputs' shapes in words, for messages."""
    defaults: ClassVar[OutputCard] = OutputCard()
    """The family's convention for what the card's `output` leaves open."""

    @abstractmethod
    def check(self, shapes: Sequence[Shape], card: ModelCard) -> None:
        """Raise `ModelError` unless outputs of these shapes fit this head and the card."""

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

    def output_of(self, card: ModelCard) -> OutputCard:
        """What the card says of the outputs, and this head's convention where it says nothing."""
        return overlaid(card.output, self.defaults)

    def lacks_batch_axis(
        self,
        shapes: Sequence[Shape],  # noqa: ARG002 - a default: those who override need it
        card: ModelCard,  # noqa: ARG002 - likewise
    ) -> bool:
        """Whether outputs of these shapes are one image's, without an axis of images."""
        return False

    def with_batch_axis(
        self,
        outputs: Sequence[Output],
        card: ModelCard,  # noqa: ARG002 - a default: those who override need it
    ) -> list[Output]:
        """The outputs with images as their first axis; see `lacks_batch_axis`."""
        return list(outputs)

    def by_role(
        self, items: Sequence[Item], card: ModelCard, shapes: Sequence[Shape]
    ) -> dict[OutputRole, list[Item]]:
        """One item an output, grouped by what the output holds, in the graph's order.

        Raises:
            ModelError: the roles don't fit the number of outputs.
        """
        roles = self.output_of(card).roles or ()
        if len(roles) != len(items):
            shown = ", ".join(map(show_shape, shapes))
            wanted = "one output" if len(roles) == 1 else f"{len(roles)} outputs"
            raise ModelError(
                f"Head '{self.name}' reads {wanted} {self.layout}, but the model has {len(items)} "
                f"({shown}); say what each holds by 'output.roles' in the model card."
            )
        found: dict[OutputRole, list[Item]] = {}
        for role, item in zip(roles, items, strict=True):
            found.setdefault(role, []).append(item)
        return found

    def wrong_shape(self, *shapes: Shape) -> ModelError:
        """The error for outputs that aren't this head's."""
        verb = "is" if len(shapes) == 1 else "are"
        return ModelError(
            f"Head '{self.name}' reads an output {self.layout}, but the model's {verb} "
            f"{', '.join(map(show_shape, shapes))}; choose another 'head' in the model card."
        )

    def roles_missing(self, wanted: str) -> ModelError:
        """The error for roles of which this head can make nothing."""
        return ModelError(
            f"Head '{self.name}' needs outputs of the roles {wanted}; correct 'output.roles' in "
            "the model card."
        )


class SingleOutputHead(Head):
    """A head of one output (further ones may have the role `unused`)."""

    defaults: ClassVar[OutputCard] = OutputCard(roles=("predictions",))

    @abstractmethod
    def class_count(self, shape: Shape, card: ModelCard) -> int | None:
        """How many classes an output of `shape` has; None where the shape doesn't say.

        Raises:
            ModelError: an output of this shape isn't this head's.
        """

    def check(self, shapes: Sequence[Shape], card: ModelCard) -> None:
        """See `Head.check`."""
        shape = self._single(shapes, card, shapes)
        check_class_count(self.class_count(shape, card), shape, card)

    def single_output(self, outputs: Sequence[Output], card: ModelCard, images: int) -> FloatArray:
        """The one output as float32, checked against the card and the number of images."""
        shapes = [output.shape for output in outputs]
        self.check(shapes, card)
        output = self._single(outputs, card, shapes)
        check_image_count([output], images)
        return output.astype(np.float32, copy=False)

    def _single(self, items: Sequence[Item], card: ModelCard, shapes: Sequence[Shape]) -> Item:
        found = self.by_role(items, card, shapes).get("predictions", [])
        if len(found) != 1:
            raise self.roles_missing("predictions (one)")
        return found[0]


class PerImageHead(SingleOutputHead):
    """A head of one output that reads each image by itself."""

    @abstractmethod
    def decode_one(
        self, output: FloatArray, card: ModelCard, geometry: Geometry, confidence: float
    ) -> Predictions:
        """One image's part of the output, without the axis of images; see `Head.decode`."""

    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,
    ) -> list[Predictions]:
        """See `Head.decode`."""
        batch = self.single_output(outputs, card, len(geometries))
        return [
            self.decode_one(output, card, geometry, confidence)
            for output, geometry in zip(batch, geometries, strict=True)
        ]


def overlaid(said: OutputCard | None, defaults: OutputCard) -> OutputCard:
    """`said`, and `defaults` where it says nothing."""
    if said is None:
        return defaults
    return defaults.model_copy(update={name: value for name, value in said if value is not None})


def check_class_count(count: int | None, shape: Shape, card: ModelCard) -> None:
    """Raise `ModelError` unless the card names as many classes as an output of `shape` has."""
    if count is not None and count != len(card.classes):
        raise ModelError(
            f"The model's output {show_shape(shape)} has {count} classes, but "
            f"{len(card.classes)} class names are given; correct 'classes' in the model card."
        )


def check_image_count(outputs: Sequence[Output], images: int) -> None:
    """Raise `ModelError` unless every output holds as many images as went in."""
    for output in outputs:
        if len(output) != images:
            raise ModelError(
                f"{images} images went in, but the output {show_shape(output.shape)} holds "
                f"{len(output)}; export the model again with a dynamic or another batch size."
            )


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
