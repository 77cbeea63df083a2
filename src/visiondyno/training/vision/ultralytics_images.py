"""Labelled images as Ultralytics' augmentation takes them: from memory, nothing written."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np

from visiondyno.predictions import Image
from visiondyno.training.vision.base import LabelledImage
from visiondyno.vision.decode import decode_image

MAX_KEPT_BYTES = 1_000_000_000
"""Of decoded images at the training's size, kept in memory; those beyond are decoded each time."""


class _LabelledImages:
    """Overrides what the library's data set does with files.

    Its own reading repairs JPEG files in place, writes caches beside them, takes a `.npy` file of
    the same name for the image, and turns images by EXIF, which labels don't follow.
    """

    imgsz: int
    _given: Sequence[LabelledImage]
    _kept: dict[int, Image]
    _kept_bytes: int

    def get_img_files(self, img_path: Sequence[LabelledImage]) -> list[str]:
        self._given, self._kept, self._kept_bytes = img_path, {}, 0
        return [str(image.path) for image in img_path]

    def get_labels(self) -> list[dict[str, Any]]:
        return [_label(image) for image in self._given]

    def check_cache_ram(self, *_: Any, **__: Any) -> bool:
        # With the cache "ram" mosaics draw from all images: from the library's buffer of recent
        # ones, a resumed epoch would draw others. Filling that cache is left to `load_image`.
        return False

    def load_image(
        self, i: int, *_: Any, **__: Any
    ) -> tuple[Image, tuple[int, int], tuple[int, int]]:
        """The image with its longer side at the training's size; its size before and after."""
        image = self._kept.get(i)
        given = self._given[i]
        if image is None:
            image = scaled_to(decode_image(given.path.read_bytes(), str(given.path)), self.imgsz)
            if self._kept_bytes + image.nbytes <= MAX_KEPT_BYTES:
                self._kept[i] = image
                self._kept_bytes += image.nbytes
        return image.copy(), (given.height, given.width), (image.shape[0], image.shape[1])


def scaled_to(image: Image, side_pixels: int) -> Image:
    """The image with its longer side so long, its aspect kept; the shorter side rounded up."""
    height, width = image.shape[:2]
    ratio = side_pixels / max(height, width)
    if ratio == 1:
        return image
    size = (
        min(int(np.ceil(width * ratio)), side_pixels),
        min(int(np.ceil(height * ratio)), side_pixels),
    )
    scaled: Image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return scaled


@cache
def images_class() -> type[Any]:
    """The library's data set class with our reading; call it as `YOLODataset`, images as paths."""
    from ultralytics.data.dataset import YOLODataset

    return type("LabelledImages", (_LabelledImages, YOLODataset), {})


def _label(image: LabelledImage) -> dict[str, Any]:
    size = np.array([image.width, image.height] * 2, np.float64)
    boxes = image.boxes_xyxy.reshape(-1, 4) / size
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return {
        "im_file": str(image.path),
        "shape": (image.height, image.width),
        "cls": image.class_ids.reshape(-1, 1).astype(np.float32),
        "bboxes": np.hstack([centres, boxes[:, 2:] - boxes[:, :2]]).astype(np.float32),
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }
