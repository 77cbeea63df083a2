"""What a thousand images cost on a machine that is paid by the second."""

import math
import re
from dataclasses import dataclass

from visiondyno.errors import SpecError
from visiondyno.measurements.measure import Interval, Measure, measured, not_measured

PRICE_DATE = "2026-11"
PRICE_SOURCE = "RunPod serverless, flex workers"

_USD_A_SECOND = {
    "A4000": 0.00016,
    "A4500": 0.00016,
    "RTX 4000 Ada": 0.00016,
    "L4": 0.00019,
    "A5000": 0.00019,
    "RTX 3090": 0.00019,
    "RTX 4090": 0.00031,
    "A6000": 0.00034,
    "A40": 0.00034,
    "L40": 0.00053,
    "L40S": 0.00053,
    "RTX 6000 Ada": 0.00053,
    "A100": 0.00076,
    "RTX PRO 6000": 0.00111,
    "H100": 0.00116,
    "H200": 0.00155,
    "B200": 0.00240,
}

_ALIASES = {"rtx4000": "RTX 4000 Ada"}
"""The provider's own short name, where it isn't a part of the full one."""

_MAKER_WORDS = {"nvidia", "geforce", "rtx", "generation"}
_OTHER_MODEL_WORDS = {"laptop", "mobile", "max", "d", "ti", "super", "mig", "quadro", "40gb"}
"""Words that make a driver's name another model than the one priced."""


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of a machine costs.

    Attributes:
        usd_per_hour: above 0.
        gpu: the GPU that this is the price of, or None where the user gave a number.
        source: who asks it, and when.
    """

    usd_per_hour: float
    gpu: str | None
    source: str


def known_prices() -> dict[str, float]:
    """GPU → USD an hour, in the table's order (cheapest first)."""
    return {name: usd * 3600 for name, usd in _USD_A_SECOND.items()}


def find_price(text: str) -> Price:
    """A GPU's price by its name in the table, or a number of USD an hour.

    Names match without case, spaces, hyphens and the words NVIDIA, GeForce and RTX; so `4090` is
    the GPU, `4090.0` would be dollars.

    Raises:
        SpecError: neither a name in the table nor a number above 0.
    """
    wanted = _words(_ALIASES.get(re.sub(r"[^a-z0-9]", "", text.lower()), text))
    for name, usd_a_second in _USD_A_SECOND.items():
        if wanted and "".join(sorted(wanted)) == "".join(sorted(_words(name))):
            return Price(usd_a_second * 3600, name, f"{PRICE_SOURCE}, {PRICE_DATE}")
    try:
        usd_per_hour = float(text)
    except ValueError:
        raise SpecError(
            f"The price '{text}' isn't in the table; give one of {', '.join(_USD_A_SECOND)}, "
            "or USD an hour as a number such as 0.40."
        ) from None
    if not (math.isfinite(usd_per_hour) and usd_per_hour > 0):
        raise SpecError(f"The price '{text}' must be a number of USD an hour above 0.")
    return Price(usd_per_hour, None, "given by the user")


def cost_usd_per_1000_images(
    throughput: Measure, price: str | None, measured_device: str | None = None
) -> Measure:
    """1000 images ÷ images/s × USD/s: the busy time alone.

    What a provider adds (start-up, idle time until the worker stops, rounding) isn't in it.

    Args:
        throughput: `throughput_images_per_s`.
        price: as for `find_price`; None gives no cost.
        measured_device: the driver's name of the GPU that the throughput was measured on; None
            for a CPU. The price of another GPU gives an estimate.

    Returns:
        `cost_usd_per_1000_images`, with the throughput's interval turned round.

    Raises:
        SpecError: an unknown price.
    """
    name = "cost_usd_per_1000_images"
    if price is None:
        return not_measured(
            name, "no price was given; use --price with a GPU's name or USD an hour"
        )
    found = find_price(price)
    if throughput.value is None or throughput.value <= 0:
        return not_measured(name, throughput.reason or "no throughput was measured")
    usd = found.usd_per_hour / 3600 * 1000
    other = found.gpu is not None and not is_the_gpu(found.gpu, measured_device)
    return measured(
        name,
        usd / throughput.value,
        _method(found, measured_device, other=other),
        interval=_turned_round(throughput.interval, usd),
        n=throughput.n,
        estimated=throughput.estimated or other,
    )


def is_the_gpu(priced: str, measured_device: str | None) -> bool:
    """Whether the driver's name of a device is the priced model: all its words, no other variant.

    `NVIDIA A100-SXM4-80GB` is an A100; `NVIDIA GeForce RTX 4090 Laptop GPU` is no RTX 4090.
    """
    if measured_device is None:
        return False
    device = set(_words(measured_device))
    return set(_words(priced)) <= device and not device & _OTHER_MODEL_WORDS


def _method(price: Price, measured_device: str | None, *, other: bool) -> str:
    of = f"one {price.gpu}" if price.gpu else "the machine"
    method = (
        f"busy time × {price.usd_per_hour:.4g} USD an hour for {of} ({price.source}); start-up, "
        "idle time and rounding not counted"
    )
    if not other:
        return method
    device = measured_device or "a CPU"
    return f"{method}; ESTIMATE: the throughput was measured on {device}, not on that GPU"


def _words(text: str) -> list[str]:
    found = re.findall(r"[a-z0-9.]+", text.lower())
    return [word.removeprefix("rtx") for word in found if word not in _MAKER_WORDS]


def _turned_round(interval: Interval | None, usd: float) -> Interval | None:
    if interval is None:
        return None
    low, high = interval
    return (usd / high if high else None, usd / low if low else None)
