"""Parts of a model card from one source, to be merged with those of others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from visiondyno.specs.model_card import ModelCard

PARTS = (
    "task",
    "head",
    "classes",
    "input",
    "output",
    "detection",
    "depth",
    "activation",
    "license",
    "source",
)


@dataclass(frozen=True, slots=True)
class PartialCard:
    """What one source says.

    Attributes:
        origin: the source in words for the report.
        parts: of `PARTS`, those it knows.
        notes: what a reader of the report must know if this source is used.
    """

    origin: str
    parts: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def all_parts(card: ModelCard, origin: str) -> PartialCard:
    """Every part that `card` states (defaults that nobody wrote are left to other sources)."""
    said = card.model_fields_set
    return PartialCard(origin, {part: getattr(card, part) for part in PARTS if part in said})


def merge(sources: Sequence[PartialCard]) -> tuple[dict[str, Any], dict[str, str]]:
    """Each part from the first source that knows it, and that source's origin."""
    parts: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for part in PARTS:
        for source in sources:
            if source.parts.get(part) is not None:
                parts[part] = source.parts[part]
                origins[part] = source.origin
                break
    return parts, origins
