"""Pedestrians and signs."""

import math
from random import Random

import numpy as np

from visiondyno.datasets.street.camera import Points
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.conditions import Colour
from visiondyno.datasets.street.plan import Thing

SIGN_STYLES = (
    "limit", "stop", "give_way", "warning", "diamond", "no_entry", "mandatory", "parking",
    "direction", "no_stopping",
)  # fmt: skip

_CLOTHES: tuple[Colour, ...] = (
    (40, 38, 38), (70, 62, 58), (95, 60, 40), (130, 75, 45), (60, 60, 150), (45, 45, 190),
    (190, 190, 190), (225, 225, 225), (80, 120, 70), (60, 150, 190), (140, 110, 150),
    (90, 110, 135), (110, 130, 160), (50, 70, 60), (80, 200, 225),
)  # fmt: skip
_SKINS: tuple[Colour, ...] = ((150, 180, 225), (120, 150, 205), (85, 115, 165), (50, 70, 105))
_HAIR: tuple[Colour, ...] = ((25, 25, 28), (35, 50, 75), (80, 130, 170), (130, 130, 135))

_WHITE: Colour = (235, 238, 238)
_RED: Colour = (40, 35, 200)
_BLUE: Colour = (175, 85, 25)
_YELLOW: Colour = (45, 195, 235)
_GREEN: Colour = (70, 110, 25)
_BLACK: Colour = (30, 30, 30)
_GREY: Colour = (125, 125, 122)


class _Figure:
    """Flat drawing that always faces the camera, in metres right of and above a ground point."""

    def __init__(self, canvas: Canvas, thing: Thing, height: float) -> None:
        foot = canvas.projection.point(thing.x, 0.0, thing.z)
        head = canvas.projection.point(thing.x, height, thing.z)
        self.canvas = canvas
        self.ahead = foot is not None and head is not None
        if foot is None or head is None:
            return
        self._foot, self.depth = foot, foot[2]
        self._scale = canvas.projection.camera.focal_canvas / foot[2]
        self._up = ((head[0] - foot[0]) / height, (head[1] - foot[1]) / height)

    def flat(self, points: list[tuple[float, float]]) -> Points:
        """Metres (right, up) to canvas pixels (n, 2)."""
        u, v, _ = self._foot
        ux, uy = self._up
        return np.array([(u + x * self._scale + y * ux, v + y * uy) for x, y in points])

    def fill(self, points: list[tuple[float, float]], colour: Colour, lit: float = 1) -> None:
        """A polygon of any form."""
        shade = self.canvas.shade(colour, lit, self.depth)
        self.canvas.shape((self.flat(points),), shade)

    def disc(self, x: float, y: float, radius: float, colour: Colour, stretch: float = 1) -> None:
        """A filled ellipse."""
        ((u, v),) = self.flat([(x, y)])
        shade = self.canvas.shade(colour, 1, self.depth)
        self.canvas.disc(u, v, radius * self._scale, shade, stretch)


def paint_pedestrian(canvas: Canvas, thing: Thing) -> None:
    """A person walking or standing, in the direction of `thing.heading`."""
    dice = Random(thing.look)  # noqa: S311 - reproducible pictures, no secret
    tall = dice.uniform(1.05, 1.4) if thing.style == "child" else dice.uniform(1.55, 1.95)
    figure = _Figure(canvas, thing, tall)
    if not figure.ahead:
        return
    towards = math.atan2(thing.x - canvas.projection.camera.x, thing.z)
    turn = thing.heading - towards
    sideways, away = abs(math.sin(turn)), math.cos(turn) > 0
    side = 1 if math.sin(turn) > 0 else -1
    canvas.hide_glow(figure.flat([(-0.2, 0), (0.2, 0), (0.2, tall), (-0.2, tall)]))
    stride = 0.0 if thing.style == "standing" else dice.uniform(0.08, 0.4) * (0.25 + sideways)
    top, legs = dice.choice(_CLOTHES), dice.choice(_CLOTHES)
    skin, hair = dice.choice(_SKINS), dice.choice(_HAIR)
    wide = tall * (0.125 - 0.045 * sideways) * dice.uniform(0.9, 1.2)
    _legs(figure, tall, wide, stride, side, legs, skirt=dice.random() < 0.15)
    hem = tall * (0.3 if dice.random() < 0.25 else 0.45)
    shoulder = tall * 0.82
    swing = stride * 0.7
    darker: Colour = (top[0] * 0.8, top[1] * 0.8, top[2] * 0.8)
    for arm, sign in ((-1, 1), (1, -1)):
        x = arm * wide * (1 - 0.7 * sideways)
        hand = x * 1.25 + sign * swing * side * sideways
        thick = tall * 0.03
        figure.fill([(x - thick, shoulder), (x + thick, shoulder), (hand + thick, tall * 0.47),
                     (hand - thick, tall * 0.47)], darker)  # fmt: skip
        figure.disc(hand, tall * 0.455, tall * 0.024, skin)
    figure.fill([(-wide * 0.85, hem), (wide * 0.85, hem), (wide, shoulder - 0.04),
                 (wide * 0.5, shoulder + 0.02), (-wide * 0.5, shoulder + 0.02),
                 (-wide, shoulder - 0.04)], top)  # fmt: skip
    if dice.random() < 0.3:
        _bag(figure, tall, wide, side * sideways, away=away, colour=dice.choice(_CLOTHES))
    head = tall * 0.925
    figure.fill([(-0.05, shoulder), (0.05, shoulder), (0.05, head), (-0.05, head)], skin)
    figure.disc(0, head, tall * 0.056, hair, 1.3)
    if not away:
        figure.disc(0.035 * side * sideways, head - tall * 0.014, tall * 0.047, skin, 1.2)


def _legs(
    figure: _Figure,
    tall: float,
    wide: float,
    stride: float,
    side: int,
    colour: Colour,
    *,
    skirt: bool,
) -> None:
    hip, thick = tall * 0.48, tall * 0.042
    for leg, shade in ((-1, 0.75), (1, 1.0)):
        x = leg * wide * 0.45
        foot = x + leg * stride * 0.6
        lift = 0.05 if leg * side < 0 and stride > 0.15 else 0.0
        figure.fill([(x - thick, hip), (x + thick * 1.1, hip), (foot + thick * 0.7, lift),
                     (foot - thick * 0.7, lift)], colour, shade)  # fmt: skip
        figure.fill([(foot - thick, lift), (foot + thick + 0.08 * side * (stride > 0.1), lift),
                     (foot + thick, lift + 0.07), (foot - thick, lift + 0.07)],
                    (35, 35, 38))  # fmt: skip
    if skirt:
        figure.fill([(-wide * 0.8, hip), (wide * 0.8, hip), (wide * 1.15, tall * 0.28),
                     (-wide * 1.15, tall * 0.28)], colour)  # fmt: skip


def _bag(
    figure: _Figure, tall: float, wide: float, side: float, *, away: bool, colour: Colour
) -> None:
    if away or abs(side) > 0.5:
        x = -side * wide * 1.1
        half = wide * 0.75
        figure.fill([(x - half, tall * 0.52), (x + half, tall * 0.52), (x + half, tall * 0.78),
                     (x - half, tall * 0.78)], colour)  # fmt: skip
    else:
        figure.fill([(wide, tall * 0.32), (wide + 0.22, tall * 0.32), (wide + 0.2, tall * 0.47),
                     (wide, tall * 0.47)], colour)  # fmt: skip


def paint_sign(canvas: Canvas, thing: Thing, identity: int) -> None:
    """A traffic sign on its post. Only the plate carries the identity: its box is the plate's."""
    dice = Random(thing.look)  # noqa: S311 - reproducible pictures, no secret
    large = thing.style == "direction"
    radius = dice.uniform(0.55, 0.9) if large else dice.uniform(0.3, 0.46)
    height = dice.uniform(2.4, 3.3) if large else dice.uniform(1.9, 2.9)
    post = dice.uniform(0.03, 0.05)
    figure = _Figure(canvas, thing, height)
    if not figure.ahead:
        return
    figure.fill([(-post, 0), (post, 0), (post, height), (-post, height)], _GREY, 0.9)
    plate = _Plate(canvas, thing, height, radius, dice)
    if plate.in_front:
        canvas.identity = identity
        plate.paint(thing.style)
        canvas.identity = 0


class _Plate:
    """A sign's plate: a flat shape in the world, seen from its face or its back."""

    def __init__(
        self, canvas: Canvas, thing: Thing, height: float, radius: float, dice: Random
    ) -> None:
        camera = canvas.projection.camera
        self.canvas, self.dice, self.radius = canvas, dice, radius
        self.centre = np.array((thing.x, height, thing.z))
        self.right = np.array((math.cos(thing.heading), 0.0, -math.sin(thing.heading)))
        ahead = (math.sin(thing.heading), math.cos(thing.heading))
        self.faces = ahead[0] * (camera.x - thing.x) + ahead[1] * (0.0 - thing.z) > 0
        found = canvas.projection.point(thing.x, height, thing.z)
        self.in_front = found is not None and found[2] > 1.5
        self.depth = found[2] if found is not None else 0.0
        self.brightness = canvas.lit((ahead[0], 0.0, ahead[1]))

    def paint(self, style: str) -> None:
        """Its outline, border and symbol."""
        if style == "direction":
            self._board()
            return
        outline, edge, inside = _PLATES[style]
        shape = _outline(outline)
        if not self.faces:
            self._fill(shape, _GREY)
            return
        self._fill(shape, edge, shine=True)
        if inside is not None:
            inner = 0.72 if outline != "square" else 0.9
            self._fill([(x * inner, y * inner) for x, y in shape], inside, shine=True)
        self._symbol(style)

    def _symbol(self, style: str) -> None:
        roll = self.dice.random()
        if style == "limit":
            self._fill(_bar(-0.22, 0.0, 0.1, 0.34), _BLACK)
            self._fill(_bar(0.2, 0.0, 0.14, 0.34), _BLACK)
        elif style in ("stop", "no_entry"):
            self._fill(_bar(0, 0, 0.62, 0.17), _WHITE)
        elif style == "warning":
            self._fill(_bar(0, -0.08, 0.09 + 0.12 * roll, 0.3), _BLACK)
        elif style == "diamond" and roll < 0.6:
            self._fill(_bar(0, 0, 0.14, 0.36), _BLACK)
        elif style == "mandatory":
            self._fill(_bar(0, -0.15, 0.1, 0.4), _WHITE)
            self._fill([(-0.35, 0.15), (0.35, 0.15), (0.0, 0.6)], _WHITE)
        elif style == "parking":
            self._fill(_bar(-0.2, 0, 0.1, 0.5), _WHITE)
            self._fill(_bar(0.1, 0.22, 0.28, 0.26), _WHITE)
        elif style == "no_stopping":
            self._fill([(-0.6, 0.45), (-0.45, 0.6), (0.6, -0.45), (0.45, -0.6)], _RED)

    def _board(self) -> None:
        wide = self.dice.uniform(1.3, 2.2)
        colour = self.dice.choice((_BLUE, _GREEN, _WHITE, _YELLOW))
        if not self.faces:
            self._fill(_bar(0, 0, wide, 0.8), _GREY)
            return
        ink = _BLACK if colour in (_WHITE, _YELLOW) else _WHITE
        self._fill(_bar(0, 0, wide, 0.8), ink, shine=True)
        self._fill(_bar(0, 0, wide - 0.07, 0.73), colour, shine=True)
        for row in range(self.dice.randint(1, 3)):
            long = self.dice.uniform(0.3, 0.75) * wide
            self._fill(_bar(-wide * 0.85 + long, 0.42 - 0.42 * row, long, 0.1), ink)

    def _fill(
        self, shape: list[tuple[float, float]], colour: Colour, *, shine: bool = False
    ) -> None:
        local = np.array(shape) * self.radius
        points = self.centre + local[:, :1] * self.right + local[:, 1:] * np.array((0.0, 1.0, 0.0))
        found = self.canvas.projection.polygon(points)
        if found is None:
            return
        lit = max(0.8, self.brightness) if self.faces else self.brightness
        self.canvas.shape((found[0],), self.canvas.shade(colour, lit, self.depth))
        if self.canvas.conditions.lamps_lit:
            # Retroreflective: brighter than what is around it in the headlights.
            share = 0.35 * max(0.0, 1 - self.depth / 60) if shine else 0.0
            blue, green, red = colour
            self.canvas.shine_shape((found[0],), (blue * share, green * share, red * share))


_PLATES: dict[str, tuple[str, Colour, Colour | None]] = {
    "limit": ("disc", _RED, _WHITE),
    "stop": ("octagon", _RED, None),
    "give_way": ("triangle_down", _RED, _WHITE),
    "warning": ("triangle_up", _RED, _WHITE),
    "diamond": ("diamond", _WHITE, _YELLOW),
    "no_entry": ("disc", _RED, None),
    "mandatory": ("disc", _BLUE, None),
    "parking": ("square", _WHITE, _BLUE),
    "no_stopping": ("disc", _RED, _BLUE),
}


def _outline(name: str) -> list[tuple[float, float]]:
    corners, first = {
        "disc": (18, 0.0),
        "octagon": (8, math.pi / 8),
        "triangle_down": (3, -math.pi / 2),
        "triangle_up": (3, math.pi / 2),
        "diamond": (4, 0.0),
        "square": (4, math.pi / 4),
    }[name]
    steps = [first + 2 * math.pi * step / corners for step in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in steps]


def _bar(x: float, y: float, half_wide: float, half_tall: float) -> list[tuple[float, float]]:
    return [
        (x - half_wide, y - half_tall),
        (x + half_wide, y - half_tall),
        (x + half_wide, y + half_tall),
        (x - half_wide, y + half_tall),
    ]
