"""What is painted on, from far to near.

The canvas has four channels: blue, green, red, and the identity of the object that a pixel
shows (0: none). Whatever is painted over an object takes its identity away, so the visible
extent of every object is exact. A second, smaller canvas holds what shines by itself.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.street.camera import HEIGHT, OVERSAMPLING, WIDTH, Points, Projection
from visiondyno.datasets.street.conditions import Colour, Conditions

_SHIFT = 4
_SUBPIXELS = 1 << _SHIFT
_LIMIT = 1 << 14


class Canvas:
    """A picture in the making.

    Attributes:
        pixels: (384, 640, 4) uint8: blue, green, red, identity.
        glow: (192, 320, 3) uint8: light that is emitted, seen through what hides it.
    """

    def __init__(self, projection: Projection, conditions: Conditions) -> None:
        self.projection = projection
        self.conditions = conditions
        self.pixels = np.zeros((HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING, 4), np.uint8)
        self.glow = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self.identity = 0

    def shade(self, colour: Colour, brightness: float, depth: float) -> Colour:
        """A surface's colour as it is lit, faded by the air between it and the camera."""
        clear = math.exp(-self.conditions.fog_per_m * depth)
        blue, green, red = colour
        fog = self.conditions.fog_colour
        # Fog scatters the same ambient light that the final image multiplies in.
        return (
            min(255.0, blue * brightness) * clear + fog[0] * (1 - clear),
            min(255.0, green * brightness) * clear + fog[1] * (1 - clear),
            min(255.0, red * brightness) * clear + fog[2] * (1 - clear),
        )

    def lit(self, normal: tuple[float, float, float]) -> float:
        """Brightness of a surface that faces along a unit vector."""
        sun, strength = self.conditions.sun, self.conditions.sun_strength
        facing = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
        # Surfaces facing up also see more sky: without it overcast scenes look flat.
        return 1 - strength * 0.75 + strength * max(0.0, facing) + 0.12 * normal[1]

    def picture(self, first_row: int = 0) -> NDArray[np.uint8]:
        """A copy of the colours from a row on, (rows, 640, 3) uint8."""
        return np.asarray(cv2.cvtColor(self.pixels[first_row:], cv2.COLOR_BGRA2BGR), np.uint8)

    def cover(self, picture: NDArray[np.uint8], first_row: int = 0) -> None:
        """Replace the colours from a row on by (rows, 640, 3) uint8."""
        cv2.mixChannels([picture], [self.pixels[first_row:]], [0, 0, 1, 1, 2, 2])

    def convex(self, flat: Points, colour: Colour) -> None:
        """Fill a convex polygon, (n, 2) canvas pixels."""
        cv2.fillConvexPoly(self.pixels, _fixed(flat), (*colour, self.identity), shift=_SHIFT)

    def shape(self, flats: Sequence[Points], colour: Colour) -> None:
        """Fill polygons of any form that don't overlap one another."""
        fixed = [_fixed(flat) for flat in flats]
        cv2.fillPoly(self.pixels, fixed, (*colour, self.identity), shift=_SHIFT)

    def disc(self, u: float, v: float, radius: float, colour: Colour, stretch: float = 1) -> None:
        """Fill an ellipse, `stretch` times as tall as it is wide."""
        if not (-_LIMIT < u < _LIMIT and -_LIMIT < v < _LIMIT and radius < _LIMIT):
            return
        centre = (round(u * _SUBPIXELS), round(v * _SUBPIXELS))
        axes = (max(1, round(radius * _SUBPIXELS)), max(1, round(radius * stretch * _SUBPIXELS)))
        cv2.ellipse(
            self.pixels, centre, axes, 0, 0, 360, (*colour, self.identity), -1, cv2.LINE_8, _SHIFT
        )

    def wall(self, points: Points, colour: Colour, brightness: float = 1) -> None:
        """Fill a convex polygon in the world, (n, 3) metres, shaded and faded."""
        found = self.projection.polygon(points)
        if found is not None:
            self.convex(found[0], self.shade(colour, brightness, found[1]))

    def hide_glow(self, flat: Points) -> None:
        """Let the convex hull of these canvas pixels hide what shines behind it."""
        if not self.conditions.lamps_lit:
            return
        hull = cv2.convexHull(np.clip(flat / OVERSAMPLING, -_LIMIT, _LIMIT).astype(np.float32))
        cv2.fillConvexPoly(self.glow, _fixed(hull[:, 0]), (0, 0, 0), shift=_SHIFT)

    def shine(self, u: float, v: float, radius: float, colour: Colour, depth: float) -> None:
        """A small source of light at a canvas position, `radius` in canvas pixels."""
        if not (-_LIMIT < u < _LIMIT and -_LIMIT < v < _LIMIT and radius < _LIMIT):
            return
        clear = math.exp(-0.6 * self.conditions.fog_per_m * depth)
        centre = (round(u / OVERSAMPLING * _SUBPIXELS), round(v / OVERSAMPLING * _SUBPIXELS))
        size = max(6, round(radius / OVERSAMPLING * _SUBPIXELS))
        faded = tuple(c * clear for c in colour)
        cv2.circle(self.glow, centre, size, faded, -1, cv2.LINE_AA, _SHIFT)

    def shine_shape(self, flats: Sequence[Points], colour: Colour) -> None:
        """Surfaces that emit light (lit windows), each (n, 2) canvas pixels."""
        fixed = [_fixed(flat / OVERSAMPLING) for flat in flats]
        cv2.fillPoly(self.glow, fixed, colour, shift=_SHIFT)


def _fixed(flat: NDArray[np.floating]) -> NDArray[np.int32]:
    # OpenCV's fixed-point drawing wraps beyond 2^31: far corners are pulled in.
    near = np.minimum(np.maximum(flat, -_LIMIT), _LIMIT)
    near *= _SUBPIXELS
    return np.asarray(np.rint(near), np.int32)
