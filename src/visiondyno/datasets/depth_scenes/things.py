"""Things that stand about, each made of a few solids, in sizes that things of their kind have."""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visiondyno.datasets.depth_scenes.materials import Colour, Material, Pattern
from visiondyno.datasets.depth_scenes.plan import Scene
from visiondyno.datasets.depth_scenes.solids import Form
from visiondyno.datasets.depth_scenes.view import Point

Rng = np.random.Generator

WOOD: Colour = (0.13, 0.25, 0.42)
METAL: Colour = (0.38, 0.37, 0.36)
LEAVES: Colour = (0.08, 0.26, 0.12)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a thing stands: metres, and radians from z to x."""

    x: float
    y: float
    z: float
    yaw: float

    def at(self, right: float, up: float, ahead: float) -> Point:
        """A point of the thing's own axes, in the world."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return (
            self.x + cos * right + sin * ahead,
            self.y + up,
            self.z - sin * right + cos * ahead,
        )


@dataclass(frozen=True, slots=True)
class Thing:
    """A kind of thing.

    Attributes:
        build: adds one to a scene.
        radius_m: of the circle that it needs on the ground.
    """

    build: Callable[[Scene, Spot, Rng], None]
    radius_m: float


def vivid(rng: Rng) -> Colour:
    """Any colour, strong or faint."""
    red, green, blue = colorsys.hsv_to_rgb(
        rng.random(), rng.uniform(0.1, 0.85), rng.uniform(0.15, 0.85)
    )
    return blue, green, red


def near(colour: Colour, rng: Rng, spread: float = 0.25) -> Colour:
    """A colour like this one."""
    gain = math.exp(rng.normal(0, spread))
    blue, green, red = (
        min(0.95, max(0.02, share * gain * math.exp(rng.normal(0, spread / 3)))) for share in colour
    )
    return blue, green, red


def _wood(scene: Scene, rng: Rng) -> int:
    colour = near(WOOD, rng, 0.45)
    second: Colour = (colour[0] * 0.5, colour[1] * 0.5, colour[2] * 0.5)
    return scene.paint(Material(colour, second, "planks", rng.uniform(0.1, 0.3), 0.1, 0.15))


def _plain(scene: Scene, rng: Rng, colour: Colour | None = None) -> int:
    second = vivid(rng)
    pattern: Pattern = "stripes" if colour is None and rng.random() < 0.15 else "plain"
    base = vivid(rng) if colour is None else near(colour, rng)
    return scene.paint(
        Material(base, second, pattern, rng.uniform(0.08, 0.4), 0.08, rng.uniform(0.03, 0.2))
    )


def _part(
    scene: Scene, spot: Spot, form: Form, centre: Point, half: Point, material: int
) -> None:  # fmt: skip
    scene.add(form, spot.at(*centre), half, spot.yaw, material)


def _legs(scene: Scene, spot: Spot, half: tuple[float, float], top: float, material: int) -> None:
    for x in (-1, 1):
        for z in (-1, 1):
            place = (x * (half[0] - 0.05), top / 2, z * (half[1] - 0.05))
            _part(scene, spot, "box", place, (0.025, top / 2, 0.025), material)


def table(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A table of 1.0–1.7 × 0.6–0.9 m, 0.72–0.76 m high, often with something on it."""
    half = (rng.uniform(0.5, 0.85), rng.uniform(0.3, 0.45))
    high = rng.uniform(0.72, 0.76)
    material = _wood(scene, rng) if rng.random() < 0.6 else _plain(scene, rng)
    _part(scene, spot, "box", (0, high - 0.02, 0), (half[0], 0.02, half[1]), material)
    _legs(scene, spot, half, high - 0.04, material)
    for _ in range(int(rng.integers(0, 4))):
        x, z = rng.uniform(-0.7, 0.7) * half[0], rng.uniform(-0.6, 0.6) * half[1]
        _small(scene, Spot(*spot.at(x, high, z), rng.uniform(0, 6.3)), rng)


def _small(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A cup, a book, a fruit or a screen."""
    kind, material = int(rng.integers(4)), _plain(scene, rng)
    if kind == 0:
        _part(scene, spot, "cylinder", (0, 0.05, 0), (0.04, 0.05, 0.04), material)
    elif kind == 1:
        _part(scene, spot, "box", (0, 0.03, 0), (0.1, 0.03, 0.14), material)
    elif kind == 2:
        _part(scene, spot, "ball", (0, 0.07, 0), (0.07, 0.07, 0.07), material)
    else:
        _part(scene, spot, "box", (0, 0.25, 0), (0.28, 0.17, 0.02), material)
        _part(scene, spot, "box", (0, 0.04, 0), (0.05, 0.04, 0.05), material)


def chair(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A chair: seat at 0.45 m, back to 0.9 m."""
    material = _wood(scene, rng) if rng.random() < 0.5 else _plain(scene, rng)
    _part(scene, spot, "box", (0, 0.44, 0), (0.21, 0.02, 0.21), material)
    _part(scene, spot, "box", (0, 0.68, 0.2), (0.2, 0.22, 0.015), material)
    _legs(scene, spot, (0.21, 0.21), 0.42, material)


def sofa(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A sofa of 1.5–2.1 m."""
    half, material = rng.uniform(0.75, 1.05), _plain(scene, rng)
    _part(scene, spot, "box", (0, 0.21, 0), (half, 0.21, 0.42), material)
    _part(scene, spot, "box", (0, 0.45, 0.34), (half, 0.38, 0.1), material)
    for side in (-1, 1):
        _part(scene, spot, "box", (side * (half - 0.1), 0.3, 0), (0.1, 0.3, 0.42), material)
    cushion = _plain(scene, rng)
    _part(scene, spot, "ball", (half * 0.5, 0.55, 0.2), (0.22, 0.2, 0.1), cushion)


def bed(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A bed of 0.9–1.6 × 2 m."""
    half = rng.uniform(0.45, 0.8)
    frame, cover = _wood(scene, rng), _plain(scene, rng)
    _part(scene, spot, "box", (0, 0.15, 0), (half, 0.15, 1.0), frame)
    _part(scene, spot, "box", (0, 0.4, -0.1), (half - 0.02, 0.1, 0.88), cover)
    _part(scene, spot, "box", (0, 0.45, 1.0), (half, 0.45, 0.03), frame)
    pillow = _plain(scene, rng, (0.8, 0.82, 0.82))
    _part(scene, spot, "ball", (0, 0.54, 0.72), (half * 0.6, 0.1, 0.2), pillow)


def cabinet(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A cabinet, 0.7–2.1 m high."""
    half = (rng.uniform(0.3, 0.7), rng.uniform(0.35, 1.05), rng.uniform(0.18, 0.3))
    material = _wood(scene, rng) if rng.random() < 0.6 else _plain(scene, rng)
    _part(scene, spot, "box", (0, half[1], 0), half, material)
    knob = _plain(scene, rng, METAL)
    for side in (-0.06, 0.06):
        _part(scene, spot, "ball", (side, half[1], -half[2]), (0.02, 0.02, 0.02), knob)
    if half[1] < 0.6:
        _small(scene, Spot(*spot.at(0, 2 * half[1], 0), spot.yaw), rng)


def shelf(scene: Scene, spot: Spot, rng: Rng) -> None:
    """An open shelf, 1.2–2.1 m high, with books and boxes."""
    half, levels = rng.uniform(0.4, 0.65), int(rng.integers(3, 6))
    material, gap = _wood(scene, rng), 0.4
    high = levels * gap
    for side in (-1, 1):
        place = (side * half, high / 2, 0)
        _part(scene, spot, "box", place, (0.02, high / 2, 0.17), material)
    _part(scene, spot, "box", (0, high / 2, 0.16), (half, high / 2, 0.01), material)
    for level in range(levels):
        base = gap * (level + 1)
        _part(scene, spot, "box", (0, base, 0), (half, 0.015, 0.17), material)
        tall, wide = rng.uniform(0.08, 0.16), rng.uniform(0.1, half * 0.8)
        middle = rng.uniform(-1, 1) * (half - wide - 0.04)
        books = scene.paint(Material(vivid(rng), vivid(rng), "stripes", rng.uniform(0.04, 0.1)))
        place = (middle, base - gap + tall + 0.015, 0)
        _part(scene, spot, "box", place, (wide, tall, 0.11), books)


def plant(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A plant in a pot, 0.6–1.6 m high."""
    high = rng.uniform(0.6, 1.6)
    pot, green = _plain(scene, rng, (0.15, 0.25, 0.5)), _leafy(scene, rng)
    _part(scene, spot, "cylinder", (0, 0.17, 0), (0.16, 0.17, 0.16), pot)
    for _ in range(4):
        x, z = rng.normal(0, 0.1, 2)
        y = rng.uniform(0.45, 0.8) * high
        size = rng.uniform(0.12, 0.24)
        _part(scene, spot, "ball", (x, y, z), (size, (high - y) * 0.9, size), green)


def _leafy(scene: Scene, rng: Rng) -> int:
    return scene.paint(Material(near(LEAVES, rng, 0.35), grain=0.5, stain=0.6))


def lamp(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A standing lamp, 1.4–1.8 m."""
    high = rng.uniform(1.4, 1.8)
    metal, shade = _plain(scene, rng, METAL), _plain(scene, rng, (0.6, 0.75, 0.85))
    _part(scene, spot, "cylinder", (0, 0.015, 0), (0.15, 0.015, 0.15), metal)
    _part(scene, spot, "cylinder", (0, high / 2, 0), (0.015, high / 2, 0.015), metal)
    _part(scene, spot, "cylinder", (0, high, 0), (0.19, 0.14, 0.19), shade)


def ball(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A ball of 0.16–0.7 m."""
    radius = rng.uniform(0.08, 0.35)
    material = scene.paint(Material(vivid(rng), vivid(rng), "stripes", radius))
    _part(scene, spot, "ball", (0, radius, 0), (radius, radius, radius), material)


def bin_(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A waste bin."""
    half = (rng.uniform(0.14, 0.28), rng.uniform(0.2, 0.5))
    material = _plain(scene, rng)
    form: Form = "cylinder" if rng.random() < 0.6 else "box"
    _part(scene, spot, form, (0, half[1], 0), (half[0], half[1], half[0]), material)


def crates(scene: Scene, spot: Spot, rng: Rng) -> None:
    """Boxes of cardboard or wood, one on another."""
    y = 0.0
    for _ in range(int(rng.integers(1, 4))):
        half = rng.uniform(0.15, 0.42, 3)
        material = scene.paint(
            Material(near((0.25, 0.42, 0.6), rng, 0.3), (0.1, 0.2, 0.3), "tiles", 1.0)
        )
        place = Spot(*spot.at(0, y + half[1], 0), spot.yaw + rng.normal(0, 0.15))
        _part(scene, place, "box", (0, 0, 0), (half[0], half[1], half[2]), material)
        y += 2 * half[1]


def barrel(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A barrel of 0.58 × 0.88 m."""
    material = scene.paint(Material(vivid(rng), vivid(rng), "plain", 0.3, 0.05, 0.25))
    _part(scene, spot, "cylinder", (0, 0.44, 0), (0.29, 0.44, 0.29), material)
    rim = _plain(scene, rng, METAL)
    for y in (0.3, 0.6):
        _part(scene, spot, "cylinder", (0, y, 0), (0.3, 0.015, 0.3), rim)


def person(scene: Scene, spot: Spot, rng: Rng) -> None:
    """Somebody who stands, 1.55–1.9 m."""
    high = rng.uniform(1.55, 1.9)
    legs, coat = _plain(scene, rng, (0.25, 0.2, 0.18)), _plain(scene, rng)
    skin = _plain(scene, rng, (0.35, 0.45, 0.62))
    for side in (-0.09, 0.09):
        step = rng.uniform(-0.12, 0.12)
        place = (side, high * 0.24, step)
        _part(scene, spot, "cylinder", place, (0.075, high * 0.24, 0.08), legs)
    _part(scene, spot, "cylinder", (0, high * 0.64, 0), (0.19, high * 0.18, 0.12), coat)
    for side in (-0.24, 0.24):
        _part(scene, spot, "ball", (side, high * 0.62, 0), (0.055, high * 0.18, 0.06), coat)
    _part(scene, spot, "ball", (0, high * 0.92, 0), (0.09, high * 0.08, 0.1), skin)


def tree(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A tree, 3–9 m high."""
    high = rng.uniform(3, 9)
    bark = scene.paint(Material(near((0.12, 0.17, 0.22), rng), grain=0.5, stain=0.4))
    green, trunk = _leafy(scene, rng), high * rng.uniform(0.3, 0.5)
    thick = 0.03 * high
    _part(scene, spot, "cylinder", (0, trunk / 2, 0), (thick, trunk / 2, thick), bark)
    for _ in range(int(rng.integers(2, 6))):
        x, z = rng.normal(0, 0.1 * high, 2)
        y = rng.uniform(trunk, high * 0.8)
        size = rng.uniform(0.14, 0.24) * high
        _part(scene, spot, "ball", (x, y, z), (size, size * rng.uniform(0.7, 1.1), size), green)


def bush(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A bush, 0.5–1.5 m high."""
    green = _leafy(scene, rng)
    for _ in range(3):
        x, z = rng.normal(0, 0.25, 2)
        size = rng.uniform(0.3, 0.7)
        _part(scene, spot, "ball", (x, size * 0.7, z), (size, size, size), green)


def car(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A car of 3.8–4.8 × 1.8 × 1.5 m."""
    half, high = rng.uniform(1.9, 2.4), rng.uniform(1.42, 1.75)
    paint = scene.paint(Material(vivid(rng), grain=0.01, stain=0.03))
    glass = scene.paint(Material((0.12, 0.1, 0.09), grain=0.0, stain=0.3))
    dark = scene.paint(Material((0.03, 0.03, 0.03)))
    _part(scene, spot, "box", (0, 0.56, 0), (0.89, 0.32, half), paint)
    _part(
        scene,
        spot,
        "box",
        (0, 0.88 + (high - 0.94) / 2, -0.15),
        (0.78, (high - 0.94) / 2, half * 0.5),
        glass,
    )
    _part(scene, spot, "box", (0, high - 0.03, -0.15), (0.74, 0.03, half * 0.46), paint)
    for side in (-1, 1):
        for end in (-1, 1):
            place = (side * 0.82, 0.31, end * half * 0.62)
            _part(scene, spot, "box", place, (0.1, 0.31, 0.31), dark)
    lights = scene.paint(Material((0.7, 0.8, 0.85)))
    for side in (-1, 1):
        _part(scene, spot, "box", (side * 0.65, 0.66, half), (0.16, 0.07, 0.02), lights)


def bollard(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A bollard of about a metre."""
    high = rng.uniform(0.35, 0.6)
    material = scene.paint(
        Material(near(METAL, rng, 0.4), (0.8, 0.8, 0.85), "plain", 0.3, 0.05, 0.1)
    )
    _part(scene, spot, "cylinder", (0, high, 0), (0.08, high, 0.08), material)


def post(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A street lamp, 4–7 m."""
    high, material = rng.uniform(4, 7), _plain(scene, rng, METAL)
    _part(scene, spot, "cylinder", (0, high / 2, 0), (0.06, high / 2, 0.06), material)
    _part(scene, spot, "box", (0.4, high, 0), (0.5, 0.06, 0.1), material)


def bench(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A bench of 1.6 m."""
    material, metal = _wood(scene, rng), _plain(scene, rng, METAL)
    _part(scene, spot, "box", (0, 0.45, 0), (0.8, 0.03, 0.22), material)
    _part(scene, spot, "box", (0, 0.7, 0.22), (0.8, 0.16, 0.02), material)
    for side in (-0.65, 0.65):
        _part(scene, spot, "box", (side, 0.21, 0), (0.04, 0.21, 0.2), metal)


def pillar(scene: Scene, spot: Spot, rng: Rng) -> None:
    """A pillar up to a ceiling or a beam, 3 m."""
    size, material = rng.uniform(0.12, 0.3), _plain(scene, rng, (0.55, 0.6, 0.62))
    form: Form = "cylinder" if rng.random() < 0.5 else "box"
    _part(scene, spot, form, (0, 4, 0), (size, 4, size), material)


HOUSEHOLD = (
    Thing(table, 0.9), Thing(table, 0.9), Thing(chair, 0.35), Thing(chair, 0.35),
    Thing(chair, 0.35),
    Thing(sofa, 1.1), Thing(bed, 1.2), Thing(cabinet, 0.65), Thing(shelf, 0.6), Thing(plant, 0.35),
    Thing(lamp, 0.25), Thing(ball, 0.4), Thing(bin_, 0.3), Thing(crates, 0.5), Thing(person, 0.35),
)  # fmt: skip
STORED = (
    Thing(crates, 0.55), Thing(crates, 0.55), Thing(barrel, 0.35), Thing(person, 0.35),
    Thing(pillar, 0.35), Thing(bin_, 0.3), Thing(shelf, 0.6), Thing(ball, 0.4),
    Thing(bollard, 0.15),
    Thing(car, 2.4),
)  # fmt: skip
OUTSIDE = (
    Thing(tree, 0.9), Thing(tree, 0.9), Thing(bush, 0.9), Thing(car, 2.4), Thing(car, 2.4),
    Thing(person, 0.35), Thing(person, 0.35), Thing(bollard, 0.2), Thing(post, 0.3),
    Thing(bench, 0.9), Thing(bin_, 0.3), Thing(crates, 0.55), Thing(barrel, 0.35), Thing(ball, 0.4),
)  # fmt: skip
