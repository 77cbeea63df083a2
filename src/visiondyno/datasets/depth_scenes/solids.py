"""Solids, and where rays meet them.

Every solid is a standard form in the cube from -1 to 1, stretched, turned about the vertical and
moved. Rays are brought into its own space, where they keep their parameter t.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.depth_scenes.view import FloatArray, Point, turned

Form = Literal["box", "room", "ball", "cylinder", "roof"]
"""`room`: a box seen from inside. `cylinder`: upright. `roof`: a gable, its ridge along z."""

NEAREST_M = 0.05
"""What is nearer than this is not seen."""

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32).T


@dataclass(frozen=True, slots=True)
class Solid:
    """One convex solid.

    Attributes:
        form: its standard form.
        centre: metres.
        half: half its size along its own x, y and z, metres.
        yaw: radians about the vertical, from z to x.
        material: index into the scene's materials.
        casts_shadow: of rooms and grounds, False.
    """

    form: Form
    centre: Point
    half: Point
    yaw: float
    material: int
    casts_shadow: bool = True

    def turn(self) -> FloatArray:
        """(3, 3) float32: own directions to the world's."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return np.array(((cos, 0, sin), (0, 1, 0), (-sin, 0, cos)), np.float32)

    def to_own(self) -> FloatArray:
        """(3, 3) float32: the world's directions to its own space's."""
        return (self.turn().T / np.array(self.half, np.float32)[:, None]).astype(np.float32)

    def corners(self) -> FloatArray:
        """(3, 8) float32: corners of the box around it, metres."""
        stretched = _CORNERS * np.array(self.half, np.float32)[:, None]
        return self.turn() @ stretched + np.array(self.centre, np.float32)[:, None]


def meet(form: Form, origin: FloatArray, ways: FloatArray) -> FloatArray:
    """Where rays enter a standard form (leave it, of a room).

    Args:
        form: the form.
        origin: (3, 1) float32 in its space.
        ways: (3, n) float32 in its space.

    Returns:
        (n,) float32 t, infinite for rays that miss it or enter it nearer than `NEAREST_M`.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if form in ("box", "room"):
            enter, leave = _slab(origin, ways)
        elif form == "ball":
            enter, leave = _quadric(origin, ways)
        elif form == "cylinder":
            enter, leave = _both(_quadric(origin[::2], ways[::2]), _slab(origin[1:2], ways[1:2]))
        else:
            enter, leave = _both(_slab(origin, ways), _gable(origin, ways))
    seen = (enter <= leave) & ((leave if form == "room" else enter) > NEAREST_M)
    return np.where(seen, leave if form == "room" else enter, np.float32(np.inf))


def _slab(origin: FloatArray, ways: FloatArray) -> tuple[FloatArray, FloatArray]:
    inverse = 1 / np.where(ways == 0, np.float32(1e-12), ways)
    middle, reach = -origin * inverse, np.abs(inverse)
    return (middle - reach).max(axis=0), (middle + reach).min(axis=0)


def _quadric(origin: FloatArray, ways: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The unit circle or ball, by the number of rows."""
    a = (ways * ways).sum(axis=0)
    b = (origin * ways).sum(axis=0)
    # The distance of the ray from the middle, not b² - ac: that would cancel far from it.
    nearest = origin - (b / a) * ways
    inside = 1 - (nearest * nearest).sum(axis=0)
    half = np.sqrt(np.maximum(inside, 0) / a)
    half = np.where(inside < 0, np.float32(-np.inf), half)
    return -b / a - half, -b / a + half


def _gable(origin: FloatArray, ways: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Below both slopes: y ± 2x ≤ 1."""
    enter = np.full(ways.shape[1], -np.inf, np.float32)
    leave = np.full(ways.shape[1], np.inf, np.float32)
    for side in (2.0, -2.0):
        rise = ways[1] + side * ways[0]
        room = 1 - (origin[1] + side * origin[0])
        at = room / np.where(rise == 0, np.float32(1e-12), rise)
        enter = np.maximum(enter, np.where(rise < 0, at, -np.inf)).astype(np.float32)
        leave = np.minimum(leave, np.where(rise >= 0, at, np.inf)).astype(np.float32)
    return enter, leave


def _both(
    first: tuple[FloatArray, FloatArray], second: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    return np.maximum(first[0], second[0]), np.minimum(first[1], second[1])


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """The seen surface of one solid.

    Attributes:
        u, v: (n,) float32, metres along the surface.
        normal: (3, n) float32 unit vectors.
        side: (n,) int8: which side it is, 0 to 2 (x, y, z) of a box.
    """

    u: FloatArray
    v: FloatArray
    normal: FloatArray
    side: NDArray[np.int8]


def surface(solid: Solid, own: FloatArray) -> Patch:
    """The surface at (3, n) points in the solid's own space."""
    half = np.array(solid.half, np.float32)[:, None]
    metres = own * half
    if solid.form in ("box", "room"):
        side = np.abs(own).argmax(axis=0)
        bare = np.zeros_like(own)
        np.put_along_axis(bare, side[None], np.sign(np.take_along_axis(own, side[None], 0)), 0)
        if solid.form == "room":
            bare = -bare
        u = np.where(side == 0, metres[2], metres[0])
        v = np.where(side == 1, metres[2], metres[1])
    elif solid.form == "roof":
        # The underside counts as slope: no light from above reaches it, so that none can tell.
        gable = np.abs(own[2]) > 0.9999
        slope = np.stack((2 * np.sign(own[0]), np.ones_like(own[0]), np.zeros_like(own[0])))
        end = np.stack((np.zeros_like(own[0]), np.zeros_like(own[0]), np.sign(own[2])))
        bare = np.where(gable, end, slope)
        side = np.where(gable, 2, 1)
        u, v = np.where(gable, metres[0], metres[2]), metres[1] * 1.3
    else:
        cap = np.abs(own[1]) > 0.9999 if solid.form == "cylinder" else np.zeros(own.shape[1:], bool)
        up = np.stack((np.zeros_like(own[0]), np.sign(own[1]), np.zeros_like(own[0])))
        round_ = own if solid.form == "ball" else own * np.array([[1], [0], [1]], np.float32)
        bare = np.where(cap, up, round_)
        side = np.where(cap, 1, 2)
        u = np.where(cap, metres[0], np.arctan2(own[0], own[2]) * half[0])
        v = np.where(cap, metres[2], metres[1])
    normal = turned(solid.turn(), (bare / half).astype(np.float32))
    normal /= np.sqrt((normal * normal).sum(axis=0)) + np.float32(1e-12)
    return Patch(u.astype(np.float32), v.astype(np.float32), normal, side.astype(np.int8))
