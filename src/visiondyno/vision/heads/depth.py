"""Head of depth models: one value a pixel."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import DepthMap, FloatArray, Predictions
from visiondyno.specs.model_card import HeadName, InputCard, ModelCard
from visiondyno.vision.heads.base import Output, Shape, SingleOutputHead
from visiondyno.vision.preprocess import Geometry


class DepthHead(SingleOutputHead):
    """`[n, 1, rows, columns]`, `[n, rows, columns]` or `[n, rows, columns, 1]`, as it comes.

    Padding is cut off and the rest resized to the original image, linearly, pixel centres to
    pixel centres (`align_corners=False`). A map of another size than the input is first brought to
    the input's, where there is padding to cut. What a value means, the card's `depth` says.
    """

    name: ClassVar[HeadName] = "depth"
    task = "depth"
    layout = "[n, 1, rows, columns], [n, rows, columns] or [n, rows, columns, 1]"

    def class_count(self, shape: Shape, card: ModelCard) -> int | None:
        """None: there are no classes."""
        if not (len(shape) == 3 or (len(shape) == 4 and {1, None} & {shape[1], shape[3]})):
            raise self.wrong_shape(shape)
        if card.input.resize == "shortest_side_crop":
            raise ModelError(
                "Resize 'shortest_side_crop' cuts off parts of the image, which would have no "
                "depth; use stretch or letterbox in the model card."
            )
        return None

    def decode(
        self,
        outputs: Sequence[Output],
        card: ModelCard,
        geometries: Sequence[Geometry],
        confidence: float,  # noqa: ARG002 - others' need
    ) -> list[Predictions]:
        """See `Head.decode`; the confidence is for detectors."""
        batch = self.single_output(outputs, card, len(geometries))
        if batch.ndim == 4:
            batch = batch[:, 0] if batch.shape[1] == 1 else batch[..., 0]
        return [
            DepthMap(_on_image(depth, card.input, geometry))
            for depth, geometry in zip(batch, geometries, strict=True)
        ]


def _on_image(depth: FloatArray, card: InputCard, geometry: Geometry) -> FloatArray:
    """The map (rows, columns) of an input as the original image's (height, width)."""
    # The sizes are whole (letterbox) or were cut to whole pixels; the rest is rounding.
    width = max(int(geometry.width * geometry.scale_x + 1e-3), 1)
    height = max(int(geometry.height * geometry.scale_y + 1e-3), 1)
    if (width, height) != (card.width, card.height):
        left, top = round(geometry.offset_x), round(geometry.offset_y)
        whole = _resized(depth, card.width, card.height)
        depth = whole[top : top + height, left : left + width]
    return np.ascontiguousarray(_resized(depth, geometry.width, geometry.height))


def _resized(depth: FloatArray, width: int, height: int) -> FloatArray:
    if depth.shape == (height, width):
        return depth
    import cv2

    resized: FloatArray = cv2.resize(depth, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized
