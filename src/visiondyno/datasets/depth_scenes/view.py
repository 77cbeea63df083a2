"""Where a picture is taken from: a pinhole, whether of the camera or of a light that casts shadows.

The world's axes: x to the right, y up, z ahead; metres.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

Point = tuple[float, float, float]

_COLUMNS_AT_ONCE = 20_000


def turned(matrix: FloatArray, points: FloatArray) -> FloatArray:
    """`matrix @ points` of (3, 3) and (3, n) float32.

    In pieces so small that no BLAS starts threads for them: on so little work they wait for each
    other longer than they compute, and scenes are rendered by several processes anyway.
    """
    product = np.empty_like(points)
    for start in range(0, points.shape[1], _COLUMNS_AT_ONCE):
        piece = slice(start, start + _COLUMNS_AT_ONCE)
        np.matmul(matrix, points[:, piece], out=product[:, piece])
    return product


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A pinhole that looks somewhere.

    Attributes:
        origin: (3,) float32, metres.
        axes: (3, 3) float32; rows are the unit vectors to the right, down and ahead.
        focal_px: focal length in pixels.
        side_px: the picture is a square of so many pixels.
    """

    origin: FloatArray
    axes: FloatArray
    focal_px: float
    side_px: int

    def rays(self) -> FloatArray:
        """(3, side, side) float32: for each pixel, the way that is 1 m along the optical axis.

        A point at `origin + t * ray` thus has depth t: the distance from the picture's plane.
        """
        middle = self.side_px / 2
        across = ((np.arange(self.side_px, dtype=np.float32) + 0.5) - middle) / self.focal_px
        right, down, ahead = self.axes[:, :, None, None]
        rays: FloatArray = ahead + right * across[None, None, :] + down * across[None, :, None]
        return rays.astype(np.float32)

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Column, row (pixels, edges at whole numbers) and depth of (3, n) points."""
        x, y, depth = turned(self.axes, points - self.origin[:, None])
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = self.focal_px / depth
            return x * scale + self.side_px / 2, y * scale + self.side_px / 2, depth


def look(origin: Point, yaw: float, pitch: float, roll: float, lens: tuple[float, int]) -> View:
    """A view from `origin`.

    Args:
        origin: metres.
        yaw: radians to the right of z.
        pitch: radians down.
        roll: radians, the picture's horizon sinks to the left.
        lens: focal length in pixels, and the picture's side in pixels.
    """
    turn = np.array(
        ((math.cos(yaw), 0, -math.sin(yaw)), (0, 1, 0), (math.sin(yaw), 0, math.cos(yaw)))
    )
    nod = np.array(
        ((1, 0, 0), (0, -math.cos(pitch), -math.sin(pitch)), (0, -math.sin(pitch), math.cos(pitch)))
    )
    tilt = np.array(
        ((math.cos(roll), math.sin(roll), 0), (-math.sin(roll), math.cos(roll), 0), (0, 0, 1))
    )
    axes = (tilt @ nod @ turn).astype(np.float32)
    return View(np.array(origin, np.float32), axes, lens[0], lens[1])


def look_at(origin: Point, target: Point, lens: tuple[float, int]) -> View:
    """A view from `origin` with `target` in the middle; `lens` as in `look`."""
    x, y, z = (there - here for here, there in zip(origin, target, strict=True))
    return look(origin, math.atan2(x, z), math.atan2(-y, math.hypot(x, z)), 0.0, lens)
