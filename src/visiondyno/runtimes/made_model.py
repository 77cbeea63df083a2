"""What the file of a model that was made of another says of that: from what, how, by whom."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visiondyno.specs.trained_model import TrainedModel, TrainedOn

MADE_KEY = "visiondyno.made"
"""The key of a file's metadata under which it says so, as JSON."""


class Learned(BaseModel):
    """What the weights learned from; see `TrainedModel`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trained_on: TrainedOn
    epochs: Annotated[int, Field(ge=1)]
    best_epoch: Annotated[int, Field(ge=1)]


class MadeOf(BaseModel):
    """Where a model's file is from.

    Attributes:
        by: what made it, with its version.
        operation: that made it.
        source: the model that it was made of: its reference, of a path the last name.
        source_digest: `sha256:…` of that model's file or weights.
        how: what was asked for: precision, method, calibration.
        learned: of weights that were trained here.
    """

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["visiondyno.made/1"] = Field("visiondyno.made/1", alias="schema")
    by: str
    operation: Literal["export", "quantize"]
    source: str
    source_digest: str
    how: dict[str, Any] = {}
    learned: Learned | None = None


def learned_by(record: TrainedModel) -> Learned:
    """What the record of a training says of it."""
    return Learned(trained_on=record.trained_on, epochs=record.epochs, best_epoch=record.best_epoch)


def read_made(metadata: Mapping[str, str]) -> MadeOf | None:
    """What a file's metadata says; None where it says nothing that can be read."""
    if MADE_KEY not in metadata:
        return None
    try:
        return MadeOf.model_validate_json(metadata[MADE_KEY])
    except ValidationError:
        return None
