"""Light and weather of a scene."""

import math
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

Light = Literal["day", "dusk", "night"]
Weather = Literal["clear", "overcast", "rain", "fog"]
Colour = tuple[float, float, float]
"""Blue, green, red, 0–255."""
Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the air and the light do to everything in a scene.

    Attributes:
        light: day, dusk or night.
        weather: clear, overcast, rain or fog.
        sun: unit vector towards the sun.
        sun_strength: share of directed light, 0–1.
        fog_per_m: extinction; what is at depth d keeps exp(-fog_per_m·d) of its colour.
        fog_colour: what distance fades to.
        sky_top: colour of the zenith.
        sky_horizon: colour at the horizon.
        ambient: multiplier of every colour not lit by a lamp (blue, green, red).
        wetness: 0 dry – 1 mirror-like road.
    """

    light: Light
    weather: Weather
    sun: tuple[float, float, float]
    sun_strength: float
    fog_per_m: float
    fog_colour: Colour
    sky_top: Colour
    sky_horizon: Colour
    ambient: Colour
    wetness: float

    @property
    def lamps_lit(self) -> bool:
        """Whether street lamps, windows and headlights shine."""
        return self.light != "day"


_SKIES: dict[tuple[Light, bool], tuple[Colour, Colour]] = {
    ("day", True): ((205, 150, 85), (235, 215, 190)),
    ("day", False): ((190, 182, 175), (215, 210, 206)),
    ("dusk", True): ((130, 85, 75), (120, 150, 225)),
    ("dusk", False): ((105, 95, 92), (135, 135, 150)),
    ("night", True): ((38, 24, 18), (60, 48, 44)),
    ("night", False): ((36, 32, 32), (62, 58, 60)),
}


def sample_conditions(dice: Random) -> Conditions:
    """Draw the conditions of one scene."""
    light: Light = _pick(dice, (("day", 0.6), ("dusk", 0.16), ("night", 0.24)))
    weather: Weather = _pick(
        dice, (("clear", 0.45), ("overcast", 0.25), ("rain", 0.17), ("fog", 0.13))
    )
    clear = weather == "clear"
    top, horizon = (_jitter(dice, colour, 16) for colour in _SKIES[light, clear])
    bearing = dice.uniform(0, 2 * math.pi)
    elevation = dice.uniform(0.35, 1.2) if light == "day" else dice.uniform(0.08, 0.3)
    sun = (
        math.cos(elevation) * math.sin(bearing),
        math.sin(elevation),
        math.cos(elevation) * math.cos(bearing),
    )
    fog = {"clear": 0.0015, "overcast": 0.003, "rain": 0.009, "fog": dice.uniform(0.022, 0.065)}
    return Conditions(
        light=light,
        weather=weather,
        sun=sun,
        sun_strength=_sun_strength(dice, light, clear=clear),
        fog_per_m=fog[weather] * dice.uniform(0.7, 1.3),
        fog_colour=horizon,
        sky_top=top,
        sky_horizon=horizon,
        ambient=_ambient(dice, light),
        wetness=dice.uniform(0.4, 1.0) if weather == "rain" else 0.0,
    )


def _pick(dice: Random, choices: tuple[tuple[Choice, float], ...]) -> Choice:
    roll = dice.random()
    for choice, share in choices:
        roll -= share
        if roll < 0:
            return choice
    return choices[-1][0]


def _jitter(dice: Random, colour: Colour, spread: float) -> Colour:
    shift = dice.uniform(-spread, spread)
    own = spread / 3
    blue, green, red = (min(255.0, max(0.0, c + shift + dice.uniform(-own, own))) for c in colour)
    return (blue, green, red)


def _sun_strength(dice: Random, light: Light, *, clear: bool) -> float:
    if light == "night" or not clear:
        return 0.08
    return dice.uniform(0.4, 0.7) if light == "day" else dice.uniform(0.15, 0.35)


def _ambient(dice: Random, light: Light) -> Colour:
    if light == "day":
        level = dice.uniform(0.82, 1.08)
        return (level, level, level)
    if light == "dusk":
        level = dice.uniform(0.42, 0.62)
        return (level * 1.05, level * 0.95, level * 1.02)
    level = dice.uniform(0.10, 0.24)
    return (level * 1.15, level, level * 0.95)
