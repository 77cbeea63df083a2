"""Samplers of Optuna by name."""

import inspect
import warnings
from typing import TYPE_CHECKING

from visiondyno.errors import MissingExtra, SpecError, Unavailable
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
        Unavailable: it needs a package that isn't installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("tune", "Tuning") from error

    kind = find_by_name(optuna.samplers, "Sampler", name)
    arguments = {**_given(kind, trial_seed(seed, -1 - taken_up)), **arguments}
    base = arguments.get("base_sampler")
    if isinstance(base, str):
        arguments["base_sampler"] = make_sampler(base, {}, seed, taken_up)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**arguments)
    except ImportError as error:
        raise Unavailable(
            f"{kind.__name__} needs the package '{error.name}', which isn't installed; install it "
            f"with pip install {error.name}, or take another sampler."
        ) from error
    except (TypeError, ValueError) as error:
        raise SpecError(f"{kind.__name__} can't be made: {str(error).rstrip('.')}.") from error


def _given(kind: type, seed: int) -> Json:
    """What a sampler gets where nothing else is said."""
    takes = inspect.signature(kind).parameters
    given: Json = {"seed": seed} if "seed" in takes else {}
    if "scramble" in takes:
        given["scramble"] = True  # QMC's sequence depends on the seed only when it is scrambled
    return given
