"""Samples that travel inside a job: features and labels as nested lists of numbers."""

from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator


class InlineData(BaseModel):
    """A small labelled set.

    Attributes:
        features: one entry a sample, each a number or a nested list of the same shape.
        labels: one entry a sample: a class index, a number, or a nested list of numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: list[Any]
    labels: list[Any]

    @model_validator(mode="after")
    def _is_rectangular_and_finite(self) -> Self:
        features, labels = self.features_array(), self.labels_array()
        if len(features) == 0:
            raise ValueError("'features' holds no sample; give at least one")
        if len(features) != len(labels):
            raise ValueError(
                f"'features' holds {len(features)} samples and 'labels' {len(labels)}; "
                "give one label for each sample"
            )
        return self

    def features_array(self) -> np.ndarray:
        """Shape (samples, …): int64 if all numbers are whole and written so, else float64."""
        return _as_array(self.features, "features")

    def labels_array(self) -> np.ndarray:
        """Shape (samples, …): int64 if all numbers are whole and written so, else float64."""
        return _as_array(self.labels, "labels")


def _as_array(values: list[Any], name: str) -> np.ndarray:
    problem = _first_irregularity(values, _shape_of(values), name)
    if problem is not None:
        raise ValueError(problem)
    array = np.asarray(values)
    if array.dtype.kind == "i" or array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind != "f":  # whole numbers beyond 64 bits
        try:
            array = array.astype(np.float64)
        except OverflowError as error:
            raise ValueError(f"'{name}' holds a whole number beyond all floats") from error
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = tuple(int(index) for index in bad[0])
        raise ValueError(
            f"{_place(name, place)} is {float(array[place])}; every number must be finite"
        )
    return array


def _shape_of(values: Any) -> tuple[int, ...]:
    """The shape that the first entry of each level shows."""
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return tuple(shape)


def _first_irregularity(values: Any, shape: tuple[int, ...], name: str) -> str | None:
    """A sentence on the first entry that doesn't fit `shape`, or None."""
    pending: list[tuple[Any, tuple[int, ...]]] = [(values, ())]
    while pending:
        entry, place = pending.pop()
        rest = shape[len(place) :]
        if not rest:
            if isinstance(entry, bool) or not isinstance(entry, int | float):
                return f"{_place(name, place)} must be a number, got {_shown(entry)}"
            continue
        if not isinstance(entry, list) or len(entry) != rest[0]:
            got = f"{len(entry)} values" if isinstance(entry, list) else _shown(entry)
            return f"{_place(name, place)} must hold {rest[0]} values as the first does, got {got}"
        if len(rest) == 1 and all(type(number) in (int, float) for number in entry):
            continue
        pending.extend((entry[index], (*place, index)) for index in reversed(range(len(entry))))
    return None


def _place(name: str, place: tuple[int, ...]) -> str:
    return f"'{name}{''.join(f'[{index}]' for index in place)}'"


def _shown(entry: Any) -> str:
    if isinstance(entry, list):
        return f"a list of {len(entry)}"
    text = repr(entry)
    return text if len(text) <= 40 else f"{text[:37]}..."
