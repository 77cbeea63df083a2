"""Samplers of Optuna by name."""

from typing import TYPE_CHECKING

from visiondyno.errors import SpecError
from visiondyno.tuning.by_name import find_by_name
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
    kind = find_by_name(optuna.samplers, "Sampler", name)
    try:
        return kind(**{"seed": seed, **arguments})
    except TypeError as first:
        try:
            return kind(**arguments)  # one that has no seed
        except (TypeError, ValueError) as error:
            raise SpecError(f"{kind.__name__} can't be made: {error}.") from first
    except ValueError as error:
        raise SpecError(f"{kind.__name__} can't be made: {error}.") from error
