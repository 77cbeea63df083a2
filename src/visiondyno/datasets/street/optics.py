"""From the painted canvas to what a camera would record: light, rain, blur, noise."""

import math
from random import Random

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.street.camera import HEIGHT, OVERSAMPLING, WIDTH
from visiondyno.datasets.street.canvas import Canvas
from visiondyno.datasets.street.plan import ScenePlan
from visiondyno.predictions import Image

_Floats = NDArray[np.float32]


def record(canvas: Canvas, plan: ScenePlan) -> Image:
    """The final image, (192, 320, 3) uint8 BGR."""
    dice = Random(plan.look + 2)  # noqa: S311 - reproducible pictures, no secret
    image = cv2.resize(canvas.picture(), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    image *= _light_map(canvas, plan, dice)
    if plan.conditions.lamps_lit:
        image += _glow(canvas, plan)
    if plan.conditions.weather == "rain":
        _rain(image, plan, dice)
    exposure = plan.exposure
    image *= np.array([exposure.gain * t for t in exposure.tint], np.float32)
    if exposure.bonnet:
        _bonnet(image, dice)
    image = _blur(image, exposure.blur_sigma, exposure.motion_px, exposure.motion_angle)
    _add_noise(image, plan)
    return np.clip(image, 0, 255).astype(np.uint8)


def _light_map(canvas: Canvas, plan: ScenePlan, dice: Random) -> _Floats:
    """(192, 320, 3) or (3,): what multiplies the colour of every surface."""
    conditions = plan.conditions
    ambient = np.array(conditions.ambient, np.float32)
    if conditions.light != "night":
        return ambient
    pool = np.zeros((HEIGHT // 4, WIDTH // 4), np.float32)
    lamps = [thing for thing in plan.things if thing.kind == "lamp"]
    for lamp in lamps:
        at = canvas.projection.point(lamp.x * 0.8, 0.0, lamp.z)
        if at is None:
            continue
        u, v, depth = at
        wide = 7 * canvas.projection.camera.focal_canvas / depth / (4 * OVERSAMPLING)
        if wide > 400 or not (-4000 < u < 4000 and -4000 < v < 4000):
            continue
        centre = (round(u / (4 * OVERSAMPLING)), round((v / OVERSAMPLING / 4) - wide * 0.25))
        cv2.ellipse(pool, centre, (round(wide), round(wide * 0.55) + 1), 0, 0, 360, 0.45, -1)
    if plan.camera.height < 2.2 and dice.random() < 0.85:
        row = canvas.projection.horizon_row(WIDTH) / OVERSAMPLING / 4
        centre = (WIDTH // 8 + dice.randint(-4, 4), round(row + 14))
        cv2.ellipse(pool, centre, (46, 17), 0, 0, 360, 0.65, -1)
    pool = cv2.GaussianBlur(pool, (0, 0), 5)
    warm = np.array((0.75, 0.95, 1.1), np.float32)
    low = ambient + pool[..., None] * warm
    return np.asarray(cv2.resize(low, (WIDTH, HEIGHT)), np.float32)


def _glow(canvas: Canvas, plan: ScenePlan) -> _Floats:
    """(192, 320, 3): sources of light and their halos, and their images on a wet road."""
    glow = canvas.glow.astype(np.float32)
    haze = 1.0 + 2.5 * min(0.06, plan.conditions.fog_per_m) / 0.06
    total = glow + 0.5 * haze * cv2.GaussianBlur(glow, (0, 0), 2.0)
    small = cv2.resize(glow, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    halo = cv2.GaussianBlur(small, (0, 0), 2.5)
    total += 0.8 * haze * cv2.resize(halo, (WIDTH, HEIGHT))
    if plan.conditions.wetness > 0:
        total += _reflections(canvas, glow, plan.conditions.wetness)
    return np.asarray(total, np.float32)


def _reflections(canvas: Canvas, glow: _Floats, wetness: float) -> _Floats:
    """Light smeared downwards on the road."""
    row = round(canvas.projection.horizon_row(WIDTH) / OVERSAMPLING)
    mirror = np.zeros_like(glow)
    if 4 < row < HEIGHT - 4:
        rows = min(row, HEIGHT - row)
        mirror[row : row + rows] = glow[row - rows : row][::-1]
        mirror[row:] += glow[row:] * 0.6
    smear = cv2.blur(mirror, (3, 41), borderType=cv2.BORDER_CONSTANT)
    smear[: max(0, min(row, HEIGHT))] = 0
    return np.asarray(smear * (1.6 * wetness), np.float32)


def _rain(image: _Floats, plan: ScenePlan, dice: Random) -> None:
    streaks = np.zeros((HEIGHT, WIDTH), np.uint8)
    slant = dice.uniform(-0.35, 0.35)
    for _ in range(dice.randint(40, 160)):
        x, y = dice.uniform(-10, WIDTH + 10), dice.uniform(-10, HEIGHT)
        long = dice.uniform(4, 16)
        end = (round((x + slant * long) * 8), round((y + long) * 8))
        bright = dice.randint(25, 75)
        cv2.line(streaks, (round(x * 8), round(y * 8)), end, bright, 1, cv2.LINE_AA, 3)
    level = 1.0 if plan.conditions.light == "day" else 0.5
    image += (streaks.astype(np.float32) * level)[..., None]
    # Drops on the way scatter light: contrast is lost.
    image *= 0.93
    image += 9 * level


def _bonnet(image: _Floats, dice: Random) -> None:
    row = HEIGHT - dice.randint(8, 22)
    bend = dice.randint(6, 18)
    level = dice.uniform(8, 60)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (WIDTH // 2, HEIGHT + bend), (WIDTH * 5 // 8, HEIGHT - row + bend), 0, 180,
                360, 255, -1, cv2.LINE_AA)  # fmt: skip
    share = (mask.astype(np.float32) / 255)[..., None]
    image *= 1 - share
    image += share * level


def _blur(image: _Floats, sigma: float, motion_px: float, angle: float) -> _Floats:
    if motion_px > 1:
        size = 2 * math.ceil(motion_px / 2) + 1
        kernel = np.zeros((size, size), np.float32)
        middle = size // 2 * 16
        reach = (math.cos(angle) * motion_px * 8, math.sin(angle) * motion_px * 8)
        start = (round(middle - reach[0]), round(middle - reach[1]))
        end = (round(middle + reach[0]), round(middle + reach[1]))
        cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_8, 4)
        kernel /= kernel.sum()
        image = np.asarray(cv2.filter2D(image, -1, kernel), np.float32)
    if sigma > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), sigma), np.float32)
    return image


def _add_noise(image: _Floats, plan: ScenePlan) -> None:
    """Luminance noise a pixel, colour noise in patches of two, as a colour sensor gives."""
    source = np.random.Generator(np.random.PCG64(plan.noise_seed))
    level = np.float32(plan.exposure.noise)
    light = source.standard_normal((HEIGHT, WIDTH), dtype=np.float32) * level
    colour = source.standard_normal((HEIGHT // 2, WIDTH // 2, 2), dtype=np.float32) * (level * 0.6)
    tint = cv2.resize(colour, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    image[..., 0] += light + tint[..., 0]
    image[..., 1] += light
    image[..., 2] += light + tint[..., 1]
