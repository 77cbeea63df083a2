"""From a plan to an image and its labels."""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from visiondyno.datasets.rendering import SPLITS, Split
from visiondyno.datasets.street.buildings import paint_surroundings
from visiondyno.datasets.street.camera import HEIGHT, OVERSAMPLING, WIDTH, Points, Projection
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.clutter import paint_clutter
from visiondyno.datasets.street.figures import paint_pedestrian, paint_sign
from visiondyno.datasets.street.ground import paint_ground, paint_sky
from visiondyno.datasets.street.layout import half_length, sample_plan
from visiondyno.datasets.street.meshes import Painted, Placement, paint
from visiondyno.datasets.street.optics import record
from visiondyno.datasets.street.plan import STREET_CLASSES, ScenePlan, Thing
from visiondyno.datasets.street.vehicles import paintwork, vehicle_solid
from visiondyno.predictions import BoxTruth, Image

STREET_VERSION = 1
"""Goes up whenever a scene's bytes or labels change: the cache and the seeds carry it."""

LEAST_VISIBLE = 0.2
"""Least share of an object's silhouette that must be seen for it to be labelled."""
LEAST_LONG_SIDE_PX = 6.0
"""Shortest longer side of a labelled box, image pixels."""
LEAST_SHORT_SIDE_PX = 4.0
"""Shortest shorter side of a labelled box, image pixels."""
LEAST_CLEAR = 0.12
"""Least share of an object's contrast that the fog must leave for it to be labelled."""


@dataclass(frozen=True, slots=True)
class _Silhouette:
    """An object as painted, before anything nearer hides it.

    Attributes:
        identity: its value in the canvas' fourth channel.
        rows, columns: where it can be.
        painted_px: canvas pixels it covered.
        in_frame: share of its outline inside the frame.
    """

    identity: int
    class_id: int
    rows: slice
    columns: slice
    painted_px: int
    in_frame: float
    clear: float


def scene_seed(split: Split, index: int) -> int:
    """The seed of a scene: no two scenes of any splits share one."""
    sequence = np.random.SeedSequence([STREET_VERSION, SPLITS.index(split), index])
    return int.from_bytes(sequence.generate_state(4).tobytes(), "little")


def plan_scene(split: Split, index: int) -> ScenePlan:
    """What scene `index` of a split is made of."""
    return sample_plan(scene_seed(split, index))


def render_scene(split: Split, index: int) -> tuple[Image, BoxTruth]:
    """Paint one street scene.

    Args:
        split: `train`, `val` or `demo`; their scenes are disjoint.
        index: which scene, from 0.

    Returns:
        The image (192, 320, 3) uint8 BGR, before JPEG, and its labels: boxes around the visible
        extent of every car, truck, pedestrian and sign plate, to half a pixel, inside the image.
        Not labelled: what is less than 20 % visible (hidden or outside the frame), shorter than
        6 px on its longer or 4 px on its shorter side, or lost in fog.
    """
    return draw_plan(plan_scene(split, index))


def draw_plan(plan: ScenePlan) -> tuple[Image, BoxTruth]:
    """Paint a plan; see `render_scene`."""
    canvas = Canvas(Projection(plan.camera), plan.conditions)
    dice = Random(plan.look)  # noqa: S311 - reproducible pictures, no secret
    paint_sky(canvas, plan, dice)
    paint_ground(
        canvas, plan, [shadow for thing in plan.things for shadow in _shadows(plan, thing)]
    )
    paint_surroundings(canvas, plan, dice)
    silhouettes: list[_Silhouette] = []
    near_first = sorted(plan.things, key=lambda thing: _distance(plan, thing))
    for thing in reversed(near_first):
        found = _paint_thing(canvas, thing, len(silhouettes) + 1)
        if found is not None:
            silhouettes.append(found)
    return record(canvas, plan), _labels(canvas, silhouettes)


def _distance(plan: ScenePlan, thing: Thing) -> float:
    """From the camera to the nearest point of a thing's middle line, metres."""
    half = half_length(thing)
    dx, dz = plan.camera.x - thing.x, -thing.z
    ax, az = math.sin(thing.heading), math.cos(thing.heading)
    along = min(half, max(-half, dx * ax + dz * az))
    return math.hypot(dx - along * ax, dz - along * az)


def _shadows(plan: ScenePlan, thing: Thing) -> list[tuple[Points, float]]:
    """Where a thing darkens the ground: beneath it, and away from the sun."""
    half = half_length(thing)
    wide, tall = (1.0, 1.5 if thing.kind == "car" else 2.9) if half else (0.22, 1.6)
    if not half and thing.kind not in ("pedestrian", "tree", "kiosk", "skip", "container"):
        wide, tall = 0.1, 1.0
    long = half or wide
    base = np.array(
        ((-wide, 0.0, -long), (wide, 0.0, -long), (wide, 0.0, long), (-wide, 0.0, long))
    )
    foot = Placement(thing.x, thing.z, thing.heading).to_world(base)
    found = [(foot, 0.45 if half else 0.25)]
    sun, strength = plan.conditions.sun, plan.conditions.sun_strength
    if strength > 0.12:
        reach = min(3.0, 1 / max(0.2, sun[1])) * tall
        shift = np.array((-sun[0] * reach, 0.0, -sun[2] * reach))
        found.append((_hull_on_ground(foot, shift), 0.35 * strength / 0.5))
    return found


def _hull_on_ground(foot: Points, shift: Points) -> Points:
    corners = np.concatenate((foot, foot + shift))
    flat = corners[:, (0, 2)].astype(np.float32)
    hull = cv2.convexHull(flat)[:, 0].astype(np.float64)
    return np.stack((hull[:, 0], np.zeros(len(hull)), hull[:, 1]), axis=1)


def _paint_thing(canvas: Canvas, thing: Thing, identity: int) -> _Silhouette | None:
    if thing.kind not in STREET_CLASSES:
        paint_clutter(canvas, thing)
        return None
    middle = canvas.projection.point(thing.x, 0.0, thing.z)
    if middle is None or identity > 255:
        return None
    if thing.kind == "sign":
        paint_sign(canvas, thing, identity)
    else:
        canvas.identity = identity
        if thing.kind == "pedestrian":
            paint_pedestrian(canvas, thing)
            hull = None
        else:
            painted = _paint_vehicle(canvas, thing)
            hull = painted.hull_points if painted is not None else None
        canvas.identity = 0
        if hull is not None:
            return _silhouette(canvas, thing, identity, hull, middle[2])
    return _silhouette(canvas, thing, identity, _upright_outline(canvas, thing), middle[2])


def _paint_vehicle(canvas: Canvas, thing: Thing) -> Painted | None:
    dice = Random(thing.look)  # noqa: S311 - reproducible pictures, no secret
    braking = dice.random() < 0.35
    palette = paintwork(dice, braking=braking)
    scale = (dice.uniform(0.95, 1.05), dice.uniform(0.94, 1.06), dice.uniform(0.93, 1.06))
    placement = Placement(thing.x, thing.z, thing.heading, scale)
    painted = paint(canvas, vehicle_solid(thing.style), placement, palette)
    if painted is None or not canvas.conditions.lamps_lit:
        return painted
    for material, flat, depth in painted.decals:
        if not material.endswith("light"):
            continue
        u, v = flat.mean(axis=0)
        radius = 0.11 * canvas.projection.camera.focal_canvas / depth
        bright = (225, 240, 255) if material == "headlight" else (30, 30, 235 if braking else 120)
        canvas.shine(float(u), float(v), radius, bright, depth)
    return painted


def _upright_outline(canvas: Canvas, thing: Thing) -> Points | None:
    """Generous bounds of a pedestrian or a sign, (4, 2) canvas pixels."""
    low, high, half = (0.0, 2.0, 0.5) if thing.kind == "pedestrian" else (1.3, 4.4, 2.1)
    foot = canvas.projection.point(thing.x, low, thing.z)
    head = canvas.projection.point(thing.x, high, thing.z)
    if foot is None or head is None:
        return None
    wide = half * canvas.projection.camera.focal_canvas / foot[2]
    return np.array(
        (
            (foot[0] - wide, foot[1] + 2),
            (foot[0] + wide, foot[1] + 2),
            (head[0] + wide, head[1]),
            (head[0] - wide, head[1]),
        )
    )


def _silhouette(
    canvas: Canvas, thing: Thing, identity: int, outline: Points | None, depth: float
) -> _Silhouette | None:
    if outline is None:
        return None
    low, high = outline.min(axis=0), outline.max(axis=0)
    columns = slice(max(0, int(low[0]) - 2), max(0, int(high[0]) + 3))
    rows = slice(max(0, int(low[1]) - 2), max(0, int(high[1]) + 3))
    covered = np.count_nonzero(canvas.pixels[rows, columns, 3] == identity)
    if covered == 0:
        return None
    return _Silhouette(
        identity=identity,
        class_id=STREET_CLASSES.index(thing.kind),
        rows=rows,
        columns=columns,
        painted_px=int(covered),
        in_frame=_share_in_frame(outline),
        clear=math.exp(-canvas.conditions.fog_per_m * depth),
    )


def _share_in_frame(outline: Points) -> float:
    hull = cv2.convexHull(np.clip(outline, -20000, 20000).astype(np.float32))
    whole = cv2.contourArea(hull)
    wide, tall = WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING
    frame = np.array(((0, 0), (wide, 0), (wide, tall), (0, tall)), np.float32)
    inside, _ = cv2.intersectConvexConvex(hull, frame)
    return float(inside) / whole if whole > 0 else 1.0


def _labels(canvas: Canvas, silhouettes: list[_Silhouette]) -> BoxTruth:
    boxes, classes, areas = [], [], []
    for silhouette in silhouettes:
        seen = canvas.pixels[silhouette.rows, silhouette.columns, 3] == silhouette.identity
        visible = int(np.count_nonzero(seen))
        share = visible / silhouette.painted_px * silhouette.in_frame
        if share < LEAST_VISIBLE or silhouette.clear < LEAST_CLEAR:
            continue
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        left, top = silhouette.columns.start + columns[0], silhouette.rows.start + rows[0]
        right, bottom = silhouette.columns.start + columns[-1], silhouette.rows.start + rows[-1]
        box = np.array((left, top, right + 1, bottom + 1)) / OVERSAMPLING
        sides = box[2:] - box[:2]
        if sides.max() < LEAST_LONG_SIDE_PX or sides.min() < LEAST_SHORT_SIDE_PX:
            continue
        boxes.append(box)
        classes.append(silhouette.class_id)
        areas.append(visible / OVERSAMPLING**2)
    return BoxTruth(
        boxes_xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        class_ids=np.array(classes, np.int64),
        is_crowd=np.zeros(len(boxes), np.bool_),
        areas=np.array(areas, np.float64),
    )
