"""Solid things made of flat faces: how they are described and painted.

A solid is a few convex parts. The faces of a part that look away from the camera are left out,
the others are painted from far to near, each followed by what is stuck on it (windows, lights,
plates, wheels).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.street.camera import NEAREST_M, Points
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.conditions import Colour

Palette = dict[str, Colour]
"""Colour of each material."""


Corners = NDArray[np.intp]
"""Indices of vertices, in order around a shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Decal:
    """A flat shape on a face: vertex indices into the solid, and a material."""

    corners: Corners
    material: str


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A flat side of a part."""

    corners: Corners
    material: str
    decals: tuple[Decal, ...] = ()


@dataclass(frozen=True, slots=True)
class Solid:
    """A thing of metres: x to its right, y up, z to its front.

    Attributes:
        vertices: (n, 3) metres.
        parts: faces of each convex part.
        centres, normals: per part, (faces, 3): where its faces are and look.
        middles: (parts, 3).
    """

    vertices: Points
    parts: tuple[tuple[Face, ...], ...]
    centres: tuple[Points, ...]
    normals: tuple[Points, ...]
    middles: Points


@dataclass(slots=True)
class SolidBuilder:
    """Collects vertices and faces, then works out which way each face looks."""

    vertices: list[tuple[float, float, float]] = field(default_factory=list)
    parts: list[list[Face]] = field(default_factory=list)

    def add(self, points: Sequence[tuple[float, float, float]]) -> Corners:
        """Add vertices; returns their indices."""
        first = len(self.vertices)
        self.vertices.extend(points)
        return np.arange(first, len(self.vertices))

    def decal(self, points: Sequence[tuple[float, float, float]], material: str) -> Decal:
        """A flat shape to stick on a face."""
        return Decal(self.add(points), material)

    def build(self) -> Solid:
        """The finished solid."""
        vertices = np.array(self.vertices, np.float64)
        centres, normals, middles = [], [], []
        for faces in self.parts:
            used = sorted({corner for face in faces for corner in face.corners})
            middle = vertices[used].mean(axis=0)
            at = np.array([vertices[face.corners].mean(axis=0) for face in faces])
            out = np.array([_normal(vertices[face.corners]) for face in faces])
            out *= np.where(((at - middle) * out).sum(axis=1) < 0, -1, 1)[:, None]
            centres.append(at)
            normals.append(out)
            middles.append(middle)
        parts = tuple(tuple(faces) for faces in self.parts)
        return Solid(vertices, parts, tuple(centres), tuple(normals), np.array(middles))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a solid stands: its origin on the ground, its heading and its scale.

    Attributes:
        x: metres to the right.
        z: metres along the road.
        heading: radians; 0 is away from the camera, turning to the right.
        scale: (3,) multipliers of its width, height and length.
    """

    x: float
    z: float
    heading: float
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def to_world(self, points: Points) -> Points:
        """(n, 3) of the solid's metres to (n, 3) of the world's."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        sx, sy, sz = self.scale
        x, z = points[:, 0] * sx, points[:, 2] * sz
        world = np.empty_like(points)
        world[:, 0] = self.x + x * cos + z * sin
        world[:, 1] = points[:, 1] * sy
        world[:, 2] = self.z - x * sin + z * cos
        return world

    def to_local(self, x: float, y: float, z: float) -> Points:
        """A world point in the solid's unscaled metres, (3,)."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        dx, dz = x - self.x, z - self.z
        sx, sy, sz = self.scale
        return np.array(((dx * cos - dz * sin) / sx, y / sy, (dx * sin + dz * cos) / sz))


@dataclass(frozen=True, slots=True)
class Painted:
    """What was painted of a solid.

    Attributes:
        hull_points: (n, 2) canvas pixels of every vertex.
        decals: material, (n, 2) canvas pixels and depth in metres of each decal that was seen.
    """

    hull_points: Points
    decals: list[tuple[str, Points, float]]


def paint(canvas: Canvas, solid: Solid, placement: Placement, palette: Palette) -> Painted | None:
    """Paint a solid; None, and nothing painted, where a vertex is behind the camera."""
    projection = canvas.projection
    seen = projection.to_camera(placement.to_world(solid.vertices))
    if (seen[:, 2] < NEAREST_M).any():
        return None
    flat = projection.pixels(seen)
    canvas.hide_glow(flat)
    eye = placement.to_local(projection.camera.x, projection.camera.height, 0.0)
    decals: list[tuple[str, Points, float]] = []
    for part in np.argsort(-((solid.middles - eye) ** 2).sum(axis=1)):
        _paint_part(canvas, solid, int(part), (eye, flat, seen[:, 2]), placement, palette, decals)
    return Painted(flat, decals)


def _paint_part(
    canvas: Canvas,
    solid: Solid,
    part: int,
    view: tuple[Points, Points, Points],
    placement: Placement,
    palette: Palette,
    decals: list[tuple[str, Points, float]],
) -> None:
    eye, flat, depths = view
    towards = eye - solid.centres[part]
    facing = (towards * solid.normals[part]).sum(axis=1) > 0
    order = np.argsort(-(towards**2).sum(axis=1))
    cos, sin = math.cos(placement.heading), math.sin(placement.heading)
    for index in order[facing[order]]:
        face = solid.parts[part][index]
        nx, ny, nz = solid.normals[part][index]
        brightness = canvas.lit((nx * cos + nz * sin, ny, -nx * sin + nz * cos))
        depth = float(depths[face.corners[0]])
        shown = flat[face.corners]
        colour = canvas.shade(palette[face.material], brightness, depth)
        canvas.shape((shown,), colour)
        for decal in face.decals:
            shown = flat[decal.corners]
            # Lamps look the same from every side of the sun.
            lit = 1.0 if decal.material.endswith("light") else brightness
            canvas.convex(shown, canvas.shade(palette[decal.material], lit, depth))
            decals.append((decal.material, shown, depth))


def _normal(points: Points) -> Points:
    """Newell's method: (n, 3) to a unit vector."""
    following = np.roll(points, -1, axis=0)
    normal = np.array(
        (
            ((points[:, 1] - following[:, 1]) * (points[:, 2] + following[:, 2])).sum(),
            ((points[:, 2] - following[:, 2]) * (points[:, 0] + following[:, 0])).sum(),
            ((points[:, 0] - following[:, 0]) * (points[:, 1] + following[:, 1])).sum(),
        )
    )
    return np.asarray(normal / max(1e-9, float(np.linalg.norm(normal))))


def box_part(
    builder: SolidBuilder,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    material: str,
    decals: dict[str, tuple[Decal, ...]] | None = None,
) -> None:
    """Add a box between two corners; `decals` by face: front, rear, left, right, top."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    stuck = decals or {}
    sides = {
        "front": ((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)),
        "rear": ((x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)),
        "left": ((x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)),
        "right": ((x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)),
        "top": ((x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)),
    }
    builder.parts.append(
        [Face(builder.add(points), material, stuck.get(name, ())) for name, points in sides.items()]
    )
