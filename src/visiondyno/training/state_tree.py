"""A nested state as named tensors and JSON, and back: so that it is stored without pickle."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError

if TYPE_CHECKING:
    import torch

Tensors = dict[str, "torch.Tensor"]


def flatten(tree: Any, prefix: str = "") -> tuple[Tensors, Any]:
    """The tensors of `tree` by their path, and the rest as values that JSON keeps exactly.

    Taken are dicts (keys: whole numbers or texts), Counters, lists, tuples, tensors, numbers,
    texts, booleans and None.

    Raises:
        TypeError: there is something else in it.
    """
    tensors: Tensors = {}
    return tensors, _flat(tree, prefix, tensors)


def unflatten(tensors: Tensors, values: Any) -> Any:
    """What `flatten` was given.

    Raises:
        ModelError: the two don't belong together.
    """
    try:
        return _deep(tensors, values)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"The training state is damaged at {error}. Begin anew without it."
        ) from error


def _flat(tree: Any, path: str, tensors: Tensors) -> Any:
    import torch

    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach()
        return {"tensor": path}
    if isinstance(tree, dict):
        kind = "counter" if isinstance(tree, Counter) else "dict"
        if not all(isinstance(key, int | str) for key in tree):
            raise TypeError(f"a key at '{path}' is neither a number nor a text")
        entries = [[key, _flat(value, f"{path}/{key}", tensors)] for key, value in tree.items()]
        return {kind: entries}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_flat(v, f"{path}/{i}", tensors) for i, v in enumerate(tree)]}
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    raise TypeError(f"'{path}' is of {type(tree).__name__}, which can't be kept")


def _deep(tensors: Tensors, values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    ((kind, inner),) = values.items()
    if kind == "tensor":
        return tensors[inner]
    entries = inner if kind in ("list", "tuple") else [entry[1] for entry in inner]
    built = [_deep(tensors, entry) for entry in entries]
    if kind == "list":
        return built
    if kind == "tuple":
        return tuple(built)
    pairs = dict(zip((entry[0] for entry in inner), built, strict=True))
    return Counter(pairs) if kind == "counter" else pairs
