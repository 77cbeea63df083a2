"""The price table's GPUs by the names that RunPod's REST API and console take.

Names: https://docs.runpod.io/references/gpu-types.
"""

from collections.abc import Iterable, Sequence

from visiondyno.errors import SpecError
from visiondyno.probes.cost import find_price

_TYPE_IDS: dict[str, tuple[str, ...]] = {
    "A4000": ("NVIDIA RTX A4000",),
    "A4500": ("NVIDIA RTX A4500",),
    "RTX 4000 Ada": ("NVIDIA RTX 4000 Ada Generation",),
    "L4": ("NVIDIA L4",),
    "A5000": ("NVIDIA RTX A5000",),
    "RTX 3090": ("NVIDIA GeForce RTX 3090",),
    "RTX 4090": ("NVIDIA GeForce RTX 4090",),
    "A6000": ("NVIDIA RTX A6000",),
    "A40": ("NVIDIA A40",),
    "L40": ("NVIDIA L40",),
    "L40S": ("NVIDIA L40S",),
    "RTX 6000 Ada": ("NVIDIA RTX 6000 Ada Generation",),
    "A100": ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    "RTX PRO 6000": (
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    ),
    "H100": ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"),
    "H200": ("NVIDIA H200",),
    "B200": ("NVIDIA B200",),
}
"""All types of one entry cost the same."""

_MOST_CHOICES = 3
"""RunPod spreads workers over three priorities at most."""


def parse_gpus(text: str) -> tuple[str, ...]:
    """`A4000,L4` as names of the price table, in order of preference, each once.

    Raises:
        SpecError: one isn't in the table, there are more than three, or none.
    """
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name = find_price(part).gpu
        if name is None:
            raise SpecError(
                f"'{part:.40}' is a price, and an endpoint is given GPUs; name one such as A4000."
            )
        if name not in names:
            names.append(name)
    if not 1 <= len(names) <= _MOST_CHOICES:
        raise SpecError(
            f"--gpu names {len(names)} GPUs; give one to {_MOST_CHOICES}, such as A4000,L4, the "
            "preferred one first."
        )
    return tuple(names)


def type_ids(gpus: Sequence[str]) -> list[str]:
    """RunPod's `gpuTypeIds` for names of the price table, in their order."""
    return [type_id for gpu in gpus for type_id in _TYPE_IDS[gpu]]


def gpus_of(ids: Iterable[str]) -> tuple[str, ...]:
    """The names in the price table of `gpuTypeIds`, in their order; types without one left out."""
    names = {type_id: gpu for gpu, type_ids in _TYPE_IDS.items() for type_id in type_ids}
    return tuple(dict.fromkeys(names[type_id] for type_id in ids if type_id in names))


def dearest(gpus: Sequence[str]) -> str:
    """The one whose price bounds the others'; the first of several."""
    return max(gpus, key=lambda gpu: find_price(gpu).usd_per_hour)
