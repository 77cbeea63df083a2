"""What surfaces look like: two colours, a pattern that says how they mix, and unevenness."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.depth_scenes.cast import NOTHING, Sight, Surfaces
from visiondyno.datasets.depth_scenes.view import FloatArray

Pattern = Literal["plain", "checks", "tiles", "bricks", "planks", "stripes", "windows"]

Colour = tuple[float, float, float]
"""Blue, green, red; shares of light that are thrown back."""

_NOISE_SIDE = 256
_FINE_PER_M, _COARSE_PER_M = 40.0, 4.0


@dataclass(frozen=True, slots=True)
class Material:
    """A surface.

    Attributes:
        colour: its own.
        second: of joints, of every other field, of panes.
        pattern: how the two mix.
        size_m: of a tile, brick, plank or stripe; of a storey of windows.
        grain: how uneven it is at the scale of a centimetre, share of its brightness.
        stain: likewise at the scale of decimetres.
    """

    colour: Colour
    second: Colour = (0.5, 0.5, 0.5)
    pattern: Pattern = "plain"
    size_m: float = 0.5
    grain: float = 0.05
    stain: float = 0.1


def make_noise(rng: np.random.Generator) -> FloatArray:
    """(256, 256) float32 noise of several octaves without seams, mean 0, about -1 to 1."""
    noise = np.zeros((_NOISE_SIDE, _NOISE_SIDE), np.float32)
    for cells in (8, 16, 32, 64, 128):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        # Wrapped by a cell on each side, enlarged and cut, so that the edges meet.
        wrapped = np.pad(grid, 2, mode="wrap")
        factor = _NOISE_SIDE // cells
        large = cv2.resize(wrapped, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        start = 2 * factor
        noise += (
            large[start : start + _NOISE_SIDE, start : start + _NOISE_SIDE] * (8 / cells) ** 0.5
        )
    return np.asarray(np.clip(noise / 2, -1, 1), np.float32)


def colours(
    materials: Sequence[Material],
    material_of_solid: NDArray[np.int16],
    sight: Sight,
    surfaces: Surfaces,
    noise: tuple[FloatArray, float],
) -> FloatArray:
    """(side, side, 3) float32: what each pixel's surface throws back; 0 where nothing is.

    Args:
        materials: of the scene.
        material_of_solid: (solids,) index into `materials`.
        sight: what is seen.
        surfaces: of it.
        noise: what `make_noise` gave, and the view's focal length in pixels.
    """
    texture, focal_px = noise
    seen = sight.solid != NOTHING
    index = np.where(seen, material_of_solid[sight.solid], 0)
    u = surfaces.u + sight.solid * np.float32(0.37)  # no two solids carry the same stains
    v = surfaces.v
    depth = np.where(seen, sight.depth, 1).astype(np.float32)
    share, shade = _mix(materials, index, u, v, depth / focal_px)
    first = np.array([m.colour for m in materials], np.float32)[index]
    second = np.array([m.second for m in materials], np.float32)[index]
    out = first + (second - first) * share[..., None]
    grain = np.array([m.grain for m in materials], np.float32)[index]
    stain = np.array([m.stain for m in materials], np.float32)[index]
    # Grain smaller than a pixel averages out.
    visible = np.clip(1.5 - depth * (_FINE_PER_M / focal_px), 0, 1)
    uneven = 1 + shade + grain * visible * _sample(texture, u, v, _FINE_PER_M)
    uneven += stain * _sample(texture, v + 0.31, u, _COARSE_PER_M)
    out *= np.where(seen, np.clip(uneven, 0.2, 1.8), 0)[..., None]
    return np.asarray(out, np.float32)


def _sample(texture: FloatArray, u: FloatArray, v: FloatArray, per_m: float) -> FloatArray:
    x, y = (np.mod(at * np.float32(per_m), np.float32(_NOISE_SIDE)) for at in (u, v))
    return np.asarray(
        cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32
    )


def _mix(
    materials: Sequence[Material],
    index: NDArray[np.intp],
    u: FloatArray,
    v: FloatArray,
    pixel_m: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """The share of the second colour, and what single tiles or planks are lighter by."""
    share, shade = np.zeros(u.shape, np.float32), np.zeros(u.shape, np.float32)
    names = np.array([m.pattern for m in materials])
    sizes = np.array([m.size_m for m in materials], np.float32)
    for pattern in sorted(set(names[np.unique(index)]) - {"plain"}):
        places = np.nonzero((names == pattern)[index].reshape(-1))[0]
        size = sizes[index.reshape(-1)[places]]
        across, up = u.reshape(-1)[places] / size, v.reshape(-1)[places] / size
        part, lighter, mean = _PATTERNS[str(pattern)](across, up)
        # A pattern finer than the pixels is its mean, as in a photograph.
        sharp = np.clip(1.6 - 4 * pixel_m.reshape(-1)[places] / size, 0, 1)
        share.reshape(-1)[places] = mean + (part - mean) * sharp
        shade.reshape(-1)[places] = lighter * sharp
    return share, shade


_Mixed = tuple[FloatArray, FloatArray, float]

_LOTS = ((np.arange(1024) * 2654435761 % 1024) / 1024 - 0.5).astype(np.float32)


def _lot(x: FloatArray, y: FloatArray) -> FloatArray:
    """A number from -0.5 to 0.5 that depends on the field alone."""
    place = x.astype(np.int64) * 73 + y.astype(np.int64) * 179
    return np.asarray(_LOTS[(place * place + 31 * place) & 1023], np.float32)


def _checks(u: FloatArray, v: FloatArray) -> _Mixed:
    odd = (np.floor(u) + np.floor(v)).astype(np.int64) & 1
    return odd.astype(np.float32), np.zeros_like(u), 0.5


def _tiles(u: FloatArray, v: FloatArray) -> _Mixed:
    joint = (u - np.floor(u) < 0.05) | (v - np.floor(v) < 0.05)
    return joint.astype(np.float32), 0.16 * _lot(np.floor(u), np.floor(v)), 0.1


def _bricks(u: FloatArray, v: FloatArray) -> _Mixed:
    # Three times as long as high; every other course by half a brick.
    row = np.floor(v)
    along = u / 3 + 0.5 * (row.astype(np.int64) & 1)
    joint = (v - row < 0.13) | (along - np.floor(along) < 0.045)
    return joint.astype(np.float32), 0.4 * _lot(np.floor(along), row), 0.17


def _planks(u: FloatArray, v: FloatArray) -> _Mixed:
    plank = np.floor(u)
    along = v / 8 + _lot(plank, plank) * 2
    joint = (u - plank < 0.04) | (along - np.floor(along) < 0.008)
    return joint.astype(np.float32), 0.35 * _lot(plank, np.floor(along)), 0.05


def _stripes(u: FloatArray, v: FloatArray) -> _Mixed:
    del v
    return (u - np.floor(u) < 0.5).astype(np.float32), np.zeros_like(u), 0.5


def _windows(u: FloatArray, v: FloatArray) -> _Mixed:
    x, y = u - np.floor(u), v - np.floor(v)
    pane = (np.abs(x - 0.5) < 0.22) & (np.abs(y - 0.55) < 0.25) & (np.abs(x - 0.5) > 0.012)
    lit = np.where(pane, 0.7 * _lot(np.floor(u), np.floor(v)), 0)
    return pane.astype(np.float32), lit.astype(np.float32), 0.22


_PATTERNS = {
    "checks": _checks,
    "tiles": _tiles,
    "bricks": _bricks,
    "planks": _planks,
    "stripes": _stripes,
    "windows": _windows,
}
