"""What scripts and notebooks call to tune: `visiondyno.tune`."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visiondyno.client.async_client import ignore
from visiondyno.errors import SpecError
from visiondyno.places import Place, PlaceOptions
from visiondyno.specs.tuning import SpaceSpec, StudySpec
from visiondyno.tuning.data_parts import anywhere
from visiondyno.tuning.function_body import ObjectiveFunction
from visiondyno.tuning.function_study import FunctionStudy
from visiondyno.tuning.progress import AggregatedProgress
from visiondyno.tuning.results import write_results
from visiondyno.tuning.space import load_space
from visiondyno.tuning.study import OnEvent, Study, StudyResult
from visiondyno.tuning.tested import with_test

Searched = str | os.PathLike[str] | SpaceSpec | StudySpec | Mapping[str, Any] | ObjectiveFunction
_OF_PLACES = tuple(name for name in PlaceOptions.__annotations__ if name != "workers")


def tune(  # noqa: PLR0913 - each is said by name
    objective_or_space: Searched | None = None,
    *,
    data: Any = None,
    trials: int | None = None,
    objectives: Sequence[str] | str | None = None,
    workers: int = 2,
    on: str | Place = "local",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    test: bool = True,
    callbacks: Sequence[Callable[[AggregatedProgress], object]] = (),
    on_event: OnEvent = ignore,
    **options: Any,
) -> StudyResult:
    """Search hyperparameters with several workers at once.

    Args:
        objective_or_space: a search space (the path of a YAML file, a mapping with `parameters`, a
            `SpaceSpec`), a whole study (a `StudySpec`, or a mapping with its fields), an objective
            function of a trial, or None for the built-in space. A function gets a
            `tuning.function_trial.FunctionTrial`, is called in a thread of its own for each trial,
            and returns a number, or one for each objective.
        data: dataset reference; not for functions, which have their own.
        trials: in all; None: 20, or as the study that is gone on with.
        objectives: names, each with `:minimize` or `:maximize` where that isn't known; functions
            need them.
        workers: trials at once.
        on: where: `local`, `inline`, `redis`, `runpod`, a URL, or a `Place`.
        out: the study's folder, from which `resume` goes on, and where results, page and weights
            are written; None keeps it in memory alone.
        resume: go on with the study in `out`; everything else that it was asked is known.
        test: train the best trial's model once more and score it on the untouched test data, where
            there are any.
        callbacks: each is called with every change, on a thread of its own, in order.
        on_event: told of what is done before the first trial: data opened, packed, sent.
        **options: the other fields of `StudySpec`, such as `epochs`, `seed`, `sampler`, `pruner`,
            `trial_timeout_s`, and those of `Place`: `endpoint` (several with commas between them),
            `gpu`, `max_cost_usd`, `fallback`, `api_key`.

    Returns:
        What it came to; trials that failed are in it, with their reasons.

    Raises:
        SpecError: an option or the space is wrong; names it.
        DatasetError: the data can't be used.
        Conflict: `out` holds another study.
        VisionDynoError: the study can't be kept.
    """
    place = _place(on, options)
    if isinstance(data, str | os.PathLike):
        data = anywhere(os.fspath(data))
    asked = {"data": data, "trials": trials, "objectives": _several(objectives)}
    given = {name: value for name, value in asked.items() if value is not None} | options
    folder = None if out is None else Path(out)
    study: Study
    if callable(objective_or_space):
        study = FunctionStudy(
            objective_or_space, given, place, workers=workers, folder=folder, resume=resume
        )
    else:
        spec = _spec(objective_or_space, given)
        study = Study(spec, place, workers=workers, folder=folder, resume=resume)
    for callback in callbacks:
        study.board.subscribe(callback)
    result = study.run(on_event)
    if folder is not None:
        write_results(result, folder)  # before more is tried
    if test:
        result = with_test(study, result, folder, on_event)
        if folder is not None:
            write_results(result, folder)
    return result


def _place(on: str | Place, options: dict[str, Any]) -> Place:
    """Where, by what belongs to a place among the options, which is taken out of them."""
    given = {name: options.pop(name) for name in _OF_PLACES if name in options}
    if isinstance(on, str):
        return Place(on, **given)
    if given:
        raise SpecError(f"'{min(given)}' goes with the name of a place; say it in the Place.")
    return on


def _several(objectives: Sequence[str] | str | None) -> Sequence[str] | None:
    return objectives.split(",") if isinstance(objectives, str) else objectives


def _spec(searched: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a study: those of the space or the study, and those given beside."""
    if searched is None:
        return given
    if isinstance(searched, str | os.PathLike):
        return {"space": load_space(Path(searched)), **given}
    if isinstance(searched, SpaceSpec):
        return {"space": searched, **given}
    if isinstance(searched, StudySpec):
        return {**searched.model_dump(exclude_unset=True), **given}
    if not isinstance(searched, Mapping):
        raise SpecError(
            f"What to search is of type {type(searched).__name__}; give a space (a YAML file, or a "
            "mapping with 'parameters'), a study, or an objective function."
        )
    return {"space": searched, **given} if "parameters" in searched else {**searched, **given}
