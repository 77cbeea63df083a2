"""Making an object of a torch class from plain arguments, with errors that name the argument."""

import collections.abc
import functools
import inspect
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from visiondyno.errors import SpecError
from visiondyno.training.names import suggestion

_PLACED_BY_THE_WORKER = frozenset({"device", "dtype"})

Arguments = Mapping[str, Any]
UNTYPED = inspect.Parameter.empty


def construct(
    kind: Any, arguments: Arguments, place: str, *, given: tuple[Any, ...] = (), **fixed: Any
) -> Any:
    """`kind(*given, **arguments, **fixed)`.

    Args:
        kind: the class.
        arguments: the user's, as they came in JSON; lists become tuples, or tensors where the
            class takes tensors.
        place: what messages begin with.
        given: the first positional arguments, ours.
        fixed: keyword arguments of ours, which the user may not give.

    Raises:
        SpecError: an argument is unknown, missing, of another type, or refused by the class.
    """
    known = {p.name: p for p in parameters_of(kind)[len(given) :] if p.name not in fixed}
    _check_names(arguments, known, place)
    values = {
        name: _checked(value, known[name], f"{place}, argument '{name}'")
        for name, value in arguments.items()
    }
    try:
        return kind(*given, **values, **fixed)
    except Exception as error:  # torch refuses values with whatever its own code stumbles over
        shown = _shown(json.dumps(dict(arguments)))
        raise SpecError(
            f"{place}: {kind.__name__} can't be made of {shown}: {one_line(error)}."
        ) from error


def parameters_of(kind: Any) -> tuple[inspect.Parameter, ...]:
    """What the constructor of `kind` takes, without `self`, typed where torch types it."""
    function = kind.__init__
    found = [
        parameter
        for parameter in list(inspect.signature(function).parameters.values())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and not parameter.name.startswith("_")
        and parameter.name not in _PLACED_BY_THE_WORKER
    ]
    base = kind.__mro__[1]
    if not found and base.__name__ == "RNNBase":  # which takes what RNN, LSTM and GRU hand on
        handed_on = [p for p in parameters_of(base) if p.name != "mode"]
        return (*handed_on, *((_NONLINEARITY,) if kind.__name__ == "RNN" else ()))
    hints = _type_hints(function)
    return tuple(p.replace(annotation=hints.get(p.name, UNTYPED)) for p in found)


def one_line(error: BaseException) -> str:
    """The first line of what torch says, without a final full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(". ")[:300]


_NONLINEARITY = inspect.Parameter(
    "nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh", annotation=str
)


def _type_hints(function: Any) -> dict[str, Any]:
    try:
        # Names that torch imports for type checkers only are those of collections.abc.
        return typing.get_type_hints(function, localns=vars(collections.abc))
    except (NameError, TypeError):
        return {}


def _check_names(arguments: Arguments, known: Mapping[str, inspect.Parameter], place: str) -> None:
    expected = ", ".join(name if p.default is UNTYPED else f"[{name}]" for name, p in known.items())
    expected = f"Expected: {expected}." if expected else "It takes none."
    for name in arguments:
        if name in _PLACED_BY_THE_WORKER:
            raise SpecError(f"{place}: leave '{name}' out; the worker chooses it.")
        if name not in known:
            hint = suggestion(name, known) if known else ""
            hint = hint if hint.startswith("Did") else expected
            raise SpecError(f"{place}: there is no argument '{name}'. {hint}")
    missing = [n for n, p in known.items() if p.default is UNTYPED and n not in arguments]
    if missing:
        absent = " and ".join(f"'{name}'" for name in missing)
        raise SpecError(f"{place}: {absent} must be given. {expected}")


def _checked(value: Any, parameter: inspect.Parameter, place: str) -> Any:
    """`value` as the class wants it, or a SpecError that says what was expected."""
    annotation = parameter.annotation
    if value is None and parameter.default is None:
        return None
    if isinstance(value, list | tuple) and _takes_tensors_alone(annotation):
        return _tensor(value, place)
    try:
        _check_numbers(value, place)
        text = json.dumps(value)
        adapter = _adapter(annotation)
        if adapter is not None:
            adapter.validate_json(text, strict=True)
    except ValidationError as error:
        expected = inspect.formatannotation(annotation).replace("NoneType", "None")
        raise SpecError(f"{place}: expected {expected}, got {_shown(text)}.") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{place}: only numbers, texts, lists and null can be given.") from error
    return _tupled(value)


def _shown(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _check_numbers(value: Any, place: str) -> None:
    """Refuses numbers that torch would stumble over in the middle of a training."""
    pending = [value]
    while pending:
        entry = pending.pop()
        if isinstance(entry, list | tuple):
            pending.extend(entry)
        elif isinstance(entry, dict):
            pending.extend(entry.values())
        elif isinstance(entry, int) and not -(2**63) <= entry < 2**63:
            raise SpecError(
                f"{place}: whole numbers of 64 bits are taken, got {_shown(str(entry))}."
            )
        elif isinstance(entry, float) and not math.isfinite(entry):
            raise SpecError(f"{place}: every number must be finite, got {entry}.")


@functools.lru_cache(maxsize=512)
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """Checks values against `annotation`; None where it says nothing that could be checked."""
    if annotation is UNTYPED or annotation is Any:
        return None
    if typing.get_origin(annotation) is collections.abc.Iterable:
        # Of an iterable, pydantic would look at nothing before somebody iterates. mypy takes what
        # stands in the brackets for a type.
        annotation = collections.abc.Sequence[typing.get_args(annotation)]  # type: ignore[misc]
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        return None


def _takes_tensors_alone(annotation: Any) -> bool:
    import torch

    options = typing.get_args(annotation) or (annotation,)
    return all(option in (torch.Tensor, type(None)) for option in options)


def _tensor(value: list[Any] | tuple[Any, ...], place: str) -> Any:
    import torch

    try:
        tensor = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise SpecError(f"{place}: expected a list of numbers; {one_line(error)}.") from error
    if not torch.isfinite(tensor).all():
        raise SpecError(f"{place}: every number must be finite.")
    return tensor


def _tupled(value: Any) -> Any:
    return tuple(_tupled(entry) for entry in value) if isinstance(value, list) else value
