"""What a scene is made of, before a pixel is painted: plain values."""

from dataclasses import dataclass
from typing import Literal

from visiondyno.datasets.street.camera import Camera
from visiondyno.datasets.street.conditions import Conditions

STREET_CLASSES = ("car", "truck", "pedestrian", "sign")
"""Class names in the order of their ids."""

Surroundings = Literal["terrace", "suburb", "park", "open"]


@dataclass(frozen=True, slots=True)
class Street:
    """The street itself, along z.

    Attributes:
        driving_side: +1 where traffic keeps right, -1 where it keeps left.
        lanes: in each direction.
        lane_width: metres.
        parking_width: of the strip along each kerb, metres; 0 where there is none.
        pavement_width: metres.
        crossing_z: where a zebra crossing begins, metres, or None.
        junction_z: where a side street crosses (its middle), metres, or None.
        surroundings: what stands along it.
    """

    driving_side: int
    lanes: int
    lane_width: float
    parking_width: float
    pavement_width: float
    crossing_z: float | None
    junction_z: float | None
    surroundings: Surroundings

    @property
    def half_road(self) -> float:
        """From the middle of the road to the kerb, metres."""
        return self.lanes * self.lane_width + self.parking_width


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that stands on the street.

    Attributes:
        kind: one of `STREET_CLASSES`, or a kind of clutter.
        style: variant of its kind.
        x: metres to the right of the road's middle.
        z: metres ahead of the camera.
        heading: radians; 0 faces away from the camera.
        look: seed of its colours and proportions.
    """

    kind: str
    style: str
    x: float
    z: float
    heading: float
    look: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the camera turns light into a file.

    Attributes:
        gain: multiplier of the whole image.
        tint: multipliers of blue, green, red.
        blur_sigma: of the lens, image pixels.
        motion_px: length of the motion blur, image pixels; 0: none.
        motion_angle: its direction, radians.
        noise: standard deviation of the sensor noise, grey levels.
        jpeg_quality: 0–100.
        bonnet: whether the bonnet of the camera's own car is in sight.
    """

    gain: float
    tint: tuple[float, float, float]
    blur_sigma: float
    motion_px: float
    motion_angle: float
    noise: float
    jpeg_quality: int
    bonnet: bool


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """Everything that decides a scene; the same plan paints the same bytes.

    Attributes:
        look: seed of the backdrop.
        noise_seed: seed of the sensor noise.
    """

    camera: Camera
    conditions: Conditions
    street: Street
    things: tuple[Thing, ...]
    exposure: Exposure
    look: int
    noise_seed: int
