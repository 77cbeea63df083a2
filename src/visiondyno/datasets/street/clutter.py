"""What stands on a street and is nothing to detect: trees, lamps, bins, adverts."""

import math
from collections.abc import Callable
from random import Random

import numpy as np

from visiondyno.datasets.street.camera import NEAREST_M
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.conditions import Colour
from visiondyno.datasets.street.meshes import Decal, Placement, SolidBuilder, box_part, paint
from visiondyno.datasets.street.plan import Thing


def paint_clutter(canvas: Canvas, thing: Thing) -> None:
    """Paint one thing of any kind in `CLUTTER`."""
    CLUTTER[thing.kind](canvas, thing, Random(thing.look))  # noqa: S311 - pictures, no secret


def _stick(
    canvas: Canvas, thing: Thing, low: float, high: float, half: float, colour: Colour
) -> tuple[float, float, float, float] | None:
    """An upright stick; returns canvas (u, v) of its top, canvas pixels a metre, and depth."""
    foot = canvas.projection.point(thing.x, low, thing.z)
    head = canvas.projection.point(thing.x, high, thing.z)
    if foot is None or head is None or foot[2] < NEAREST_M * 2:
        return None
    scale = canvas.projection.camera.focal_canvas / foot[2]
    wide = max(0.5, half * scale)
    flat = np.array(
        (
            (foot[0] - wide, foot[1]),
            (foot[0] + wide, foot[1]),
            (head[0] + wide, head[1]),
            (head[0] - wide, head[1]),
        )
    )
    canvas.convex(flat, canvas.shade(colour, 0.9, foot[2]))
    canvas.hide_glow(flat)
    return head[0], head[1], scale, foot[2]


def _tree(canvas: Canvas, thing: Thing, dice: Random) -> None:
    tall = dice.uniform(4.5, 9)
    trunk = dice.uniform(0.12, 0.25)
    top = _stick(canvas, thing, 0, tall * 0.6, trunk, (45, 62, 80))
    if top is None:
        return
    u, v, scale, depth = top
    if thing.style == "bare":
        _branches(canvas, (u, v, scale, depth), tall, dice)
        return
    hue = dice.uniform(0, 1)
    leaf: Colour = (40 + 20 * hue, 95 + 30 * dice.random(), 60 + 80 * hue * dice.random())
    crown = tall * dice.uniform(0.22, 0.34)
    blobs = []
    for _ in range(14 if depth < 40 else 7):
        angle, far = dice.uniform(0, 2 * math.pi), math.sqrt(dice.random())
        x = u + math.cos(angle) * far * crown * scale
        y = v - (math.sin(angle) * far * crown * 0.9 + crown * 0.35) * scale
        blobs.append((x, y, crown * dice.uniform(0.3, 0.55) * scale))
    for x, y, radius in sorted(blobs, key=lambda blob: -blob[1]):
        # Leaves above catch more light than those below.
        light = 0.72 + 0.4 * (v + crown * 0.6 * scale - y) / (2.4 * crown * scale)
        canvas.disc(x, y, radius, canvas.shade(leaf, light * dice.uniform(0.88, 1.1), depth), 0.85)
    hidden = np.array([(x + dx, y) for x, y, r in blobs for dx in (-r * 0.7, r * 0.7)])
    canvas.hide_glow(hidden)


def _branches(
    canvas: Canvas, top: tuple[float, float, float, float], tall: float, dice: Random
) -> None:
    u, v, scale, depth = top
    shade = canvas.shade((50, 62, 76), 0.9, depth)
    for _ in range(9):
        angle = dice.uniform(0.4, math.pi - 0.4)
        long = tall * dice.uniform(0.2, 0.42) * scale
        start = v + dice.uniform(0, tall * 0.15) * scale
        tip = (u + math.cos(angle) * long, start - math.sin(angle) * long)
        wide = max(0.5, 0.05 * scale)
        canvas.convex(np.array(((u - wide, start), (u + wide, start), tip)), shade)


def _bush(canvas: Canvas, thing: Thing, dice: Random) -> None:
    foot = canvas.projection.point(thing.x, 0.3, thing.z)
    if foot is None or foot[2] < 2:
        return
    scale = canvas.projection.camera.focal_canvas / foot[2]
    leaf: Colour = (dice.uniform(35, 60), dice.uniform(80, 120), dice.uniform(45, 95))
    for _ in range(8):
        x = foot[0] + dice.uniform(-0.9, 0.9) * scale
        y = foot[1] - dice.uniform(-0.1, 0.55) * scale
        shade = canvas.shade(leaf, dice.uniform(0.75, 1.1), foot[2])
        canvas.disc(x, y, dice.uniform(0.25, 0.45) * scale, shade, 0.8)


def _lamp(canvas: Canvas, thing: Thing, dice: Random) -> None:
    tall = dice.uniform(5, 8)
    top = _stick(canvas, thing, 0, tall, 0.07, (95, 95, 92))
    arm = -math.copysign(dice.uniform(0.8, 1.8), thing.x)
    tip = canvas.projection.point(thing.x + arm, tall, thing.z)
    if top is None or tip is None:
        return
    u, v, scale, depth = top
    thick = max(0.6, 0.05 * scale)
    shade = canvas.shade((95, 95, 92), 0.9, depth)
    canvas.convex(
        np.array(((u, v - thick), (tip[0], tip[1] - thick), (tip[0], tip[1] + thick), (u, v))),
        shade,
    )
    canvas.disc(tip[0], tip[1], 0.22 * scale, shade, 0.4)
    if canvas.conditions.lamps_lit:
        warm: Colour = dice.choice(((150, 205, 255), (225, 240, 255), (90, 170, 255)))
        canvas.shine(tip[0], tip[1] + 0.05 * scale, 0.2 * scale, warm, depth)


def _traffic_light(canvas: Canvas, thing: Thing, dice: Random) -> None:
    top = _stick(canvas, thing, 0, 3.2, 0.06, (60, 62, 60))
    if top is None:
        return
    u, v, scale, depth = top
    half, tall = 0.17 * scale, 0.9 * scale
    case = np.array(((u - half, v), (u + half, v), (u + half, v + tall), (u - half, v + tall)))
    canvas.convex(case, canvas.shade((35, 36, 35), 1, depth))
    lit = dice.randrange(3)
    colours: tuple[Colour, ...] = ((50, 50, 250), (50, 190, 255), (140, 235, 70))
    for index, colour in enumerate(colours):
        y = v + tall * (0.2 + 0.3 * index)
        dark: Colour = (colour[0] * 0.25, colour[1] * 0.25, colour[2] * 0.25)
        canvas.disc(u, y, 0.11 * scale, canvas.shade(colour if index == lit else dark, 1, depth))
        if index == lit and canvas.conditions.lamps_lit:
            canvas.shine(u, y, 0.11 * scale, colour, depth)


def _post(canvas: Canvas, thing: Thing, dice: Random) -> None:
    tall = dice.uniform(0.7, 1.1)
    top = _stick(canvas, thing, 0, tall, 0.07, dice.choice(((40, 40, 40), (60, 60, 190))))
    if top is not None:
        u, v, scale, depth = top
        canvas.disc(u, v, 0.09 * scale, canvas.shade((200, 200, 205), 1, depth))


def _cone(canvas: Canvas, thing: Thing, dice: Random) -> None:
    tall = dice.uniform(0.5, 0.8)
    foot = canvas.projection.point(thing.x, 0, thing.z)
    top = canvas.projection.point(thing.x, tall, thing.z)
    if foot is None or top is None or foot[2] < 2:
        return
    scale = canvas.projection.camera.focal_canvas / foot[2]
    for share, colour in ((1.0, (40, 95, 235)), (0.62, (225, 225, 225)), (0.38, (40, 95, 235))):
        half = 0.2 * scale * share
        base = foot[1] + (top[1] - foot[1]) * (1 - share)
        flat = np.array(((foot[0] - half, base), (foot[0] + half, base), (top[0], top[1])))
        canvas.convex(flat, canvas.shade(colour, 0.95, foot[2]))


_BOX_KINDS: dict[str, tuple[tuple[float, float, float], tuple[Colour, ...]]] = {
    # Half width, height, half length in metres, and colours.
    "bin": ((0.3, 1.05, 0.35), ((60, 80, 40), (45, 45, 45), (120, 70, 35), (50, 150, 190))),
    "cabinet": ((0.5, 1.3, 0.22), ((120, 125, 120), (80, 100, 80))),
    "postbox": ((0.28, 1.5, 0.28), ((40, 40, 190), (60, 190, 220), (130, 70, 30))),
    "phone_box": ((0.45, 2.4, 0.45), ((45, 40, 170), (110, 105, 100), (120, 80, 60))),
    "kiosk": ((1.3, 2.6, 1.0), ((70, 100, 60), (150, 150, 155), (60, 90, 160))),
    "skip": ((0.95, 1.3, 1.9), ((50, 175, 215), (110, 90, 60), (70, 80, 75))),
    "bench": ((0.25, 0.5, 0.8), ((50, 75, 105), (80, 80, 80))),
    "barrier": ((0.12, 0.85, 1.1), ((225, 225, 228), (50, 50, 200), (170, 172, 170))),
    "container": ((1.2, 2.6, 3.0), ((110, 80, 40), (50, 60, 150), (80, 110, 90))),
}


def _box(canvas: Canvas, thing: Thing, dice: Random) -> None:
    (half, tall, long), colours = _BOX_KINDS[thing.kind]
    builder = SolidBuilder()
    face = builder.decal(
        [(half, tall * 0.45, -long * 0.7), (half, tall * 0.45, long * 0.7),
         (half, tall * 0.85, long * 0.7), (half, tall * 0.85, -long * 0.7)], "mark",
    )  # fmt: skip
    back = builder.decal(
        [(-half * 0.7, tall * 0.45, -long), (half * 0.7, tall * 0.45, -long),
         (half * 0.7, tall * 0.85, -long), (-half * 0.7, tall * 0.85, -long)], "mark",
    )  # fmt: skip
    decals: dict[str, tuple[Decal, ...]] = {}
    if dice.random() < 0.6:
        decals = {"right": (face,), "rear": (back,)}
    box_part(builder, (-half, 0, -long), (half, tall, long), "body", decals)
    body = dice.choice(colours)
    mark: Colour = (dice.uniform(20, 230), dice.uniform(20, 230), dice.uniform(20, 230))
    size = dice.uniform(0.85, 1.15)
    placement = Placement(thing.x, thing.z, thing.heading, (size, size, size))
    paint(canvas, builder.build(), placement, {"body": body, "mark": mark})


def _advert(canvas: Canvas, thing: Thing, dice: Random) -> None:
    """A poster on legs, with shapes and colours that signs and cars have too."""
    wide, tall, low = dice.uniform(0.6, 1.8), dice.uniform(1.4, 2.2), dice.uniform(0.3, 1.5)
    right = np.array((math.cos(thing.heading), 0.0, -math.sin(thing.heading)))
    foot = np.array((thing.x, 0.0, thing.z))

    def area(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        return np.array([foot + x * right + np.array((0, y, 0)) for x, y in corners])

    for x in (-wide * 0.8, wide * 0.8):
        canvas.wall(area(x - 0.05, x + 0.05, 0, low), (70, 70, 70))
    canvas.wall(area(-wide, wide, low, low + tall), (60, 60, 62))
    paper: Colour = (dice.uniform(20, 250), dice.uniform(20, 250), dice.uniform(20, 250))
    canvas.wall(area(-wide * 0.93, wide * 0.93, low + 0.08, low + tall - 0.08), paper)
    for _ in range(dice.randint(1, 4)):
        x, y = dice.uniform(-0.6, 0.3) * wide, low + tall * dice.uniform(0.15, 0.7)
        ink: Colour = (dice.uniform(0, 255), dice.uniform(0, 255), dice.uniform(0, 255))
        long, high = dice.uniform(0.2, 0.6) * wide, dice.uniform(0.1, 0.25) * tall
        canvas.wall(area(x, x + long, y, y + high), ink)
    if canvas.conditions.lamps_lit and dice.random() < 0.5:
        found = canvas.projection.polygon(area(-wide * 0.9, wide * 0.9, low + 0.1, low + tall))
        if found is not None:
            canvas.shine_shape((found[0],), (paper[0] * 0.7, paper[1] * 0.7, paper[2] * 0.7))


CLUTTER: dict[str, Callable[[Canvas, Thing, Random], None]] = {
    "tree": _tree,
    "bush": _bush,
    "lamp": _lamp,
    "traffic_light": _traffic_light,
    "post": _post,
    "cone": _cone,
    "advert": _advert,
    **dict.fromkeys(_BOX_KINDS, _box),
}
"""How each kind of clutter is painted."""
