"""Samplers of Optuna by name."""

from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.tuning.trial import Json, trial_seed

if TYPE_CHECKING:
    import optuna


def make_sampler(
    name: str, arguments: Json, seed: int, taken_up: int = 0
) -> "optuna.samplers.BaseSampler":
    """A sampler of Optuna, seeded.

    Args:
        name: `TPESampler`, or `tpe`.
        arguments: its own.
        seed: of the study.
        taken_up: how many trials the study goes on from: a sampler that drew the same numbers
            again would ask for the same trials.

    Raises:
        SpecError: there is none of this name, or it doesn't take these arguments.
    """
    import optuna

    seed = trial_seed(seed, -1 - taken_up)
    kinds = _by_name(optuna.samplers, "Sampler")
    kind = kinds.get(_plain(name, "sampler"))
    if kind is None:
        known = ", ".join(found.__name__ for found in kinds.values())
        raise SpecError(f"There is no sampler '{name:.60}'; Optuna has {known}.")
    try:
        return kind(**{"seed": seed, **arguments})
    except TypeError as first:
        try:
            return kind(**arguments)  # one that has no seed
        except (TypeError, ValueError) as error:
            raise SpecError(f"{kind.__name__} can't be made: {error}.") from first
    except ValueError as error:
        raise SpecError(f"{kind.__name__} can't be made: {error}.") from error


def _by_name(module: Any, ending: str) -> dict[str, Any]:
    names = [n for n in dir(module) if n.endswith(ending) and not n.startswith("Base")]
    return {_plain(name, ending.lower()): getattr(module, name) for name in names}


def _plain(name: str, ending: str) -> str:
    return name.lower().replace("_", "").replace("-", "").removesuffix(ending)
