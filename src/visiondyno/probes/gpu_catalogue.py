"""Which rented GPU is the cheapest that holds so much memory."""

from dataclasses import dataclass

from visiondyno.errors import SpecError
from visiondyno.probes.cost import PRICE_DATE, PRICE_SOURCE, known_prices

_GB = 10**9
_MEMORY_GB = {
    "A4000": 16,
    "A4500": 20,
    "RTX 4000 Ada": 20,
    "L4": 24,
    "A5000": 24,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "A6000": 48,
    "A40": 48,
    "L40": 48,
    "L40S": 48,
    "RTX 6000 Ada": 48,
    "A100": 80,
    "RTX PRO 6000": 96,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
"""As the makers' data sheets and RunPod's list have them."""


@dataclass(frozen=True, slots=True)
class RentedGpu:
    """A GPU of the price table.

    Attributes:
        name: as in the table.
        memory_bytes: the data sheet's number of decimal gigabytes; what a driver gives is a
            little more.
        usd_per_hour: of one.
    """

    name: str
    memory_bytes: int
    usd_per_hour: float


def rented_gpus() -> list[RentedGpu]:
    """The GPUs of the price table, cheapest first; of the same price, the larger memory first."""
    found = [RentedGpu(name, _MEMORY_GB[name] * _GB, usd) for name, usd in known_prices().items()]
    return sorted(found, key=lambda gpu: (gpu.usd_per_hour, -gpu.memory_bytes))


def cheapest_fitting(needed_bytes: int) -> RentedGpu:
    """The cheapest GPU with at least so much memory; of the same price, the one with the most.

    Args:
        needed_bytes: all that the process takes of the GPU's memory at its peak, the driver's own
            part (some hundred MB) included.

    Raises:
        SpecError: no GPU of the table has so much, or it is no number of bytes.
    """
    if needed_bytes < 0:
        raise SpecError(f"{needed_bytes} isn't a number of bytes; give 0 or more.")
    fitting = [gpu for gpu in rented_gpus() if gpu.memory_bytes >= needed_bytes]
    if not fitting:
        largest = max(rented_gpus(), key=lambda gpu: gpu.memory_bytes)
        raise SpecError(
            f"No GPU of the price table holds {needed_bytes / _GB:.1f} GB: the largest is "
            f"{largest.name} with {largest.memory_bytes / _GB:.0f} GB. Take a smaller batch or "
            "model."
        )
    return fitting[0]


def suggestion(needed_bytes: int) -> str:
    """One sentence with the cheapest fitting GPU and its price; arguments and errors as there.

    Example:
        `suggestion(13_000_000_000)` begins "The cheapest GPU that holds 13.0 GB is the …".
    """
    gpu = cheapest_fitting(needed_bytes)
    return (
        f"The cheapest GPU that holds {needed_bytes / _GB:.1f} GB is the {gpu.name} "
        f"({gpu.memory_bytes / _GB:.0f} GB) at {gpu.usd_per_hour:.3g} USD an hour "
        f"({PRICE_SOURCE}, {PRICE_DATE})."
    )
