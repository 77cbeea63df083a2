"""The states that both sides hold, which a delta refers to by their identity."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from visiondyno.errors import BaseMissing, ModelError
from visiondyno.state.tensors import State, dtype_name, quoted

Bases: TypeAlias = Mapping[str, State] | Callable[[str], State | None]
"""From a state's identity to the state; a function returns None for one that isn't held."""

WITHOUT_BASE = ("safetensors", "safetensors+shuffle+zstd")


def find_base(sha256: str, bases: Bases | None) -> State:
    """The state that a delta refers to.

    Raises:
        BaseMissing: it isn't held.
    """
    found = None
    if isinstance(bases, Mapping):
        found = bases.get(sha256)
    elif bases is not None:
        found = bases(sha256)
    if found is None:
        raise BaseMissing(
            f"The model state is a delta to the state {quoted(sha256)}, which isn't held here. "
            f"Send the entire state instead, in the format {' or '.join(WITHOUT_BASE)}",
            sha256,
        )
    return found


def check_same_tensors(state: State, base: State) -> None:
    """Refuse a delta between states of different models.

    Raises:
        ModelError: names, shapes or dtypes differ; the first difference is named.
    """
    for missing, owner in (
        (base.keys() - state.keys(), "base"),
        (state.keys() - base.keys(), "state"),
    ):
        if missing:
            raise ModelError(
                f"The model state and its base are of different models: only the {owner} has "
                f"{quoted(min(missing))}. Send the state without a base"
            )
    for name, tensor in state.items():
        mine, other = (f"{dtype_name(t)} {list(t.shape)}" for t in (tensor, base[name]))
        if mine != other:
            raise ModelError(
                f"The model state and its base are of different models: {quoted(name)} is {mine} "
                f"in the state and {other} in the base. Send the state without a base"
            )
