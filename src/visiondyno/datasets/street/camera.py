"""A pinhole camera above a flat street: metres in, pixels of the working canvas out.

World axes: x to the right, y up, z along the road, the ground at y = 0 and the camera above the
origin. The canvas is drawn at twice the size of the final image and reduced at the end.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH = 320
"""Width of a street image, pixels."""
HEIGHT = 192
"""Height of a street image, pixels."""
OVERSAMPLING = 2
"""Working-canvas pixels for one image pixel, in each direction."""
NEAREST_M = 0.6
"""Nothing nearer than this is drawn, metres."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the camera stands and looks.

    Attributes:
        x: sideways position, metres (the road's middle is x = 0).
        height: above the ground, metres.
        yaw: to the right, radians.
        pitch: downwards, radians.
        roll: clockwise, radians.
        focal: focal length in pixels of the final image.
    """

    x: float
    height: float
    yaw: float
    pitch: float
    roll: float
    focal: float

    @property
    def position(self) -> Points:
        """(3,) in metres."""
        return np.array((self.x, self.height, 0.0))

    @property
    def focal_canvas(self) -> float:
        """Focal length in pixels of the working canvas."""
        return self.focal * OVERSAMPLING

    def rotation(self) -> Points:
        """(3, 3): world directions to camera directions (x right, y up, z ahead)."""
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        yaw = np.array(((cy, 0, -sy), (0, 1, 0), (sy, 0, cy)))
        pitch = np.array(((1, 0, 0), (0, cp, sp), (0, -sp, cp)))
        roll = np.array(((cr, -sr, 0), (sr, cr, 0), (0, 0, 1)))
        return np.asarray(roll @ pitch @ yaw)


class Projection:
    """A camera with its matrix worked out once."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._rotation = camera.rotation()
        self._rows = [
            tuple(float(v) for v in camera_row) for camera_row in self._rotation[[2, 0, 1]]
        ]
        self._position = camera.position
        self._focal = camera.focal_canvas
        self.centre = (WIDTH * OVERSAMPLING / 2, HEIGHT * OVERSAMPLING / 2)

    def to_camera(self, points: Points) -> Points:
        """(n, 3) world metres to (n, 3) camera metres."""
        return np.asarray((points - self._position) @ self._rotation.T)

    def pixels(self, seen: Points) -> Points:
        """(n, 3) camera metres, all ahead of the camera, to (n, 2) canvas pixels."""
        scale = self._focal / seen[:, 2]
        flat = np.empty((len(seen), 2))
        flat[:, 0] = self.centre[0] + seen[:, 0] * scale
        flat[:, 1] = self.centre[1] - seen[:, 1] * scale
        return flat

    def polygon(self, points: Points) -> tuple[Points, float] | None:
        """A world polygon (n, 3), cut at the near plane.

        Returns:
            (m, 2) canvas pixels and the mean depth in metres; None if it is all behind.
        """
        seen = self.to_camera(points)
        if seen[:, 2].min() < NEAREST_M:
            seen = _cut(seen)
            if len(seen) < 3:
                return None
        return self.pixels(seen), float(seen[:, 2].sum()) / len(seen)

    def point(self, x: float, y: float, z: float) -> tuple[float, float, float] | None:
        """One world point to canvas (u, v) and its depth in metres; None if behind."""
        # Plain numbers: an array of one point costs ten times as much.
        dx, dy, dz = x - self.camera.x, y - self.camera.height, z
        ahead, aside, above = (a * dx + b * dy + c * dz for a, b, c in self._rows)
        if ahead < NEAREST_M:
            return None
        scale = self._focal / ahead
        return self.centre[0] + aside * scale, self.centre[1] - above * scale, ahead

    def ground_depth(self) -> Points:
        """(canvas height,) distance in metres of the ground seen at the middle of each row.

        Infinite at the horizon and above.
        """
        rows = np.arange(HEIGHT * OVERSAMPLING) + 0.5
        camera = self.camera
        below = (rows - self.centre[1]) / self._focal
        drop = below * math.cos(camera.pitch) + math.sin(camera.pitch)
        with np.errstate(divide="ignore"):
            return np.where(drop > 1e-4, camera.height / np.maximum(drop, 1e-4), np.inf)

    def horizon_row(self, column: float) -> float:
        """Canvas row of the horizon at a canvas column."""
        camera = self.camera
        flat = self.centre[1] - self._focal * math.tan(camera.pitch)
        return flat + (column - self.centre[0]) * math.tan(camera.roll)

    def ground_homography(self) -> Points:
        """(3, 3): ground (x, z, 1) in metres to homogeneous canvas pixels."""
        rotation, position = self._rotation, self._position
        columns = np.stack((rotation[:, 0], rotation[:, 2], -rotation @ position), axis=1)
        intrinsics = np.array(
            ((self._focal, 0, self.centre[0]), (0, -self._focal, self.centre[1]), (0, 0, 1.0))
        )
        return np.asarray(intrinsics @ columns)


def _cut(seen: Points) -> Points:
    """Sutherland and Hodgman's clipping of a polygon at the near plane."""
    kept: list[Points] = []
    for index in range(len(seen)):
        here, following = seen[index], seen[(index + 1) % len(seen)]
        if here[2] >= NEAREST_M:
            kept.append(here)
        if (here[2] >= NEAREST_M) != (following[2] >= NEAREST_M):
            share = (NEAREST_M - here[2]) / (following[2] - here[2])
            kept.append(here + share * (following - here))
    return np.array(kept).reshape(-1, 3)
