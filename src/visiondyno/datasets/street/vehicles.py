"""Cars and trucks as solids.

A car is a side outline swept across its width, narrower at the roof; a truck is a cab and a load.
Vans up to a delivery van's size count as cars only when they have rear side windows (people
carriers); closed vans, box trucks, tippers, tankers and articulated lorries are trucks.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from random import Random

from visiondyno.datasets.street.conditions import Colour
from visiondyno.datasets.street.meshes import (
    Decal,
    Face,
    Palette,
    Solid,
    SolidBuilder,
    box_part,
)

Point = tuple[float, float, float]
Outline = tuple[tuple[float, float], ...]

# Side outlines from the rear bumper over the roof to the front bumper: (z, y) in metres. The
# indices name the edges that are glass: rear window and windscreen.
_OUTLINES: dict[str, tuple[Outline, int, int]] = {
    "saloon": (
        ((-2.25, 0.3), (-2.25, 0.75), (-2.15, 1.0), (-1.6, 1.05), (-1.05, 1.45), (0.35, 1.47),
         (1.05, 1.0), (2.05, 0.85), (2.25, 0.6), (2.25, 0.3)), 3, 5,
    ),
    "hatchback": (
        ((-1.9, 0.3), (-1.95, 0.8), (-1.85, 1.05), (-1.5, 1.48), (0.25, 1.52), (1.0, 1.05),
         (1.8, 0.88), (1.95, 0.6), (1.95, 0.3)), 2, 4,
    ),
    "estate": (
        ((-2.3, 0.32), (-2.35, 0.85), (-2.25, 1.08), (-1.9, 1.5), (0.35, 1.52), (1.1, 1.05),
         (2.1, 0.88), (2.3, 0.6), (2.3, 0.32)), 2, 4,
    ),
    "suv": (
        ((-2.2, 0.45), (-2.25, 1.0), (-2.15, 1.2), (-1.85, 1.75), (0.4, 1.78), (1.05, 1.25),
         (2.05, 1.12), (2.25, 0.8), (2.25, 0.45)), 2, 4,
    ),
    "carrier": (
        ((-2.3, 0.35), (-2.35, 0.95), (-2.3, 1.15), (-2.05, 1.85), (0.9, 1.85), (1.75, 1.15),
         (2.25, 1.0), (2.4, 0.7), (2.4, 0.35)), 2, 4,
    ),
}  # fmt: skip

CAR_STYLES = tuple(_OUTLINES)
TRUCK_STYLES = ("box", "van", "tipper", "tanker", "articulated", "flatbed")

_PAINTS: tuple[Colour, ...] = (
    (235, 235, 235), (205, 208, 210), (150, 150, 152), (95, 95, 98), (45, 44, 44), (62, 60, 58),
    (225, 228, 230), (175, 178, 180), (120, 118, 115), (35, 33, 33), (80, 85, 95), (30, 30, 160),
    (45, 45, 200), (150, 75, 35), (190, 120, 60), (90, 60, 35), (70, 110, 60), (60, 130, 165),
    (70, 190, 225), (60, 90, 205), (110, 140, 160), (80, 60, 110),
)  # fmt: skip


@lru_cache(maxsize=32)
def vehicle_solid(style: str) -> Solid:
    """The solid of a car or truck style."""
    return _car(style) if style in _OUTLINES else _truck(style)


def paintwork(dice: Random, *, braking: bool) -> Palette:
    """Colours of one vehicle."""
    body = dice.choice(_PAINTS)
    body = _vary(dice, body)
    load = _vary(dice, dice.choice((*_PAINTS[:4], *_PAINTS[:2], *_PAINTS[11:], *_PAINTS)))
    glass = 70 * dice.uniform(0.5, 1.4)
    tail: Colour = (40, 40, 245) if braking else (30, 25, 170)
    return {
        "body": body,
        "load": load,
        "mark": _vary(dice, dice.choice(_PAINTS)),
        "glass": (glass, glass * 0.92, glass * 0.8),
        "tyre": (28, 28, 28),
        "under": (22, 22, 22),
        "hub": (dice.uniform(80, 190),) * 3,
        "grille": (35, 35, 35),
        "chassis": (45, 45, 48),
        "plate": (225, 230, 230) if dice.random() < 0.7 else (60, 200, 235),
        "trim": (body[0] * 0.75, body[1] * 0.75, body[2] * 0.75),
        "headlight": (225, 232, 235),
        "taillight": tail,
    }


def _vary(dice: Random, colour: Colour) -> Colour:
    blue, green, red = (min(255.0, max(8.0, c * dice.uniform(0.8, 1.15))) for c in colour)
    return (blue, green, red)


def _ring(x: float, y: float, z: float, radius: float, corners: int = 10) -> list[Point]:
    steps = [2 * math.pi * step / corners for step in range(corners)]
    return [(x, y + radius * math.sin(a), z + radius * math.cos(a)) for a in steps]


def _wheels(
    builder: SolidBuilder, x: float, places: tuple[float, ...], radius: float
) -> tuple[Decal, ...]:
    found: list[Decal] = []
    for z in places:
        found.append(builder.decal(_ring(x, radius, z, radius), "tyre"))
        found.append(builder.decal(_ring(x, radius, z, radius * 0.58, 8), "hub"))
    return tuple(found)


def _tyres(builder: SolidBuilder, half: float, places: tuple[float, ...], radius: float) -> None:
    for z in places:
        for x in (-half + 0.03, half - 0.22):
            low, high = (x, 0.0, z - radius * 0.7), (x + 0.19, radius * 1.3, z + radius * 0.7)
            box_part(builder, low, high, "tyre")


def _car(style: str) -> Solid:
    outline, rear_glass, front_glass = _OUTLINES[style]
    builder = SolidBuilder()
    roof = max(y for _, y in outline)
    waist = outline[rear_glass][1]
    half = {"saloon": 0.88, "hatchback": 0.84, "estate": 0.88}.get(style, 0.94)

    def reach(y: float) -> float:
        return half - 0.2 * max(0.0, (y - waist) / (roof - waist))

    axles = (outline[0][0] + 0.85, outline[-1][0] - 0.85)
    radius = 0.37 if style == "suv" else 0.32
    _tyres(builder, half, axles, radius)
    faces: list[Face] = []
    for index, ((z0, y0), (z1, y1)) in enumerate(pairwise(outline)):
        a, b = reach(y0), reach(y1)
        corners = builder.add([(-a, y0, z0), (a, y0, z0), (b, y1, z1), (-b, y1, z1)])
        decals: tuple[Decal, ...] = ()
        if index in (rear_glass, front_glass):
            decals = (_inset(builder, (a, y0, z0), (b, y1, z1)),)
        elif index == 0:
            decals = _tail(builder, half, z0, y0, y1)
        elif index == len(outline) - 2:
            decals = _nose(builder, half, z0, y0, y1)
        faces.append(Face(corners, "body", decals))
    floor = outline[0][1]
    faces.append(
        Face(
            builder.add([(x, floor, z) for x, z in _corners(half, outline[0][0], outline[-1][0])]),
            "under",
        )
    )
    for side in (-1.0, 1.0):
        corners = builder.add([(side * reach(y), y, z) for z, y in outline])
        windows = _side_windows(builder, side, outline, (rear_glass, front_glass), reach)
        wheels = _wheels(builder, side * half, axles, radius)
        faces.append(Face(corners, "body", windows + wheels))
    builder.parts.append(faces)
    return builder.build()


def _corners(half: float, z0: float, z1: float) -> list[tuple[float, float]]:
    return [(-half, z0), (half, z0), (half, z1), (-half, z1)]


def _inset(builder: SolidBuilder, low: Point, high: Point) -> Decal:
    """The pane of a sloped edge from `low` (a, y, z) to `high`, a little inside its frame."""
    (a, y0, z0), (b, y1, z1) = low, high
    lower, upper = 0.08, 0.9

    def at(share: float) -> tuple[float, float, float]:
        return (a + (b - a) * share) * 0.9, y0 + (y1 - y0) * share, z0 + (z1 - z0) * share

    (p, py, pz), (q, qy, qz) = at(lower), at(upper)
    return builder.decal([(-p, py, pz), (p, py, pz), (q, qy, qz), (-q, qy, qz)], "glass")


def _tail(builder: SolidBuilder, half: float, z: float, y0: float, y1: float) -> tuple[Decal, ...]:
    high = y1 - 0.02
    lamps = [
        builder.decal(
            [(s * half * 0.97, high - 0.2, z), (s * half * 0.66, high - 0.2, z),
             (s * half * 0.66, high, z), (s * half * 0.97, high, z)], "taillight",
        )
        for s in (-1.0, 1.0)
    ]  # fmt: skip
    bumper = _slab(builder, half * 0.95, y0, y0 + 0.14, z, "trim")
    plate = _slab(builder, 0.26, y0 + 0.2, y0 + 0.32, z, "plate")
    return (bumper, *lamps, plate)


def _nose(builder: SolidBuilder, half: float, z: float, y0: float, y1: float) -> tuple[Decal, ...]:
    low, high = min(y0, y1), max(y0, y1)
    lamps = [
        builder.decal(
            [(s * half * 0.95, high - 0.17, z), (s * half * 0.62, high - 0.17, z),
             (s * half * 0.62, high, z), (s * half * 0.95, high, z)], "headlight",
        )
        for s in (-1.0, 1.0)
    ]  # fmt: skip
    grille = _slab(builder, half * 0.52, low + 0.1, high - 0.03, z, "grille")
    plate = _slab(builder, 0.26, low + 0.03, low + 0.14, z, "plate")
    return (grille, *lamps, plate)


def _slab(
    builder: SolidBuilder, half: float, y0: float, y1: float, z: float, material: str
) -> Decal:
    return builder.decal([(-half, y0, z), (half, y0, z), (half, y1, z), (-half, y1, z)], material)


def _side_windows(
    builder: SolidBuilder,
    side: float,
    outline: Outline,
    glass: tuple[int, int],
    reach: Callable[[float], float],
) -> tuple[Decal, ...]:
    rear, front = glass
    (rz0, ry0), (rz1, ry1) = outline[rear], outline[rear + 1]
    (fz1, fy1), (fz0, fy0) = outline[front], outline[front + 1]
    base = max(ry0, fy0) + 0.03
    top = min(ry1, fy1) - 0.09

    def slope(z0: float, y0: float, z1: float, y1: float, y: float) -> float:
        return z0 + (z1 - z0) * (y - y0) / (y1 - y0)

    back = [slope(rz0, ry0, rz1, ry1, y) + 0.16 for y in (base, top)]
    ahead = [slope(fz0, fy0, fz1, fy1, y) - 0.14 for y in (base, top)]
    post = (back[1] + ahead[1]) / 2
    panes = ((back, (post - 0.05, post - 0.05)), ((post + 0.05, post + 0.05), ahead))
    return tuple(
        builder.decal(
            [(side * reach(base), base, a[0]), (side * reach(base), base, b[0]),
             (side * reach(top), top, b[1]), (side * reach(top), top, a[1])], "glass",
        )
        for a, b in panes
    )  # fmt: skip


def _cab(builder: SolidBuilder, z0: float, z1: float, height: float, half: float) -> None:
    floor = 0.5
    mid = floor + (height - floor) * 0.5
    front = (
        _slab(builder, half * 0.92, mid, height - 0.22, z1, "glass"),
        _slab(builder, half * 0.6, floor + 0.15, mid - 0.25, z1, "grille"),
        *(
            builder.decal(
                [(s * half * 0.95, floor + 0.12, z1), (s * half * 0.68, floor + 0.12, z1),
                 (s * half * 0.68, floor + 0.34, z1), (s * half * 0.95, floor + 0.34, z1)],
                "headlight",
            )
            for s in (-1.0, 1.0)
        ),
        _slab(builder, 0.26, floor + 0.02, floor + 0.12, z1, "plate"),
    )  # fmt: skip
    sides = {}
    for name, s in (("left", -half), ("right", half)):
        pane = [(s, mid, z1 - 0.85), (s, mid, z1 - 0.12), (s, height - 0.25, z1 - 0.22),
                (s, height - 0.25, z1 - 0.85)]  # fmt: skip
        wheel = _wheels(builder, s, (z1 - 0.75,), 0.47)
        sides[name] = (builder.decal(pane, "glass"), *wheel)
    decals = {"front": front, **sides}
    box_part(builder, (-half, floor, z0), (half, height, z1), "body", decals)


def _load(
    builder: SolidBuilder,
    half: float,
    y0: float,
    y1: float,
    z0: float,
    z1: float,
    axles: tuple[float, ...],
) -> None:
    """The box a truck carries, with doors and lights behind and a stripe on its sides."""
    tall = y1 - y0
    lamps = tuple(
        builder.decal(
            [(s * half * 0.96, y0 + 0.02, z0), (s * half * 0.74, y0 + 0.02, z0),
             (s * half * 0.74, y0 + 0.2, z0), (s * half * 0.96, y0 + 0.2, z0)], "taillight",
        )
        for s in (-1.0, 1.0)
    )  # fmt: skip
    doors = (
        _slab(builder, half * 0.9, y0 + 0.28, y1 - 0.12, z0, "trim"),
        _slab(builder, 0.03, y0 + 0.28, y1 - 0.12, z0, "chassis"),
        _slab(builder, 0.26, y0 + 0.04, y0 + 0.16, z0, "plate"),
    )
    decals = {"rear": doors + lamps}
    for name, s in (("left", -half), ("right", half)):
        a, b = z0 + (z1 - z0) * 0.12, z0 + (z1 - z0) * 0.8
        low, high = y0 + tall * 0.4, y0 + tall * 0.72
        mark = builder.decal([(s, low, a), (s, low, b), (s, high, b), (s, high, a)], "mark")
        decals[name] = (mark, *_wheels(builder, s, axles, 0.47))
    box_part(builder, (-half, y0, z0), (half, y1, z1), "load", decals)


def _truck(style: str) -> Solid:
    builder = SolidBuilder()
    if style == "van":
        _tyres(builder, 1.0, (-1.9, 1.9), 0.36)
        _cab(builder, 1.35, 2.8, 2.15, 0.98)
        _load(builder, 1.0, 0.45, 2.45, -2.9, 1.35, (-1.9,))
        return builder.build()
    long = style == "articulated"
    rear = -8.5 if long else -4.2
    front = 4.6 if long else 3.6
    axles = (rear + 1.1, rear + 2.2) if long else (rear + 1.2,)
    _tyres(builder, 1.22, (*axles, front - 0.75), 0.47)
    low, high = (-1.2, 0.55, rear), (1.2, 0.85, front - 1.9)
    box_part(builder, low, high, "chassis")
    _cab(builder, front - 1.8, front, 3.3 if long else 2.7, 1.18)
    top = {"tipper": 2.1, "flatbed": 1.35, "tanker": 2.75, "box": 3.4}.get(style, 3.8)
    half = 1.05 if style == "tanker" else 1.23
    _load(builder, half, 0.85, top, rear, front - 2.0, axles)
    if style in ("tipper", "flatbed"):
        heap = (-0.9, top, rear + 0.6), (0.9, top + 0.55, front - 2.8)
        box_part(builder, *heap, "mark")
    return builder.build()
