"""Boxes as models write them, to left, top, right, bottom in input pixels."""

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import FloatArray, IntArray
from visiondyno.specs.model_card import BoxFormat, InputCard
from visiondyno.vision.heads.boxes import centre_to_corners


def to_input_pixels(boxes: FloatArray, form: BoxFormat, card: InputCard) -> FloatArray:
    """Boxes (n, 4) written as `form` to xyxy in pixels of the input.

    Args:
        boxes: (n, 4) float32.
        form: any but the formats that need a grid.
        card: of the input.
    """
    size = np.array([card.width, card.height] * 2, np.float32)
    match form:
        case "xyxy_pixels":
            return boxes
        case "xyxy_normalised":
            return boxes * size
        case "yxyx_normalised":
            return boxes[:, [1, 0, 3, 2]] * size
        case "cxcywh_normalised":
            return centre_to_corners(boxes * size)
        case _:
            raise ModelError(
                f"Boxes written as '{form}' need a grid; choose another 'output.boxes' in the "
                "model card."
            )


def class_ids_of(numbers: FloatArray, first_class: int, classes: int) -> IntArray:
    """Class numbers as the model writes them to indices of its class names.

    Raises:
        ModelError: a number has no name.
    """
    class_ids = np.rint(numbers).astype(np.int64) - first_class
    wrong = (class_ids < 0) | (class_ids >= classes)
    if wrong.any():
        since = f" from number {first_class}" if first_class else ""
        raise ModelError(
            f"The model answered class number {class_ids[wrong][0] + first_class}, but {classes} "
            f"class names are given{since}; correct 'classes' in the model card."
        )
    return class_ids
