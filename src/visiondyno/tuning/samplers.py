"""Samplers of Optuna by name."""

import importlib.util
import inspect
import warnings
from typing import TYPE_CHECKING

from visiondyno.errors import MissingExtra, SpecError, Unavailable
from visiondyno.tuning.by_name import find_by_name
from visiondyno.tuning.trial import Json, trial_seed

if TYPE_CHECKING:
    import optuna


_NEEDED = {"CmaEsSampler": ("cmaes",), "GPSampler": ("scipy", "torch"), "QMCSampler": ("scipy",)}
"""Packages that Optuna imports only when a sampler first needs them: in mid-study."""


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
    _check_packages(kind.__name__)
    if kind is optuna.samplers.GridSampler:
        taken_up = 0  # its seed is the order of the grid, in which a later run finds its place
    arguments = {**_given(kind, trial_seed(seed, -1 - taken_up)), **arguments}
    base = arguments.get("base_sampler")
    if isinstance(base, str):
        arguments["base_sampler"] = make_sampler(base, {}, seed, taken_up)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{kind.__name__} can't be made: {str(error).rstrip('.')}.") from error


def _check_packages(name: str) -> None:
    missing = [one for one in _NEEDED.get(name, ()) if importlib.util.find_spec(one) is None]
    if missing:
        raise Unavailable(
            f"{name} needs {' and '.join(missing)}, which isn't installed; install it with pip "
            f"install {' '.join(missing)}, or take another sampler."
        )


def _given(kind: type, seed: int) -> Json:
    """What a sampler gets where nothing else is said."""
    takes = inspect.signature(kind).parameters
    given: Json = {"seed": seed} if "seed" in takes else {}
    if "scramble" in takes:
        given["scramble"] = True  # QMC's sequence depends on the seed only when it is scrambled
    return given
