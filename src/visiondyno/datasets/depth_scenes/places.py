"""Places: what is around, and where things may stand in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from visiondyno.datasets.depth_scenes.light import Light
from visiondyno.datasets.depth_scenes.materials import Colour, Material, Pattern
from visiondyno.datasets.depth_scenes.plan import Scene, Sky
from visiondyno.datasets.depth_scenes.things import (
    HOUSEHOLD,
    OUTSIDE,
    STORED,
    WOOD,
    Rng,
    Spot,
    Thing,
    near,
    vivid,
)

PlaceKind = Literal["room", "corridor", "hall", "street", "yard"]

_HAND_ROOM_M = 0.75
"""So much is free around the camera."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place and the camera in it.

    Attributes:
        eye: x, height and z of the camera, metres.
        yaw: of the camera, radians.
        light: of the place.
        sky: None indoors.
    """

    eye: tuple[float, float, float]
    yaw: float
    light: Light
    sky: Sky | None


def build_place(kind: PlaceKind, scene: Scene, rng: Rng) -> Place:
    """Put a place of this kind together."""
    if kind == "room":
        size = (rng.uniform(3, 7.5), rng.uniform(2.4, 3.2), rng.uniform(3.5, 9))
        return _indoors(scene, rng, size, HOUSEHOLD, int(rng.integers(5, 13)))
    if kind == "corridor":
        size = (rng.uniform(1.7, 3.4), rng.uniform(2.3, 3.2), rng.uniform(10, 45))
        return _indoors(scene, rng, size, HOUSEHOLD[7:], int(rng.integers(3, 10)))
    if kind == "hall":
        size = (rng.uniform(9, 26), rng.uniform(4, 8), rng.uniform(14, 50))
        return _indoors(scene, rng, size, STORED, int(rng.integers(12, 30)))
    return _outdoors(scene, rng, along=kind == "street")


def _indoors(
    scene: Scene, rng: Rng, size: tuple[float, float, float], things: Sequence[Thing], count: int
) -> Place:
    width, high, deep = size
    _walls(scene, rng, size)
    # The camera stands near the front wall and looks into the place.
    eye = (
        rng.uniform(-0.5, 0.5) * max(width - 1.8, 0.2),
        min(rng.uniform(1.0, 1.8), high - 0.4),
        -deep / 2 + rng.uniform(0.5, 0.5 + 0.15 * min(deep, 10)),
    )
    yaw = float(rng.normal(0, 0.12 if width < 3.5 else 0.32))
    taken = [(eye[0], eye[2], _HAND_ROOM_M)]
    bounds = (-width / 2 + 0.05, width / 2 - 0.05, eye[2] + 0.3, deep / 2 - 0.05)
    _furnish(scene, rng, things, count, bounds, taken)
    _on_walls(scene, rng, size)
    lamp_z = rng.uniform(-0.2, 0.3) * min(deep, 12)
    warm = rng.uniform(0.75, 1.0)
    bright = rng.uniform(0.5, 1.1)
    light = Light(
        origin=(rng.uniform(-0.25, 0.25) * width, high - 0.05, lamp_z),
        target=(0.0, 0.0, lamp_z + 0.01),
        reach_m=min(max(width, 6.0), 2.6 * high),
        colour=(bright * warm * 0.95, bright * (0.5 + warm / 2), bright),
        fade_m=rng.uniform(1.2, 2.5) * high,
        ambient=_even(rng.uniform(0.3, 0.7), rng),
    )
    return Place(eye, yaw, light, None)


def _walls(scene: Scene, rng: Rng, size: tuple[float, float, float]) -> None:
    width, high, deep = size
    patterns: tuple[Pattern, ...] = ("plain", "plain", "plain", "tiles", "bricks", "stripes")
    walls = _surface(scene, rng, patterns, near((0.6, 0.65, 0.68), rng, 0.35))
    half = (width / 2, high / 2, deep / 2)
    scene.add("room", (0, high / 2, 0), half, 0.0, walls, casts_shadow=False)
    floors: tuple[Pattern, ...] = ("planks", "planks", "tiles", "tiles", "checks", "plain")
    floor = _surface(
        scene, rng, floors, near(WOOD if rng.random() < 0.5 else (0.45, 0.5, 0.5), rng)
    )
    scene.add("box", (0, -0.1, 0), (width, 0.1, deep), 0.0, floor, casts_shadow=False)
    ceiling = scene.paint(Material(near((0.75, 0.78, 0.8), rng, 0.1), (0.5, 0.5, 0.5),
                                   "tiles" if rng.random() < 0.3 else "plain", 0.6))  # fmt: skip
    scene.add("box", (0, high + 0.1, 0), (width, 0.1, deep), 0.0, ceiling, casts_shadow=False)


def _surface(scene: Scene, rng: Rng, patterns: Sequence[Pattern], colour: Colour) -> int:
    pattern = patterns[int(rng.integers(len(patterns)))]
    size = {"bricks": 0.075, "planks": rng.uniform(0.08, 0.2), "stripes": rng.uniform(0.1, 0.5)}
    joint = rng.uniform(0.4, 1.2)
    second: Colour = (colour[0] * joint, colour[1] * joint, colour[2] * joint)
    return scene.paint(
        Material(colour, second, pattern, size.get(pattern, rng.uniform(0.25, 0.7)),
                 rng.uniform(0.03, 0.2), rng.uniform(0.03, 0.25))
    )  # fmt: skip


def _on_walls(scene: Scene, rng: Rng, size: tuple[float, float, float]) -> None:
    """Doors of 0.9 × 2 m, pictures and windows, flat on the walls."""
    width, _, deep = size
    for _ in range(int(rng.integers(2, 4 + int(deep / 4)))):
        side = int(rng.integers(3))
        spot = (
            Spot(rng.uniform(-0.4, 0.4) * width, 0, deep / 2, 0.0)
            if side == 2
            else Spot((side - 0.5) * width, 0, rng.uniform(-0.45, 0.45) * deep, math.pi / 2)
        )
        if rng.random() < 0.45:
            door = scene.paint(Material(near(WOOD, rng, 0.6), (0.1, 0.1, 0.1), "plain", 1.0))
            scene.add("box", spot.at(0, 1.0, 0), (0.45, 1.0, 0.04), spot.yaw, door)
        else:
            picture = scene.paint(
                Material(vivid(rng), vivid(rng), "checks", rng.uniform(0.1, 0.5), 0.1, 0.5)
            )
            half = (rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.5), 0.02)
            scene.add("box", spot.at(0, 1.55, 0), half, spot.yaw, picture)


def _furnish(
    scene: Scene,
    rng: Rng,
    things: Sequence[Thing],
    count: int,
    bounds: tuple[float, float, float, float],
    taken: list[tuple[float, float, float]],
) -> None:
    """Place things where nothing stands yet; those that find no room are left out."""
    left, right, front, back = bounds
    for _ in range(count):
        thing = things[int(rng.integers(len(things)))]
        radius = thing.radius_m
        for _ in range(8):
            # Nearer rather than farther: what is near covers more of the picture.
            z = front + radius + (back - front - 2 * radius) * float(rng.random()) ** 1.4
            x = rng.uniform(left + radius, right - radius) if right - left > 2 * radius else None
            if x is None or z < front + radius * 0.5 or z > back - radius:
                continue
            if all(math.hypot(x - a, z - b) > radius + c for a, b, c in taken):
                turn = rng.integers(4) * math.pi / 2 + rng.normal(0, 0.1)
                yaw = float(turn if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi))
                thing.build(scene, Spot(x, 0.0, z, yaw), rng)
                taken.append((x, z, radius))
                break


def _outdoors(scene: Scene, rng: Rng, *, along: bool) -> Place:
    ground: tuple[Pattern, ...] = ("plain", "plain", "tiles", "bricks", "checks")
    base = near((0.32, 0.33, 0.34), rng) if rng.random() < 0.7 else near((0.1, 0.3, 0.2), rng)
    floor = _surface(scene, rng, ground, base)
    scene.add("box", (0, -0.1, 0), (300, 0.1, 300), 0.0, floor, casts_shadow=False)
    eye = (rng.uniform(-2, 2), rng.uniform(1.2, 2.2), 0.0)
    yaw = float(rng.normal(0, 0.15 if along else 0.4))
    taken = [(eye[0], eye[2], _HAND_ROOM_M)]
    half = rng.uniform(5, 11) if along else rng.uniform(9, 22)
    _buildings(scene, rng, half, along=along)
    if along:
        _carriageway(scene, rng)
    bounds = (-half + 0.3, half - 0.3, 1.0, 20.0 if along else min(30.0, 2 * half))
    _furnish(scene, rng, OUTSIDE, int(rng.integers(8, 22)), bounds, taken)
    return Place(eye, yaw, _sun(rng), _sky(rng))


def _carriageway(scene: Scene, rng: Rng) -> None:
    road = scene.paint(Material(near((0.2, 0.2, 0.2), rng), grain=0.25, stain=0.1))
    line = scene.paint(Material((0.75, 0.8, 0.8), grain=0.1))
    half = rng.uniform(2.6, 4.0)
    scene.add("box", (0, 0, 0), (half, 0.012, 200), 0.0, road, casts_shadow=False)
    for place in range(14):
        centre = (0.0, 0.0, 3.0 + 4.0 * place)
        scene.add("box", centre, (0.07, 0.016, 1.0), 0.0, line, casts_shadow=False)


def _buildings(scene: Scene, rng: Rng, half: float, *, along: bool) -> None:
    """Houses in rows on both sides, and across at the end."""
    for side in (-1, 1):
        z = rng.uniform(-14, -4)
        while z < 62:
            long = rng.uniform(5, 14)
            if rng.random() < 0.85:
                deep = rng.uniform(4, 8)
                back = rng.uniform(0, 1.5)
                _house(scene, rng, Spot(side * (half + deep + back), 0, z + long / 2, math.pi / 2),
                       (long / 2 - rng.uniform(0, 0.6), deep))  # fmt: skip
            z += long
    if not along or rng.random() < 0.5:
        far = rng.uniform(24, 58) if along else rng.uniform(1.6, 2.6) * half
        x = -half - 4
        while x < half + 4:
            long = rng.uniform(5, 14)
            _house(scene, rng, Spot(x + long / 2, 0, far + 5, 0.0), (long / 2 - 0.2, 5.0))
            x += long


def _house(scene: Scene, rng: Rng, spot: Spot, half: tuple[float, float]) -> None:
    """Storeys of 3 m, with windows, and a flat or a gabled roof."""
    high = 1.5 * int(rng.integers(1, 6)) + rng.uniform(0, 0.3)
    plain = near((0.5, 0.55, 0.6) if rng.random() < 0.6 else (0.2, 0.27, 0.5), rng, 0.3)
    front = rng.random()
    pattern: Pattern = "windows" if front < 0.75 else "bricks"
    size = rng.uniform(2.7, 3.2) if pattern == "windows" else 0.08
    wall = scene.paint(
        Material(plain, near((0.2, 0.17, 0.15), rng, 0.4), pattern, size, 0.08, 0.12)
    )
    scene.add("box", spot.at(0, high, 0), (half[0], high, half[1]), spot.yaw, wall)
    if rng.random() < 0.5:
        tiles = scene.paint(
            Material(near((0.12, 0.16, 0.4), rng, 0.4), (0.08, 0.1, 0.2), "tiles", 0.35)
        )
        rise = rng.uniform(0.8, 1.8)
        # The ridge runs along the form's z: along the front of a house that is longer than deep.
        scene.add("roof", spot.at(0, 2 * high + rise, 0), (half[1] * 1.06, rise, half[0] * 1.03),
                  spot.yaw + math.pi / 2, tiles)  # fmt: skip


def _sun(rng: Rng) -> Light:
    height, way = rng.uniform(0.35, 1.3), rng.uniform(0, 2 * math.pi)
    overcast = rng.random() < 0.3
    strength = rng.uniform(0.1, 0.3) if overcast else rng.uniform(0.8, 1.3)
    low = min(1.0, 0.55 + 0.5 * height)
    around = rng.uniform(0.6, 0.9) if overcast else rng.uniform(0.25, 0.45)
    target = (0.0, 0.0, 18.0)
    origin = (
        target[0] + 150 * math.cos(height) * math.sin(way),
        150 * math.sin(height),
        target[2] + 150 * math.cos(height) * math.cos(way),
    )
    return Light(
        origin=origin,
        target=target,
        reach_m=24.0,
        colour=(strength * low * 0.9, strength * (0.5 + low / 2), strength),
        fade_m=math.inf,
        ambient=(around * 1.15, around, around * 0.9),
    )


def _sky(rng: Rng) -> Sky:
    grey = rng.uniform(0, 1)
    above = (0.75, 0.5 + 0.2 * grey, 0.25 + 0.45 * grey)
    return Sky(above=above, horizon=(0.9, 0.85, 0.75 + 0.1 * grey))


def _even(level: float, rng: Rng) -> Colour:
    return level * rng.uniform(0.85, 1.05), level, level * rng.uniform(0.95, 1.1)
