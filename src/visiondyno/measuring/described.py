"""A loaded model's description as it leaves its process."""

from dataclasses import fields
from typing import Any

from visiondyno.runtimes.base import ModelDescription


def describe(description: ModelDescription) -> dict[str, Any]:
    """A model's description as JSON."""
    plain = {field.name: getattr(description, field.name) for field in fields(description)}
    return {**plain, "card": description.card.model_dump(mode="json", by_alias=True)}
