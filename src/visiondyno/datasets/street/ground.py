"""Sky and ground: everything behind and beneath what stands on the street."""

import math
from functools import lru_cache
from random import Random

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.street.camera import HEIGHT, OVERSAMPLING, WIDTH, Points
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.conditions import Colour
from visiondyno.datasets.street.plan import ScenePlan, Street

FAR_M = 220.0
"""How far the ground is drawn, metres."""
_TEXELS_PER_M = 12.0


@lru_cache(maxsize=1)
def grain() -> NDArray[np.float32]:
    """(1024, 1024) float32 around 0: blotches, patches and grit, the same in every scene."""
    source = np.random.default_rng(7)
    total = np.zeros((1024, 1024), np.float32)
    for cells, weight in ((8, 0.5), (32, 0.45), (128, 0.4), (512, 0.5), (1024, 0.45)):
        noise = source.standard_normal((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(noise, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    return total / float(total.std())


def paint_sky(canvas: Canvas, plan: ScenePlan, dice: Random) -> None:
    """A gradient from the zenith to the horizon, with clouds."""
    conditions = plan.conditions
    rows, columns = HEIGHT // 2, WIDTH // 2
    horizon = canvas.projection.horizon_row(canvas.projection.centre[0]) / (2 * OVERSAMPLING)
    height = (horizon - np.arange(rows)) / (WIDTH / 2)
    share = np.clip(height * 2.2, 0, 1).astype(np.float32) ** 0.7
    top = np.array(conditions.sky_top, np.float32)
    bottom = np.array(conditions.sky_horizon, np.float32)
    sky = bottom + (top - bottom) * share[:, None, None]
    sky = np.broadcast_to(sky, (rows, columns, 3))
    amount = {"clear": dice.uniform(-0.2, 0.7), "overcast": 0.9}.get(conditions.weather, 0.3)
    if amount > 0:
        row, column = dice.randrange(0, 700), dice.randrange(0, 700)
        cloud = cv2.resize(
            grain()[row : row + 40, column : column + 30], (columns, rows), interpolation=1
        )
        cover = np.clip(cloud * 0.35 + 0.1, 0, 1)[..., None] * amount
        white = bottom + (np.float32(255) - bottom) * (0.5 if conditions.light == "day" else 0.05)
        sky = sky + (white - sky) * cover
    size = (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING)
    canvas.cover(cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), size))


def paint_ground(canvas: Canvas, plan: ScenePlan, shadows: list[tuple[Points, float]]) -> None:
    """Verges, pavements, the road and its markings, worn and shaded.

    Args:
        canvas: what is painted on.
        plan: the scene.
        shadows: ground polygons (n, 3) in metres, each with how dark it is, 0–1.
    """
    dice = Random(plan.look + 1)  # noqa: S311 - reproducible pictures, no secret
    _surfaces(canvas, plan.street, dice)
    _markings(canvas, plan.street, dice)
    first = _first_ground_row(canvas)
    size = HEIGHT * OVERSAMPLING
    if first >= size:
        return
    shade = _wear(canvas, dice) - _shadow_mask(canvas, shadows)
    shade *= canvas.lit((0.0, 1.0, 0.0))
    factor = np.clip(shade * 128, 0, 255).astype(np.uint8)
    factor = cv2.resize(factor, (WIDTH * OVERSAMPLING, size))[first:]
    ground = cv2.multiply(canvas.picture(first), cv2.merge((factor,) * 3), scale=1 / 128)
    canvas.cover(_fade(canvas, ground, first), first)


def _first_ground_row(canvas: Canvas) -> int:
    edges = [canvas.projection.horizon_row(c) for c in (0.0, float(WIDTH * OVERSAMPLING))]
    return int(np.clip(math.ceil(max(edges)), 0, HEIGHT * OVERSAMPLING))


def _fade(canvas: Canvas, ground: NDArray[np.uint8], first: int) -> NDArray[np.uint8]:
    conditions = canvas.conditions
    depth = canvas.projection.ground_depth()[first:]
    clear = np.exp(-conditions.fog_per_m * np.minimum(depth, 1e4)).astype(np.float32)
    keep = np.rint(clear * 128).astype(np.uint8)
    faded = cv2.multiply(ground, np.broadcast_to(keep[:, None, None], ground.shape), scale=1 / 128)
    fog = np.array(conditions.fog_colour, np.float32) * (1 - clear)[:, None]
    haze = np.broadcast_to(fog.astype(np.uint8)[:, None], ground.shape)
    return np.asarray(cv2.add(faded, haze), np.uint8)


def _wear(canvas: Canvas, dice: Random) -> NDArray[np.float32]:
    """(192, 320) float32 around 1: the ground's texture, in perspective."""
    to_canvas = canvas.projection.ground_homography()
    shift = (dice.uniform(25, 55), dice.uniform(0, 25))
    ground = np.array(
        (
            (1 / _TEXELS_PER_M, 0, -shift[0]),
            (0, 1 / _TEXELS_PER_M, -shift[1]),
            (0, 0, 1.0),
        )
    )
    half = np.diag((1 / OVERSAMPLING, 1 / OVERSAMPLING, 1.0))
    inverse = np.linalg.inv(half @ to_canvas @ ground)
    wear = cv2.warpPerspective(
        grain(),
        inverse,
        (WIDTH, HEIGHT),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    depth = canvas.projection.ground_depth()[::OVERSAMPLING]
    # On the horizon itself the texture is undefined, and so far it would add nothing to a 1.
    wear[depth > FAR_M * 1.1] = 0
    # Far texture is finer than a pixel: it averages out.
    strength = dice.uniform(0.04, 0.1) * np.exp(-np.minimum(depth, 1e4) / 14)
    return np.asarray(1 + wear * strength[:, None].astype(np.float32), np.float32)


def _shadow_mask(canvas: Canvas, shadows: list[tuple[Points, float]]) -> NDArray[np.float32]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for points, dark in shadows:
        found = canvas.projection.polygon(points)
        if found is None:
            continue
        hull = cv2.convexHull(np.clip(found[0] / OVERSAMPLING, -4000, 4000).astype(np.float32))
        layer = np.rint(hull * 8).astype(np.int32)
        cv2.fillConvexPoly(mask, layer, round(255 * dark), shift=3)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.9).astype(np.float32) / 255, np.float32)


def _strip(canvas: Canvas, x0: float, x1: float, z0: float, z1: float, colour: Colour) -> None:
    points = np.array(((x0, 0.0, z0), (x1, 0.0, z0), (x1, 0.0, z1), (x0, 0.0, z1)))
    found = canvas.projection.polygon(points)
    if found is not None:
        canvas.convex(found[0], colour)


def _surfaces(canvas: Canvas, street: Street, dice: Random) -> None:
    verge: Colour = {
        "terrace": (dice.uniform(105, 135),) * 3,
        "suburb": (60.0, 120.0, 95.0),
        "park": (55.0, 115.0, 85.0),
        "open": (75.0, 125.0, 125.0),
    }[street.surroundings]
    asphalt = dice.uniform(70, 112)
    road: Colour = (asphalt * dice.uniform(0.97, 1.05), asphalt, asphalt * dice.uniform(0.97, 1.04))
    paving = dice.uniform(105, 148)
    pavement: Colour = (paving * dice.uniform(0.86, 1), paving * 0.97, paving)
    kerb: Colour = (paving * 1.1, paving * 1.12, paving * 1.12)
    half, walk = street.half_road, street.pavement_width
    # Below the horizon, as a shape of the picture: an endless plane's corners are too far away.
    right, bottom = float(WIDTH * OVERSAMPLING), float(HEIGHT * OVERSAMPLING)
    rows = [canvas.projection.horizon_row(column) for column in (0.0, right)]
    if min(rows) < bottom:
        canvas.convex(
            np.array(
                (
                    (0.0, min(rows[0], bottom)),
                    (right, min(rows[1], bottom)),
                    (right, bottom),
                    (0.0, bottom),
                )
            ),
            verge,
        )
    for side in (-1, 1):
        _strip(canvas, side * half, side * (half + walk), -2, FAR_M, pavement)
        _strip(canvas, side * half, side * (half + 0.18), -2, 90, kerb)
    _strip(canvas, -half, half, -2, FAR_M, road)
    if street.junction_z is not None:
        z = street.junction_z
        for side in (-1, 1):
            _strip(canvas, side * half, side * 120, z - 4 - walk, z + 4 + walk, pavement)
        _strip(canvas, -120, 120, z - 4, z + 4, road)
        _strip(canvas, -half, half, z - 4 - walk, z + 4 + walk, road)


def _markings(canvas: Canvas, street: Street, dice: Random) -> None:
    worn = dice.uniform(0.7, 1)
    paint: Colour = (215 * worn, 220 * worn, 222 * worn)
    middle: Colour = paint if dice.random() < 0.7 else (60.0, 180.0, 215.0)
    gaps = [(z, z + 3.0) for z in np.arange(dice.uniform(-2, 4), 90, 7.5)]
    closed = _interrupted(street)

    def along(x: float, colour: Colour, *, dashed: bool) -> None:
        for z0, z1 in gaps if dashed else [(-2.0, 110.0)]:
            for a, b in _outside(z0, z1, closed):
                _strip(canvas, x - 0.07, x + 0.07, a, b, colour)

    if street.lanes > 1 or dice.random() < 0.3:
        along(-0.14, middle, dashed=False)
        along(0.14, middle, dashed=False)
    else:
        along(0, middle, dashed=True)
    for lane in range(1, street.lanes + 1):
        x = lane * street.lane_width
        if x < street.half_road - 0.1:
            along(x, paint, dashed=lane < street.lanes)
            along(-x, paint, dashed=lane < street.lanes)
    if street.crossing_z is not None:
        bars = np.arange(-street.half_road + 0.3, street.half_road - 0.5, 1.0)
        for x in bars:
            _strip(canvas, x, x + 0.5, street.crossing_z, street.crossing_z + 3, paint)
    if street.junction_z is not None and dice.random() < 0.7:
        z = street.junction_z - 4 - street.pavement_width
        _strip(canvas, 0 if street.driving_side > 0 else -street.half_road,
               street.half_road if street.driving_side > 0 else 0, z - 0.4, z, paint)  # fmt: skip


def _interrupted(street: Street) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    if street.crossing_z is not None:
        found.append((street.crossing_z - 1, street.crossing_z + 4))
    if street.junction_z is not None:
        reach = 4 + street.pavement_width
        found.append((street.junction_z - reach, street.junction_z + reach))
    return sorted(found)


def _outside(z0: float, z1: float, closed: list[tuple[float, float]]) -> list[tuple[float, float]]:
    pieces, start = [], z0
    for low, high in closed:
        if high <= start or low >= z1:
            continue
        if low > start:
            pieces.append((start, low))
        start = max(start, high)
    if start < z1:
        pieces.append((start, z1))
    return pieces
