"""Rows of buildings, or hedges and far hills, along both sides of the street."""

from random import Random

import numpy as np

from visiondyno.datasets.street.camera import NEAREST_M, Points
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.conditions import Colour
from visiondyno.datasets.street.plan import ScenePlan, Street

_WALLS: tuple[Colour, ...] = (
    (95, 115, 150), (75, 90, 140), (150, 170, 185), (175, 185, 195), (130, 140, 150),
    (110, 125, 135), (160, 160, 160), (120, 105, 95), (190, 200, 215), (90, 100, 110),
)  # fmt: skip
_WINDOW_RANGE_M = 75.0


def paint_surroundings(canvas: Canvas, plan: ScenePlan, dice: Random) -> None:
    """What bounds the street, from far to near."""
    _skyline(canvas, dice)
    street = plan.street
    blocks = [block for side in (-1, 1) for block in _blocks(street, side, dice)]
    camera_x = plan.camera.x
    for block in sorted(blocks, key=lambda block: -max(0.0, block.z0) - abs(block.x - camera_x)):
        block.paint(canvas)


def _skyline(canvas: Canvas, dice: Random) -> None:
    """Far silhouettes over the horizon: hills, or a town."""
    depth = 260.0
    town = dice.random() < 0.6
    base: Colour = (115, 115, 112) if town else (85, 110, 95)
    x = -450.0
    while x < 450:
        wide = dice.uniform(12, 45)
        tall = dice.uniform(8, 34) if town else dice.uniform(10, 18)
        shade = dice.uniform(0.8, 1.1)
        colour: Colour = (base[0] * shade, base[1] * shade, base[2] * shade)
        z = depth + dice.uniform(0, 40)
        points = np.array(((x, -1, z), (x + wide, -1, z), (x + wide, tall, z), (x, tall, z)))
        canvas.wall(points.astype(np.float64), colour)
        x += wide * (1.0 if town else 0.7)


class _Block:
    """One building (or hedge): a box whose long wall is along the street."""

    def __init__(self, street: Street, side: int, z0: float, z1: float, dice: Random) -> None:
        self.side, self.z0, self.z1, self.dice = side, z0, z1, dice
        kerb = street.half_road + street.pavement_width
        self.house = street.surroundings == "suburb"
        self.hedge = street.surroundings in ("park", "open")
        setback = {"terrace": 0.1, "suburb": dice.uniform(4, 7)}.get(street.surroundings, 1.0)
        self.x = side * (kerb + setback)
        self.deep = 1.0 if self.hedge else dice.uniform(8, 14)
        if self.hedge:
            self.tall = dice.uniform(0.6, 2.2)
        else:
            self.tall = dice.uniform(4.5, 7) if self.house else dice.uniform(7, 22)
        tone = dice.uniform(0.8, 1.1)
        wall = (45, 95, 65) if self.hedge else dice.choice(_WALLS)
        self.wall: Colour = (wall[0] * tone, wall[1] * tone, wall[2] * tone)

    def paint(self, canvas: Canvas) -> None:
        """End wall, roof, façade, windows and shop fronts."""
        x, back = self.x, self.x + self.side * self.deep
        z0, z1, tall = self.z0, self.z1, self.tall
        facade = _upright((x, z0), (x, z1), 0, tall)
        end = _upright((x, z0), (back, z0), 0, tall)
        self._hide(canvas, facade)
        canvas.wall(end, self.wall, canvas.lit((0.0, 0.0, -1.0)) * 0.9)
        light = canvas.lit((-float(self.side), 0.0, 0.0))
        canvas.wall(facade, self.wall, light)
        if self.hedge:
            return
        if self.house:
            self._roof(canvas, back)
        else:
            cornice = _upright((x, z0), (x, z1), tall - 0.5, tall)
            canvas.wall(cornice, self.wall, light * 1.15)
            self._shop(canvas, light)
        if z0 < _WINDOW_RANGE_M:
            self._windows(canvas, light)

    def _hide(self, canvas: Canvas, points: Points) -> None:
        found = canvas.projection.polygon(points)
        if found is not None:
            canvas.hide_glow(found[0])

    def _roof(self, canvas: Canvas, back: float) -> None:
        ridge_x, ridge_y = (self.x + back) / 2, self.tall + self.deep * 0.33
        slope = np.array(
            (
                (self.x, self.tall, self.z0),
                (self.x, self.tall, self.z1),
                (ridge_x, ridge_y, self.z1),
                (ridge_x, ridge_y, self.z0),
            )
        )
        gable = np.array(
            (
                (self.x, self.tall, self.z0),
                (back, self.tall, self.z0),
                (ridge_x, ridge_y, self.z0),
            )
        )
        tile = self.dice.choice(((60, 70, 130), (75, 75, 80), (60, 65, 90)))
        canvas.wall(gable, self.wall, canvas.lit((0.0, 0.0, -1.0)) * 0.9)
        canvas.wall(slope, tile, canvas.lit((-self.side * 0.5, 0.86, 0.0)))

    def _shop(self, canvas: Canvas, light: float) -> None:
        if self.dice.random() < 0.45:
            return
        x = self.x - self.side * 0.03
        blue, green, red = (self.dice.uniform(30, 220) for _ in range(3))
        glass = _upright((x, self.z0 + 0.4), (x, self.z1 - 0.4), 0.4, 2.6)
        canvas.wall(glass, (70, 65, 60), 1.0)
        board = _upright((x, self.z0 + 0.3), (x, self.z1 - 0.3), 2.7, 3.4)
        canvas.wall(board, (blue, green, red), light)
        if canvas.conditions.lamps_lit and self.dice.random() < 0.6:
            for points, share in ((glass, 0.28), (board, 0.3)):
                found = canvas.projection.polygon(points)
                if found is not None:
                    warm = (150 * share, 205 * share, 240 * share)
                    canvas.shine_shape((found[0],), warm)

    def _windows(self, canvas: Canvas, light: float) -> None:
        dice = self.dice
        step, wide = dice.uniform(2.2, 3.4), dice.uniform(0.9, 1.5)
        floor = 1.0 if self.house else 4.3
        sills = np.arange(floor, self.tall - 1.8, 3.0)
        starts = np.arange(self.z0 + 0.8, min(self.z1, _WINDOW_RANGE_M + 10) - wide, step)
        if len(sills) == 0 or len(starts) == 0:
            return
        y, z = (grid.ravel() for grid in np.meshgrid(sills, starts))
        corners = np.empty((len(y), 4, 3))
        corners[..., 0] = self.x - self.side * 0.02
        corners[..., 1] = y[:, None] + np.array((0, 0, 1.6, 1.6))
        corners[..., 2] = z[:, None] + np.array((0, wide, wide, 0))
        seen = canvas.projection.to_camera(corners.reshape(-1, 3)).reshape(-1, 4, 3)
        seen = seen[(seen[..., 2] > NEAREST_M).all(axis=1)]
        if len(seen) == 0:
            return
        flats = list(canvas.projection.pixels(seen.reshape(-1, 3)).reshape(-1, 4, 2))
        pane: Colour = (95, 85, 75) if dice.random() < 0.7 else (150, 140, 125)
        canvas.shape(flats, canvas.shade(pane, light, max(0.0, (self.z0 + self.z1) / 2)))
        if canvas.conditions.lamps_lit:
            lit = [flat for flat in flats if dice.random() < 0.28]
            level = dice.uniform(0.35, 0.8)
            canvas.shine_shape(lit, (110 * level, 180 * level, 225 * level))


def _blocks(street: Street, side: int, dice: Random) -> list[_Block]:
    found: list[_Block] = []
    z = dice.uniform(-14, -6)
    reach = 5 + street.pavement_width
    while z < 150:
        hedge = street.surroundings in ("park", "open")
        long = dice.uniform(20, 40) if hedge else dice.uniform(8, 22)
        end = z + long
        if street.junction_z is not None:
            low, high = street.junction_z - reach, street.junction_z + reach
            if z < low < end:
                end = low
            if low <= z < high:
                z = high
                continue
        if end - z > 3 and not (street.surroundings == "open" and dice.random() < 0.5):
            found.append(_Block(street, side, z, end, dice))
        z = end + (dice.uniform(3, 7) if street.surroundings == "suburb" else 0.0)
    return found


def _upright(
    first: tuple[float, float], second: tuple[float, float], low: float, high: float
) -> Points:
    """A vertical rectangle over a line of the ground: (4, 3)."""
    (xa, za), (xb, zb) = first, second
    return np.array(((xa, low, za), (xb, low, zb), (xb, high, zb), (xa, high, za)))
