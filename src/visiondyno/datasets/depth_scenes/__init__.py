"""Synthetic scenes with exact depth: rooms, corridors, halls, streets and yards, from seeds."""

from visiondyno.datasets.depth_scenes.scene import (
    DEPTH_SCENES_VERSION,
    FARTHEST_M,
    NEAREST_M,
    SIDE_PX,
    render_scene,
)
from visiondyno.datasets.depth_scenes.store import ensure_depth_scenes
from visiondyno.datasets.rendering import SPLITS, Split

__all__ = [
    "DEPTH_SCENES_VERSION",
    "FARTHEST_M",
    "NEAREST_M",
    "SIDE_PX",
    "SPLITS",
    "Split",
    "ensure_depth_scenes",
    "render_scene",
]
