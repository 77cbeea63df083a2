"""What a scene is made of, before a pixel is painted: plain values."""

from dataclasses import dataclass, field

from visiondyno.datasets.depth_scenes.light import Light
from visiondyno.datasets.depth_scenes.materials import Colour, Material
from visiondyno.datasets.depth_scenes.solids import Form, Solid
from visiondyno.datasets.depth_scenes.view import Point, View


@dataclass(frozen=True, slots=True)
class Sky:
    """What is seen where nothing stands: colours (blue, green, red) up high and at the horizon."""

    above: Colour
    horizon: Colour


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the camera turns light into a file.

    Attributes:
        mean: brightness of the picture's middle grey, 0–1.
        tint: multipliers of blue, green, red.
        blur_sigma: of the lens, pixels.
        noise: standard deviation of the sensor's noise, grey levels.
        vignette: how much darker the corners are, share.
        jpeg_quality: 0–100.
    """

    mean: float
    tint: Colour
    blur_sigma: float
    noise: float
    vignette: float
    jpeg_quality: int


@dataclass(slots=True)
class Scene:
    """Solids and their materials, while a scene is put together."""

    solids: list[Solid] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)

    def paint(self, material: Material) -> int:
        """The number of a material, for `add`."""
        self.materials.append(material)
        return len(self.materials) - 1

    def add(
        self, form: Form, centre: Point, half: Point, yaw: float, material: int,
        *, casts_shadow: bool = True,
    ) -> None:  # fmt: skip
        """Put a solid there."""
        self.solids.append(Solid(form, centre, half, yaw, material, casts_shadow))


@dataclass(frozen=True, slots=True, eq=False)
class ScenePlan:
    """Everything that decides a scene; the same plan paints the same pixels.

    Attributes:
        kind: of place.
        sky: None indoors.
        look: seed of the textures and of the sensor's noise.
    """

    kind: str
    view: View
    solids: tuple[Solid, ...]
    materials: tuple[Material, ...]
    light: Light
    sky: Sky | None
    exposure: Exposure
    look: int
