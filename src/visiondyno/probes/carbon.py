"""From energy to carbon dioxide, by the electricity of a region."""

from dataclasses import dataclass

from visiondyno.errors import SpecError
from visiondyno.measurements.measure import Interval, Measure, measured, not_measured

JOULES_A_KWH = 3.6e6

_SOURCE = "CodeCarbon's country table (from Our World in Data), yearly mean of generation"
_YEAR = 2023

_GRAMS_A_KWH = {
    # alpha-2, alpha-3, grams of CO2 a kWh
    ("SE", "SWE"): 41.0,
    ("FR", "FRA"): 56.0,
    ("GB", "GBR", "UK"): 238.0,
    ("US", "USA"): 369.0,
    ("DE", "DEU"): 381.0,
    ("CN", "CHN"): 582.0,
    ("PL", "POL"): 662.0,
    ("IN", "IND"): 713.0,
}

_WORLD_GRAMS_A_KWH = 475.0
_WORLD_SOURCE = "CodeCarbon's world mean for an unknown region (IEA)"
_WORLD_YEAR = 2019


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """How much CO2 a kilowatt-hour of a region's electricity stands for.

    Attributes:
        value: grams of CO2 a kWh.
        region: ISO 3166 alpha-2, or `world`.
        year: of the figure.
        source: who published it.
        assumed: no region was given, so the world's mean stands in.
    """

    value: float
    region: str
    year: int
    source: str
    assumed: bool


def known_regions() -> tuple[str, ...]:
    """ISO 3166 alpha-2 codes in the table, sorted."""
    return tuple(sorted(codes[0] for codes in _GRAMS_A_KWH))


def carbon_intensity(region: str | None) -> CarbonIntensity:
    """The intensity of a country (ISO alpha-2 or alpha-3, any case), or of the world for None.

    Raises:
        SpecError: a region that isn't in the table.
    """
    if region is None:
        return CarbonIntensity(_WORLD_GRAMS_A_KWH, "world", _WORLD_YEAR, _WORLD_SOURCE, True)
    code = region.strip().upper()
    if code == "WORLD":
        return CarbonIntensity(_WORLD_GRAMS_A_KWH, "world", _WORLD_YEAR, _WORLD_SOURCE, False)
    for codes, grams in _GRAMS_A_KWH.items():
        if code in codes:
            return CarbonIntensity(grams, codes[0], _YEAR, _SOURCE, False)
    raise SpecError(
        f"The region '{region}' isn't in the table of carbon intensities; "
        f"give one of {', '.join(known_regions())} (or their three-letter codes), or world."
    )


def co2_grams_per_1000_images(energy: Measure, region: str | None) -> Measure:
    """J/image × 1000 images ÷ 3.6 MJ/kWh × gCO2/kWh.

    Args:
        energy: `energy_joules_per_image`.
        region: as for `carbon_intensity`.

    Returns:
        `co2_grams_per_1000_images`; estimated where the energy is or no region was given. The
        energy's interval is carried over; the intensity is taken as exact.

    Raises:
        SpecError: a region that isn't in the table.
    """
    name = "co2_grams_per_1000_images"
    intensity = carbon_intensity(region)
    if energy.value is None:
        return not_measured(name, energy.reason or "no energy was measured")
    grams_a_joule_each = 1000 / JOULES_A_KWH * intensity.value
    interval: Interval | None = None
    if energy.interval is not None:
        low, high = energy.interval
        interval = (
            None if low is None else low * grams_a_joule_each,
            None if high is None else high * grams_a_joule_each,
        )
    assumption = ", assumed since no region was given" if intensity.assumed else ""
    kind = "estimated" if energy.estimated else "measured"
    return measured(
        name,
        energy.value * grams_a_joule_each,
        f"{kind} energy × {intensity.value:g} g/kWh ({intensity.region}, {intensity.year}, "
        f"{intensity.source}{assumption})",
        interval=interval,
        n=energy.n,
        estimated=energy.estimated or intensity.assumed,
    )
