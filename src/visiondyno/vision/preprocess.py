"""Decoded images to a model's input tensor, and the way back for its boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.predictions import FloatArray, Image
from visiondyno.specs.model_card import InputCard

# OpenCV is imported where images are resized: models run without it on tensors made elsewhere.
_INTERPOLATION = {
    "linear": "INTER_LINEAR",
    "area": "INTER_AREA",
    "cubic": "INTER_CUBIC",
    "nearest": "INTER_NEAREST",
}
_MOST_SCALED_PIXELS = 100_000_000
_CHANNEL_ORDER = {"bgr": (0, 1, 2), "rgb": (2, 1, 0)}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where an image lies in the model's input: `input = original * scale + offset`.

    Attributes:
        scale_x: input pixels per original pixel, horizontally.
        scale_y: the same, vertically.
        offset_x: of the image's left edge in the input, in input pixels.
        offset_y: of its top edge.
        width: of the original image, in pixels.
        height: of the original image, in pixels.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    height: int

    def to_original(self, boxes_xyxy: FloatArray, *, clip: bool) -> FloatArray:
        """Boxes (n, 4) in input pixels to pixels of the original image, cut at its edges or not."""
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        boxes: FloatArray = (boxes_xyxy - offset) / scale
        if clip:
            limit = np.array([self.width, self.height] * 2, np.float32)
            np.clip(boxes, np.float32(0), limit, out=boxes)
        return boxes


@dataclass(frozen=True, slots=True, eq=False)
class PreparedBatch:
    """What `Preprocessor` makes of some images.

    Attributes:
        tensor: (n, 3, h, w) or (n, h, w, 3), contiguous, in the card's dtype.
        geometries: one an image.
    """

    tensor: NDArray[Any]
    geometries: tuple[Geometry, ...]

    def __len__(self) -> int:
        return len(self.geometries)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedGroups:
    """Some images whose tensors differ in shape: a batch of each shape.

    Attributes:
        batches: in the order in which their shapes first came.
        places: for each batch, where its images stood among all, ascending.
    """

    batches: tuple[PreparedBatch, ...]
    places: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return sum(map(len, self.batches))


class Preprocessor:
    """Images to input tensors, as an `InputCard` says.

    The conventions, each exactly as the toolchain that made it popular: `letterbox` rounds the
    scaled size to the nearest pixel (halves to even) and splits the padding with the odd pixel at
    the right and bottom (Ultralytics); `letterbox_to_stride` does the same, with no more padding
    than the next multiple of the stride needs (Ultralytics' `auto`); `letterbox_top_left` truncates
    the scaled size and pads at the right and bottom (YOLOX); `stretch` ignores the aspect ratio;
    `shortest_side_crop` scales the shortest side to `crop_from`, truncating the other, and crops
    the centre (torchvision).
    OpenCV resizes; its `linear` has no antialiasing, so cards for classifiers trained on
    antialiased images say `area`.

    Thread safety: keeps no state between calls.
    """

    def __init__(self, card: InputCard) -> None:
        """Raises `ModelError` for a card that can only feed nonsense."""
        if card.resize == "shortest_side_crop" and (card.crop_from or 0) < max(
            card.height, card.width
        ):
            raise ModelError(
                f"Resize 'shortest_side_crop' needs 'crop_from' of at least the input's longest "
                f"side, {max(card.height, card.width)}; set it in the model card."
            )
        if 0.0 in card.std:
            raise ModelError("The model card's 'std' holds a 0; use values above 0.")
        self._card = card
        self._interpolation = _INTERPOLATION[card.interpolation]
        self._order = _CHANNEL_ORDER[card.channels]
        self._factors = tuple(np.float32(card.scale / std) for std in card.std)
        self._biases = tuple(
            np.float32(mean / std) for mean, std in zip(card.mean, card.std, strict=True)
        )
        self._is_plain = all(f == 1 for f in self._factors) and not any(self._biases)
        self._integers = _integer_tables(card)
        if card.dtype == "uint8" and not self._is_plain and self._integers is None:
            raise ModelError(
                "A uint8 input takes pixels as they are; set 'scale: 1', mean 0 and std 1 in the "
                "model card, or its 'quantisation'."
            )

    def __call__(self, images: Sequence[Image]) -> PreparedBatch:
        """The batch of `images`, each (h, w, 3) uint8 BGR, of any sizes.

        Raises:
            ModelError: an image isn't of that shape and type, or there is none, or their tensors
                differ in shape (`letterbox_to_stride` only, where `by_shape` is for that).
        """
        sizes = self._sizes(images)
        if len(set(sizes)) > 1:
            raise ModelError(
                "Images of these sizes don't fit one batch of a model that takes any size; give "
                "them one by one."
            )
        return self._batch(images, sizes[0])

    def by_shape(self, images: Sequence[Image]) -> PreparedGroups:
        """The batches of `images`, one a shape of their tensors; see `__call__`."""
        sizes = self._sizes(images)
        places: dict[tuple[int, int], list[int]] = {}
        for place, size in enumerate(sizes):
            places.setdefault(size, []).append(place)
        batches = [
            self._batch([images[place] for place in found], size) for size, found in places.items()
        ]
        return PreparedGroups(tuple(batches), tuple(map(tuple, places.values())))

    def _sizes(self, images: Sequence[Image]) -> list[tuple[int, int]]:
        if not images:
            raise ModelError("No image was given; a batch holds at least one.")
        for image in images:
            check_image(image)
        return [self._input_size(image) for image in images]

    def _input_size(self, image: Image) -> tuple[int, int]:
        """(height, width) of what `image` becomes."""
        card = self._card
        if card.resize != "letterbox_to_stride":
            return card.height, card.width
        assert card.stride is not None
        height, width = self._scaled_size(image)
        return (
            height + (card.height - height) % card.stride,
            width + (card.width - width) % card.stride,
        )

    def _batch(self, images: Sequence[Image], size: tuple[int, int]) -> PreparedBatch:
        shape = (3, *size) if self._card.layout == "nchw" else (*size, 3)
        tensor = np.empty((len(images), *shape), self._card.dtype)
        geometries = []
        for image, target in zip(images, tensor, strict=True):
            canvas, geometry = self._resize(image, size)
            self._write(canvas, target)
            geometries.append(geometry)
        return PreparedBatch(tensor, tuple(geometries))

    def _resize(self, image: Image, size: tuple[int, int]) -> tuple[Image, Geometry]:
        match self._card.resize:
            case "letterbox" | "letterbox_to_stride":
                return self._letterbox(image, size)
            case "letterbox_top_left":
                return self._letterbox_top_left(image)
            case "stretch":
                return self._stretch(image)
            case "shortest_side_crop":
                return self._shortest_side_crop(image)

    def _scaled_size(self, image: Image) -> tuple[int, int]:
        """(height, width) of `image` in the largest input, its aspect ratio kept."""
        height, width = image.shape[:2]
        ratio = min(self._card.height / height, self._card.width / width)
        return max(round(height * ratio), 1), max(round(width * ratio), 1)

    def _letterbox(self, image: Image, size: tuple[int, int]) -> tuple[Image, Geometry]:
        height, width = image.shape[:2]
        new_height, new_width = self._scaled_size(image)
        # The ±0.1 puts the odd pixel of padding at the right and bottom.
        top = round((size[0] - new_height) / 2 - 0.1)
        left = round((size[1] - new_width) / 2 - 0.1)
        canvas = self._place(image, size, (new_height, new_width), left, top)
        scales = (new_width / width, new_height / height)
        return canvas, Geometry(*scales, left, top, width, height)

    def _letterbox_top_left(self, image: Image) -> tuple[Image, Geometry]:
        card, (height, width) = self._card, image.shape[:2]
        ratio = min(card.height / height, card.width / width)
        new_height, new_width = max(int(height * ratio), 1), max(int(width * ratio), 1)
        canvas = self._place(image, (card.height, card.width), (new_height, new_width), 0, 0)
        # YOLOX maps boxes back by the one ratio, not by the truncated sizes.
        return canvas, Geometry(ratio, ratio, 0, 0, width, height)

    def _stretch(self, image: Image) -> tuple[Image, Geometry]:
        card, (height, width) = self._card, image.shape[:2]
        canvas = self._scaled(image, card.width, card.height)
        scales = (card.width / width, card.height / height)
        return canvas, Geometry(*scales, 0, 0, width, height)

    def _shortest_side_crop(self, image: Image) -> tuple[Image, Geometry]:
        card, (height, width) = self._card, image.shape[:2]
        assert card.crop_from is not None
        check_crop(image, card.crop_from)
        if height <= width:
            new_height, new_width = card.crop_from, int(card.crop_from * width / height)
        else:
            new_height, new_width = int(card.crop_from * height / width), card.crop_from
        top = round((new_height - card.height) / 2)
        left = round((new_width - card.width) / 2)
        scaled = self._scaled(image, new_width, new_height)
        canvas = scaled[top : top + card.height, left : left + card.width]
        scales = (new_width / width, new_height / height)
        return canvas, Geometry(*scales, -left, -top, width, height)

    def _scaled(self, image: Image, width: int, height: int) -> Image:
        if image.shape[:2] == (height, width):
            return image
        import cv2

        interpolation = getattr(cv2, self._interpolation)
        scaled: Image = cv2.resize(image, (width, height), interpolation=interpolation)
        return scaled

    def _place(
        self, image: Image, size: tuple[int, int], scaled: tuple[int, int], left: int, top: int
    ) -> Image:
        """A canvas of `size` with the image, `scaled`, at (left, top); sizes are height, width."""
        height, width = scaled
        if scaled == size:
            return self._scaled(image, width, height)
        canvas = np.full((*size, 3), self._card.pad_value, np.uint8)
        place = canvas[top : top + height, left : left + width]
        if image.shape[:2] == scaled:
            place[:] = image
        else:
            import cv2

            interpolation = getattr(cv2, self._interpolation)
            cv2.resize(image, (width, height), dst=place, interpolation=interpolation)
        return canvas

    def _write(self, canvas: Image, target: NDArray[Any]) -> None:
        import cv2

        planes = cv2.split(canvas)
        for channel, source in enumerate(self._order):
            into = target[channel] if self._card.layout == "nchw" else target[..., channel]
            if self._integers is not None:
                into[:] = self._integers[channel][planes[source]]
                continue
            if self._is_plain:
                into[:] = planes[source]
                continue
            factor, bias = self._factors[channel], self._biases[channel]
            if into.dtype == np.float32:
                np.multiply(planes[source], factor, out=into)
                if bias:
                    into -= bias
            else:
                # Round to float16 once, at the end.
                into[:] = planes[source] * factor - bias


def _integer_tables(card: InputCard) -> NDArray[Any] | None:
    """(3, 256): what each pixel value is fed as, channel by channel, to a quantised input."""
    said = card.quantisation
    if said is None:
        return None
    pixels = np.arange(256, dtype=np.float64)[None]
    mean, std = np.array(card.mean)[:, None], np.array(card.std)[:, None]
    steps = np.rint((pixels * card.scale - mean) / std / said.scale) + said.zero_point
    limits = np.iinfo(card.dtype)
    tables: NDArray[Any] = steps.clip(limits.min, limits.max).astype(card.dtype)
    return tables


def check_crop(image: Image, shortest_pixels: int) -> None:
    """Refuse an image that grows out of memory as its shorter side is brought to so many pixels.

    What is cut away afterwards is there for a moment: of a line of 16,384 pixels, 3 GB.

    Raises:
        ModelError: says what it would become.
    """
    height, width = image.shape[:2]
    longest = shortest_pixels * max(height, width) // min(height, width)
    if shortest_pixels * longest > _MOST_SCALED_PIXELS:
        raise ModelError(
            f"An image of {width}x{height} pixels is too narrow for this model: with a shorter "
            f"side of {shortest_pixels} pixels its longer one would have {longest}. Cut it first."
        )


def rgb_planes(image: Image) -> NDArray[np.uint8]:
    """(3, height, width) uint8 RGB, contiguous, of an image (height, width, 3) uint8 BGR.

    In a tenth of the time that numpy takes to copy the turned view.

    Raises:
        ModelError: it isn't such an image.
    """
    import cv2

    check_image(image)
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, [planes[2], planes[1], planes[0]])
    return planes


def check_image(image: Image) -> None:
    """Raise `ModelError` for what isn't (height, width, 3) uint8 with a pixel in it."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ModelError(
            f"An image must be (height, width, 3) uint8 BGR, got {image.shape} {image.dtype}; "
            "decode files with visiondyno.vision.decode.decode_image."
        )
