"""Light: one lamp or sun with shadows, and light from everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from visiondyno.datasets.depth_scenes.cast import NOTHING, Sight, Surfaces, see
from visiondyno.datasets.depth_scenes.materials import Colour
from visiondyno.datasets.depth_scenes.solids import Solid
from visiondyno.datasets.depth_scenes.view import FloatArray, Point, View, look_at

_SHADOW_SIDE_PX = 512
_SKY_DEPTH = 1e4


@dataclass(frozen=True, slots=True)
class Light:
    """What lights a scene.

    Attributes:
        origin: of the lamp, metres; a sun is a lamp far away.
        target: the middle of what it lights.
        reach_m: half the width, at the target, of what it may throw shadows on.
        colour: blue, green, red of the lamp.
        fade_m: distance at which it is half as bright; infinite of a sun.
        ambient: blue, green, red of the light from everywhere.
    """

    origin: Point
    target: Point
    reach_m: float
    colour: Colour
    fade_m: float
    ambient: Colour


def lighting(
    light: Light,
    solids: Sequence[Solid],
    scene: tuple[View, FloatArray],
    sight: Sight,
    surfaces: Surfaces,
) -> FloatArray:
    """(side, side, 3) float32: the light that falls on each pixel's surface.

    `scene` is the camera's view with its rays.
    """
    view, rays = scene
    depth = np.where(sight.solid == NOTHING, 1, sight.depth).astype(np.float32)
    points = view.origin[:, None, None] + rays * depth
    away = np.array(light.origin, np.float32)[:, None, None] - points
    distance = np.sqrt((away * away).sum(axis=0))
    facing = (away * surfaces.normal).sum(axis=0) / distance
    lamp = np.maximum(facing, 0) * _shadow(light, solids, points, facing)
    lamp /= 1 + (distance / np.float32(light.fade_m)) ** 2
    # More comes from above than from below, and less where things stand close.
    around = (0.85 + 0.15 * surfaces.normal[1]) * _openness(sight)
    return np.asarray(
        lamp[..., None] * np.array(light.colour, np.float32)
        + around[..., None] * np.array(light.ambient, np.float32),
        np.float32,
    )


def _shadow(
    light: Light, solids: Sequence[Solid], points: FloatArray, facing: FloatArray
) -> FloatArray:
    """(side, side) float32: 1 where the lamp is seen, 0 where not, between at edges."""
    span = float(np.linalg.norm(np.subtract(light.origin, light.target)))
    focal_px = _SHADOW_SIDE_PX / 2 * span / light.reach_m
    lamp = look_at(light.origin, light.target, (focal_px, _SHADOW_SIDE_PX))
    casting = [index for index, solid in enumerate(solids) if solid.casts_shadow]
    nearest = see(lamp, lamp.rays(), solids, casting).depth
    nearest = np.where(np.isinf(nearest), np.float32(_SKY_DEPTH), nearest)
    column, row, depth = lamp.project(points.reshape(3, -1))
    shape = facing.shape
    pixel_m = span / focal_px
    # A surface seen aslant spans several depths within one pixel of the map.
    slack = 0.02 + 1.5 * pixel_m / np.maximum(facing, 0.15)
    limit = depth.reshape(shape) - slack
    lit = np.zeros(shape, np.float32)
    inside = depth.reshape(shape) > 0
    for right, down in ((-0.75, -0.25), (0.25, -0.75), (0.75, 0.25), (-0.25, 0.75)):
        blocker = cv2.remap(
            nearest,
            (column + (right - 0.5)).reshape(shape).astype(np.float32),
            (row + (down - 0.5)).reshape(shape).astype(np.float32),
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_SKY_DEPTH,
        )
        lit += (blocker >= limit) | ~inside
    return np.asarray(lit / 4, np.float32)


def _openness(sight: Sight) -> FloatArray:
    """(side, side) float32, 0.85 to 1: darker in corners, whose surroundings stand out nearer."""
    near = 1 / np.where(np.isinf(sight.depth), np.float32(1e3), sight.depth)
    around = cv2.blur(near, (31, 31))
    hidden = np.clip((around - near) / around, 0, 0.4)
    # What stands far in front of a surface doesn't darken it: no halo around near things.
    return np.asarray(1 - 1.5 * hidden * (1 - 2.5 * hidden), np.float32)
