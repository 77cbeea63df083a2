"""What Python programs hold as what JSON has, so that each executor sees the same."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from visiondyno.errors import SpecError


def plain_input(job_input: Mapping[str, Any]) -> dict[str, Any]:
    """The job's input as JSON has it; what is None is left out.

    Models of pydantic, tuples, and numbers of NumPy and torch are taken too.

    Raises:
        SpecError: a value has no place in JSON; names it.
    """
    given = {name: value for name, value in job_input.items() if value is not None}
    # Samples and weights are plain already, and long.
    ready = ("training_data", "validation_data", "features", "check_data", "model_state")
    return {name: value if name in ready else plain(value, name) for name, value in given.items()}


def plain(value: Any, place: str) -> Any:
    """`value` as JSON has it; `place` is what messages call it.

    Raises:
        SpecError: it, or a part of it, has no place in JSON.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(f"'{place}' has the key {key!r:.80}; keys must be texts.")
        return {key: plain(inner, f"{place}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, f"{place}[{index}]") for index, inner in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"'{place}' is {value}; every number must be finite.")
    if value is None or isinstance(value, str | int | float):
        return value
    raise SpecError(
        f"'{place}' is of type {type(value).__name__}; give texts, numbers, lists and dicts."
    )
