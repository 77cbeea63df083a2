"""What the options of `dyno tune` ask of a study."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from visiondyno.errors import Conflict, SpecError
from visiondyno.places import Place
from visiondyno.report.yaml_spec import read_value
from visiondyno.tuning.data_parts import anywhere
from visiondyno.tuning.journal import NAME as JOURNAL
from visiondyno.tuning.run_record import StudyRun
from visiondyno.tuning.space import load_space

PRUNER = "asha"
"""Of studies from the command line that name none."""

_OF_PLACES = ("endpoint", "gpu", "max_cost_usd", "fallback")


def asked_of(
    given: Mapping[str, Any], space: Path | None, changes: tuple[str, ...], *, resume: bool
) -> dict[str, Any]:
    """Fields of the study that the options ask for.

    Args:
        given: options that were given, by the fields' names.
        space: a file.
        changes: `FIELD=VALUE`, over the others.
        resume: a study that is gone on with has its own defaults.

    Raises:
        SpecError: a file or a value can't be read, two contradict, or there are no data.
    """
    asked = dict(given)
    if "data" in asked:  # --resume may be said in another folder
        asked["data"] = anywhere(asked["data"])
    if space is not None:
        if "mode" in asked:
            raise SpecError(
                "--mode names a built-in space and --space one of your own; leave one out."
            )
        # As the journal has it: a study that is gone on with is compared field by field.
        asked["space"] = load_space(space)
    if not resume:
        asked.setdefault("pruner", PRUNER)
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SpecError(
                "--set takes FIELD=VALUE, such as sampler_arguments.n_startup_trials=5; got "
                f"'{text}'."
            )
        _set(asked, name, read_value(value, f"--set {name}"))
    if not resume and not {"data", "training_data"} & set(asked):
        raise SpecError("Which data? Give --data mnist, or a folder of labelled images.")
    return asked


def _set(fields: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    place: Any = fields
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise SpecError(f"--set {name}: '{parent}' holds no fields.")
    place[last] = value


def whereabouts(
    place: Place, workers: int | None, out: Path, *, resume: bool, is_named: bool
) -> tuple[Place, int]:
    """Where the trials run, and how many at once.

    Args:
        place: of the options.
        workers: None where it wasn't given.
        out: the study's folder.
        resume: what isn't given is as it was in the study's last run.
        is_named: whether the place was given, not taken by default.

    Raises:
        SpecError: the place runs one trial at a time, and several were asked for.
    """
    before = StudyRun.read(out) if resume else None
    if before is not None:
        workers = before.workers if workers is None else workers
        if not is_named:
            kept = {name: getattr(before, name) for name in _OF_PLACES}
            given = {name: getattr(place, name) for name in _OF_PLACES}
            told = {name: value for name, value in given.items() if value is not None}
            place = replace(place, where=before.where, **{**kept, **told})
    workers = 1 if workers is None else workers
    if place.where == "inline" and workers > 1:
        raise SpecError(
            f"--on inline runs one trial at a time, in this process; give --on local for {workers} "
            "worker processes, or leave --workers out."
        )
    return place, workers


def check_folder(out: Path, *, resume: bool) -> None:
    """Refuse a folder in which a new study would stand between other things.

    Raises:
        Conflict: it holds a study, or files of something else.
    """
    if resume or not out.is_dir():
        return
    names = sorted(path.name for path in out.iterdir())
    if JOURNAL in names and _has_begun(out / JOURNAL):
        raise Conflict(
            f"{out} holds a study already; go on with it with --resume, or choose another folder "
            "with --out."
        )
    others = [name for name in names if name != JOURNAL]
    if others:
        raise Conflict(
            f"{out} holds other things ({', '.join(others[:3])}); choose a folder of its own for "
            "the study with --out."
        )


def _has_begun(journal: Path) -> bool:
    """Whether its first line is whole; one that was torn is a study that never began."""
    with journal.open("rb") as file:
        return b"\n" in file.read(1 << 20)
