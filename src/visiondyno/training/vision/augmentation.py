"""Images to learn from, changed a little at random, so that no epoch sees the same twice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import DatasetError
from visiondyno.predictions import Image
from visiondyno.training.vision.base import LabelledImage
from visiondyno.vision.decode import decode_image


@dataclass(frozen=True, slots=True)
class AugmentedImage:
    """An image as the module is to see it.

    Attributes:
        pixels: (height, width, 3) uint8, BGR.
        boxes_xyxy: (n, 4) float64, pixels.
        class_ids: (n,) int64.
    """

    pixels: Image
    boxes_xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]


def augmented(
    image: LabelledImage, drawn: np.random.Generator, flip: float, brightness: float
) -> AugmentedImage:
    """Read an image; mirror and brighten it at random.

    Args:
        image: as labelled.
        drawn: two numbers are drawn of it for each image, whatever comes of them.
        flip: share of images that are mirrored left to right.
        brightness: values are multiplied by a factor from 1 ± this, and cut at 255.

    Raises:
        DatasetError: the image can't be read.
    """
    is_mirrored, factor = drawn.random() < flip, 1 + brightness * (2 * drawn.random() - 1)
    try:
        data = image.path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{image.path} can't be read: {error.strerror}.") from error
    pixels = decode_image(data, str(image.path))
    boxes = image.boxes_xyxy
    if brightness:
        pixels = np.clip(np.rint(pixels * np.float32(factor)), 0, 255).astype(np.uint8)
    if is_mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        # Columns 2 and 0 are right and left: mirrored, each is the other's.
        boxes = np.column_stack(
            [image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]]
        )
    return AugmentedImage(pixels, boxes, image.class_ids)
