"""Synthetic street scenes: cars, trucks, pedestrians and signs, rendered from seeds."""

from visiondyno.datasets.rendering import SPLITS, Split
from visiondyno.datasets.street.camera import HEIGHT, WIDTH
from visiondyno.datasets.street.plan import STREET_CLASSES
from visiondyno.datasets.street.scene import STREET_VERSION, render_scene
from visiondyno.datasets.street.store import ensure_street

__all__ = [
    "HEIGHT",
    "SPLITS",
    "STREET_CLASSES",
    "STREET_VERSION",
    "WIDTH",
    "Split",
    "ensure_street",
    "render_scene",
]
