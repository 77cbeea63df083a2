"""Which solid each pixel of a view sees, and at which depth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.depth_scenes.solids import NEAREST_M, Solid, meet, surface
from visiondyno.datasets.depth_scenes.view import FloatArray, View, turned

NOTHING = -1


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What a view sees.

    Attributes:
        depth: (side, side) float32 metres along the optical axis; infinite where nothing is.
        solid: (side, side) int16, index of the solid; `NOTHING` where none is.
    """

    depth: FloatArray
    solid: NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class Surfaces:
    """The seen surfaces, one value a pixel; zero where nothing is.

    Attributes:
        u, v: (side, side) float32, metres along the surface.
        normal: (3, side, side) float32.
        side: (side, side) int8, as in `Patch`.
    """

    u: FloatArray
    v: FloatArray
    normal: FloatArray
    side: NDArray[np.int8]


def see(view: View, rays: FloatArray, solids: Sequence[Solid], which: Sequence[int]) -> Sight:
    """Cast every ray at those of `solids` whose index is in `which`."""
    depth = np.full(rays.shape[1:], np.inf, np.float32)
    seen = np.full(rays.shape[1:], NOTHING, np.int16)
    for index in which:
        solid = solids[index]
        window = _window(view, solid)
        if window is None:
            continue
        own = solid.to_own()
        origin = own @ (view.origin - np.array(solid.centre, np.float32))
        part = rays[(slice(None), *window)]
        found = meet(solid.form, origin[:, None], turned(own, part.reshape(3, -1)))
        found = found.reshape(part.shape[1:])
        nearer = found < depth[window]
        depth[window][nearer] = found[nearer]
        seen[window][nearer] = index
    return Sight(depth, seen)


def surfaces(view: View, rays: FloatArray, solids: Sequence[Solid], sight: Sight) -> Surfaces:
    """The surface at every pixel."""
    shape = sight.depth.shape
    u, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    normal, side = np.zeros((3, *shape), np.float32), np.zeros(shape, np.int8)
    flat_depth, flat_rays = sight.depth.reshape(-1), rays.reshape(3, -1)
    # Sorted by solid once, instead of comparing the whole picture with each.
    order = np.argsort(sight.solid, axis=None, kind="stable")
    ids, starts = np.unique(sight.solid.reshape(-1)[order], return_index=True)
    for index, places in zip(ids, np.split(order, starts[1:]), strict=True):
        if index == NOTHING:
            continue
        solid = solids[index]
        own = solid.to_own()
        origin = own @ (view.origin - np.array(solid.centre, np.float32))
        points = origin[:, None] + turned(own, flat_rays[:, places]) * flat_depth[places]
        patch = surface(solid, points)
        u.reshape(-1)[places], v.reshape(-1)[places] = patch.u, patch.v
        normal.reshape(3, -1)[:, places] = patch.normal
        side.reshape(-1)[places] = patch.side
    return Surfaces(u, v, normal, side)


def _window(view: View, solid: Solid) -> tuple[slice, slice] | None:
    """Rows and columns that can see the solid; None where none can."""
    side = view.side_px
    column, row, depth = view.project(solid.corners())
    if (depth < NEAREST_M).all() and solid.form != "room":
        return None
    if (depth < NEAREST_M).any():
        return slice(0, side), slice(0, side)
    left, right = max(0, int(column.min())), min(side, int(column.max()) + 1)
    top, bottom = max(0, int(row.min())), min(side, int(row.max()) + 1)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None
