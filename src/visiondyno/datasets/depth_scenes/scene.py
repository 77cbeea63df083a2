"""A scene: its plan from a seed, and its picture and exact depth from the plan."""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.depth_scenes.cast import NOTHING, Sight, see, surfaces
from visiondyno.datasets.depth_scenes.light import lighting
from visiondyno.datasets.depth_scenes.materials import colours, make_noise
from visiondyno.datasets.depth_scenes.places import PlaceKind, build_place
from visiondyno.datasets.depth_scenes.plan import Exposure, Scene, ScenePlan, Sky
from visiondyno.datasets.depth_scenes.view import FloatArray, look
from visiondyno.datasets.rendering import Split
from visiondyno.predictions import Image

DEPTH_SCENES_VERSION = 1
SIDE_PX = 448
FOCAL_PX = 388.0
"""60° from edge to edge; the same in every scene, so that a picture tells metres."""

NEAREST_M, FARTHEST_M = 0.5, 60.0
"""Depth is given between these, metres; elsewhere, and of the sky, it counts as not measured."""

_KINDS: tuple[PlaceKind, ...] = (
    "room", "room", "room", "corridor", "hall", "hall", "street", "street", "yard", "yard",
)  # fmt: skip


def scene_seed(split: Split, index: int) -> int:
    """The seed of scene `index` of a split: no two scenes of any splits share one."""
    name = f"depth-scenes-v{DEPTH_SCENES_VERSION}/{split}/{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def plan_scene(split: Split, index: int) -> ScenePlan:
    """The plan of scene `index` of a split: the same on every call."""
    rng = np.random.Generator(np.random.PCG64(scene_seed(split, index)))
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    scene = Scene()
    place = build_place(kind, scene, rng)
    pitch = float(rng.normal(0.1 if place.sky is None else 0.04, 0.09))
    view = look(place.eye, place.yaw, pitch, float(rng.normal(0, 0.025)), (FOCAL_PX, SIDE_PX))
    exposure = Exposure(
        mean=rng.uniform(0.3, 0.52),
        tint=(rng.uniform(0.93, 1.07), 1.0, rng.uniform(0.93, 1.07)),
        blur_sigma=rng.uniform(0.45, 0.9),
        noise=rng.uniform(0.5, 5),
        vignette=rng.uniform(0, 0.25),
        jpeg_quality=int(rng.integers(85, 96)),
    )
    return ScenePlan(
        kind, view, tuple(scene.solids), tuple(scene.materials), place.light, place.sky, exposure,
        int(rng.integers(2**31)),
    )  # fmt: skip


def render_scene(split: Split, index: int) -> tuple[Image, FloatArray]:
    """Picture and depth of scene `index` of a split.

    Returns:
        (448, 448, 3) uint8 BGR, and (448, 448) float32 metres along the optical axis, NaN where
        there is none to give.
    """
    return draw_plan(plan_scene(split, index))


def draw_plan(plan: ScenePlan) -> tuple[Image, FloatArray]:
    """Picture and depth of a plan, as `render_scene`."""
    rng = np.random.Generator(np.random.PCG64(plan.look))
    rays = plan.view.rays()
    sight = see(plan.view, rays, plan.solids, range(len(plan.solids)))
    seen = surfaces(plan.view, rays, plan.solids, sight)
    noise = make_noise(rng)
    material_of_solid = np.array([solid.material for solid in plan.solids], np.int16)
    picture = colours(plan.materials, material_of_solid, sight, seen, (noise, plan.view.focal_px))
    picture *= lighting(plan.light, plan.solids, (plan.view, rays), sight, seen)
    if plan.sky is not None:
        _paint_sky(picture, rays, sight, plan.sky, noise)
    measured = (sight.depth >= NEAREST_M) & (sight.depth <= FARTHEST_M)
    depth = np.where(measured, sight.depth, np.float32(np.nan)).astype(np.float32)
    return _expose(picture, plan.exposure, rng), depth


def _paint_sky(
    picture: FloatArray, rays: FloatArray, sight: Sight, sky: Sky, noise: FloatArray
) -> None:
    empty = sight.solid == NOTHING
    up = rays[1][empty]
    share = np.clip(up / 0.5, 0, 1)[:, None]
    tone = np.array(sky.horizon, np.float32) * (1 - share) + np.array(sky.above, np.float32) * share
    # Clouds lie on a plane high above.
    high = 1 / np.maximum(up, 0.03)
    across, ahead = (rays[axis][empty] * high * 12 for axis in (0, 2))
    cloud = noise[across.astype(np.int64) & 255, ahead.astype(np.int64) & 255]
    picture[empty] = tone * (1 + 0.12 * np.clip(up / 0.1, 0, 1) * cloud)[:, None]


def _expose(picture: FloatArray, exposure: Exposure, rng: np.random.Generator) -> Image:
    middle = float(np.median(picture)) + 1e-3
    gain = exposure.mean**2.2 / middle
    across = np.linspace(-1, 1, picture.shape[1], dtype=np.float32)
    corner = (across[None, :] ** 2 + across[:, None] ** 2) / 2
    tint = np.array(exposure.tint, np.float32)
    light = picture * (gain * (1 - exposure.vignette * corner))[..., None] * tint
    # Highlights roll off instead of clipping.
    rolled = np.where(light > 0.7, 0.7 + 0.3 * np.tanh((light - 0.7) / 0.6), light)
    grey = np.power(np.maximum(rolled, 0), 1 / 2.2) * 255
    blurred = cv2.GaussianBlur(grey, (0, 0), exposure.blur_sigma)
    noisy = blurred + rng.standard_normal(blurred.shape, np.float32) * exposure.noise
    return np.asarray(np.clip(np.round(noisy), 0, 255), np.uint8)


def depth_in_millimetres(depth: FloatArray) -> NDArray[np.uint16]:
    """Depth in metres as 16-bit millimetres, NaN as 0."""
    return np.round(np.where(np.isnan(depth), 0, depth) * 1000).astype(np.uint16)
