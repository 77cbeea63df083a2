"""Classes of Optuna by the names that people write."""

from collections.abc import Iterable
from typing import Any

from visiondyno.errors import SpecError


def find_by_name(module: Any, ending: str, name: str, others: Iterable[str] = ()) -> Any:
    """The class of `module` that is meant.

    Args:
        module: where it is.
        ending: of the names of its classes, such as `Sampler`.
        name: the class's own, or without the ending, in any case, with or without `_`.
        others: names that are known beside, for the message.

    Raises:
        SpecError: there is none; names those there are.
    """
    names = [n for n in dir(module) if n.endswith(ending) and not n.startswith("Base")]
    kinds = {plain_name(one, ending): getattr(module, one) for one in names}
    found = kinds.get(plain_name(name, ending))
    if found is None:
        known = ", ".join([*others, *(kind.__name__ for kind in kinds.values())])
        raise SpecError(f"There is no {ending.lower()} '{name:.60}'; there are {known}.")
    return found


def plain_name(name: str, ending: str) -> str:
    """The name without case, `_`, `-` and its ending."""
    return name.lower().replace("_", "").replace("-", "").removesuffix(ending.lower())
