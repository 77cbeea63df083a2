"""Digits: a built-in classification set, drawn from seeds: 32×32 grey images of 0 to 9.

Half of the digits are written: curved strokes whose control points move. Half are printed: angular
strokes that move little, in one of two forms (a crossed 7, a slashed 0, a bare 1). Each is slanted,
turned, stretched and moved, drawn with a pen of its own width at four times the size, and put with
its own contrast, a sloping light, blur and noise on a grey ground. OpenCV's fonts aren't used:
their shapes differ between its versions.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.cache_folder import ensure_folder
from visiondyno.datasets.stored_png import png_bytes
from visiondyno.errors import DatasetError

DIGITS_VERSION = 1
SIDE_PIXELS = 32
MOST_DIGITS = 100_000
SPLITS = ("train", "val", "demo")

Split = Literal["train", "val", "demo"]
Points = NDArray[np.float64]

CLASSES = 10
_SCALE = 4
_LARGE = SIDE_PIXELS * _SCALE
# `shift` of OpenCV's drawing: coordinates in 1/16 of a pixel.
_SHIFT = 4

Strokes = tuple[tuple[tuple[float, float], ...], ...]

_WRITTEN: tuple[Strokes, ...] = (
    (((0.5, 0), (0.12, 0.2), (0.05, 0.55), (0.25, 0.95), (0.6, 1), (0.92, 0.7), (0.9, 0.3),
      (0.62, 0.02), (0.5, 0)),),
    (((0.25, 0.22), (0.55, 0), (0.55, 0.5), (0.55, 1)),),
    (((0.1, 0.25), (0.3, 0.02), (0.7, 0.02), (0.85, 0.3), (0.5, 0.65), (0.1, 1)),
     ((0.1, 1), (0.5, 0.97), (0.92, 1))),
    (((0.12, 0.1), (0.5, 0), (0.85, 0.2), (0.7, 0.45), (0.4, 0.48)),
     ((0.4, 0.48), (0.8, 0.55), (0.88, 0.82), (0.5, 1), (0.1, 0.88))),
    (((0.6, 0), (0.35, 0.35), (0.08, 0.65)), ((0.08, 0.65), (0.5, 0.64), (0.95, 0.65)),
     ((0.7, 0.35), (0.69, 0.65), (0.7, 1))),
    (((0.85, 0), (0.5, 0.01), (0.2, 0.02)), ((0.2, 0.02), (0.18, 0.25), (0.15, 0.45)),
     ((0.15, 0.45), (0.5, 0.36), (0.88, 0.58), (0.8, 0.9), (0.45, 1), (0.1, 0.88))),
    (((0.75, 0.02), (0.4, 0.2), (0.12, 0.6), (0.25, 0.95), (0.6, 1), (0.88, 0.78), (0.7, 0.52),
      (0.35, 0.55), (0.14, 0.72)),),
    (((0.08, 0.02), (0.5, 0), (0.92, 0.02)), ((0.92, 0.02), (0.6, 0.45), (0.4, 1))),
    (((0.5, 0.47), (0.18, 0.3), (0.3, 0.03), (0.7, 0.03), (0.82, 0.28), (0.5, 0.47), (0.1, 0.72),
      (0.3, 1), (0.7, 1), (0.9, 0.72), (0.5, 0.47)),),
    (((0.86, 0.3), (0.6, 0.48), (0.25, 0.45), (0.12, 0.2), (0.4, 0), (0.75, 0.05), (0.88, 0.3),
      (0.8, 0.7), (0.6, 1)),),
)  # fmt: skip
"""Strokes of each digit: control points, x to the right and y down, in a box of 1 × 1."""

_PRINTED: tuple[tuple[Strokes, ...], ...] = (
    ((((0.25, 0), (0, 0.25), (0, 0.75), (0.25, 1), (0.75, 1), (1, 0.75), (1, 0.25), (0.75, 0),
       (0.25, 0)),),
     (((0.25, 0), (0, 0.25), (0, 0.75), (0.25, 1), (0.75, 1), (1, 0.75), (1, 0.25), (0.75, 0),
       (0.25, 0)), ((0.8, 0.2), (0.2, 0.8)))),
    ((((0.5, 0), (0.5, 1)),),
     (((0.15, 0.25), (0.5, 0), (0.5, 1)), ((0.15, 1), (0.85, 1)))),
    ((((0, 0.2), (0.2, 0), (0.8, 0), (1, 0.2), (1, 0.45), (0, 1), (1, 1)),),
     (((0, 0), (1, 0), (1, 0.5), (0, 0.5), (0, 1), (1, 1)),)),
    ((((0, 0), (1, 0), (0.45, 0.4), (0.85, 0.45), (1, 0.65), (0.85, 0.95), (0.5, 1), (0, 0.9)),),
     (((0, 0), (1, 0), (1, 1), (0, 1)), ((0.15, 0.5), (1, 0.5)))),
    ((((0.75, 1), (0.75, 0), (0, 0.7), (1, 0.7)),),
     (((0, 0), (0, 0.55), (1, 0.55)), ((0.85, 0), (0.85, 1)))),
    ((((0.95, 0), (0.1, 0), (0.05, 0.45), (0.7, 0.4), (1, 0.65), (0.85, 0.95), (0.4, 1),
       (0, 0.9)),),
     (((1, 0), (0, 0), (0, 0.5), (1, 0.5), (1, 1), (0, 1)),)),
    ((((0.85, 0), (0.3, 0.2), (0, 0.6), (0.15, 0.95), (0.6, 1), (1, 0.8), (0.85, 0.5),
       (0.4, 0.45), (0.05, 0.65)),),
     (((1, 0), (0, 0), (0, 1), (1, 1), (1, 0.5), (0, 0.5)),)),
    ((((0, 0), (1, 0), (0.35, 1)),),
     (((0, 0), (1, 0), (0.35, 1)), ((0.3, 0.5), (0.95, 0.5)))),
    ((((0.2, 0.45), (0.1, 0.2), (0.3, 0), (0.7, 0), (0.9, 0.2), (0.8, 0.45), (0.2, 0.45),
       (0, 0.75), (0.25, 1), (0.75, 1), (1, 0.75), (0.8, 0.45)),),
     (((0, 0), (1, 0), (1, 1), (0, 1), (0, 0)), ((0, 0.5), (1, 0.5)))),
    ((((0.15, 1), (0.7, 0.8), (1, 0.4), (0.85, 0.05), (0.4, 0), (0, 0.2), (0.15, 0.5),
       (0.6, 0.55), (0.95, 0.35)),),
     (((0, 1), (1, 1), (1, 0), (0, 0), (0, 0.5), (1, 0.5)),)),
)  # fmt: skip
"""Two forms of each digit, in the same box; the second of many is what a display shows."""


@dataclass(frozen=True, slots=True)
class Digit:
    """One drawn digit.

    Attributes:
        pixels: (32, 32) uint8 grey.
        class_id: the digit, 0 to 9.
    """

    pixels: NDArray[np.uint8]
    class_id: int


def draw_digit(split: Split, index: int) -> Digit:
    """Image `index` of a split: the same on every call. Its class is `index` modulo 10."""
    seed = int.from_bytes(
        hashlib.sha256(f"digits-v{DIGITS_VERSION}/{split}/{index}".encode()).digest()[:8], "big"
    )
    rng = np.random.Generator(np.random.PCG64(seed))
    class_id = index % CLASSES
    return Digit(_photograph(_ink(class_id, rng), rng), class_id)


def ensure_digits(
    split: Split,
    count: int,
    cache_dir: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder of the first `count` digits of a split, drawn unless it is there already.

    An image folder per class: `0/00000.png`, `1/00001.png` … `0/00010.png` …, and `SHA256SUMS`.
    Classes have the same number of images, give or take one.

    Args:
        split: `train`, `val` or `demo`.
        count: how many; a smaller count gives some of the same digits.
        cache_dir: where the folder is; made where absent.
        on_progress: called with digits done and in all while drawing; not called on reuse.

    Raises:
        DatasetError: an unknown split, a count outside 1–100,000, or the cache folder can't be
            written.
    """
    if split not in SPLITS:
        raise DatasetError(f"Digits have no split '{split}': choose one of {', '.join(SPLITS)}")
    if not 1 <= count <= MOST_DIGITS:
        raise DatasetError(f"{count} digits can't be drawn: ask for 1 to {MOST_DIGITS}")

    def write(folder: Path) -> None:
        for class_id in range(CLASSES):
            (folder / str(class_id)).mkdir()
        for index in range(count):
            digit = draw_digit(split, index)
            path = folder / str(digit.class_id) / f"{index:05d}.png"
            path.write_bytes(png_bytes(digit.pixels))
            if on_progress is not None and ((index + 1) % 100 == 0 or index + 1 == count):
                on_progress(index + 1, count)

    name = f"digits-v{DIGITS_VERSION}-{split}-{count}"
    return ensure_folder(cache_dir / name, write, "the digits")


def _ink(class_id: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """White ink on black, (128, 128)."""
    image = np.zeros((_LARGE, _LARGE), np.uint8)
    written = rng.random() < 0.5
    strokes = _WRITTEN[class_id] if written else _PRINTED[class_id][int(rng.random() < 0.4)]
    box = np.array([rng.uniform(0.34, 0.6), rng.uniform(0.56, 0.76)]) * _LARGE
    place = _affine(rng)
    thickness = int(rng.integers(6, 19))
    # Strokes meet in points that move together.
    spread = 0.035 if written else 0.015
    moved = {
        point: np.array(point) + rng.normal(0, spread, 2)
        for point in dict.fromkeys(point for stroke in strokes for point in stroke)
    }
    for stroke in strokes:
        points = np.array([moved[point] for point in stroke])
        curve = ((_smooth(points) if written else points) - 0.5) * box
        drawn = curve @ place[:, :2].T + place[:, 2] + _LARGE / 2
        fixed = np.round(drawn * 2**_SHIFT).astype(np.int32)
        cv2.polylines(image, [fixed], False, 255, thickness, cv2.LINE_AA, _SHIFT)
    return image


def _smooth(points: Points) -> Points:
    """A curve through the first and last point, its corners cut three times (Chaikin 1974)."""
    for _ in range(3):
        near = 0.75 * points[:-1] + 0.25 * points[1:]
        far = 0.25 * points[:-1] + 0.75 * points[1:]
        inner = np.stack((near, far), axis=1).reshape(-1, 2)
        points = np.concatenate((points[:1], inner, points[-1:]))
    return points


def _affine(rng: np.random.Generator) -> Points:
    """(2, 3): turn up to 14°, slant, stretch, then move; pixels of the large drawing."""
    angle = np.deg2rad(rng.uniform(-14, 14))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1, rng.uniform(-0.35, 0.2)], [0, 1]])
    stretch = np.diag(rng.uniform(0.85, 1.2, 2))
    move = rng.uniform(-0.06, 0.06, 2) * _LARGE
    return np.column_stack((turn @ slant @ stretch, move))


def _photograph(ink: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The (32, 32) image of a drawing, with light, contrast, blur and noise of its own."""
    small: NDArray[np.uint8] = cv2.resize(
        ink, (SIDE_PIXELS, SIDE_PIXELS), interpolation=cv2.INTER_AREA
    )
    coverage = small.astype(np.float64) / 255
    if rng.random() < 0.5:
        coverage = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.4, 1.0))
    ground = rng.uniform(0, 90)
    contrast = rng.uniform(70, 165)
    slope = rng.uniform(-25, 25, 2)
    across = np.linspace(-0.5, 0.5, SIDE_PIXELS)
    light = slope[0] * across[None, :] + slope[1] * across[:, None]
    image = ground + contrast * coverage + light
    if rng.random() < 0.5:
        image = 255 - image
    image += rng.normal(0, rng.uniform(2, 18), image.shape)
    pixels: NDArray[np.uint8] = np.clip(np.round(image), 0, 255).astype(np.uint8)
    return pixels
