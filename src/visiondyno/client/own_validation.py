"""What a training is scored on where the user names only what it learns from."""

from dataclasses import dataclass
from pathlib import Path

from visiondyno.datasets.cache_folder import default_cache_dir
from visiondyno.datasets.pull.catalogue import downloadable
from visiondyno.datasets.registry import builtin_dataset, find_data
from visiondyno.datasets.splits import splits_at
from visiondyno.errors import DatasetError

HELD_BACK = 0.2
"""The share of the data where they have no split to score on."""

_VALIDATION = ("val", "valid", "validation", "test")


@dataclass(frozen=True, slots=True)
class OwnValidation:
    """What is learned from and scored on.

    Attributes:
        data: reference, with its training split where there is one.
        validation_data: reference; None where a share is held back.
        validation_share: of `data`; None where there is `validation_data`.
        said: how that was chosen, in a sentence.
    """

    data: str
    validation_data: str | None
    validation_share: float | None
    said: str


def choose_validation(reference: str) -> OwnValidation:
    """The data's own splits, else a share that is held back.

    `street` is `street:train` and `street:val`; of a folder or a `data.yaml` with splits, `train`
    and `val`. Data that aren't on this machine are divided by the worker.

    Raises:
        DatasetError: the data lie here and can't be read.
    """
    stem, named, splits = _splits(reference)
    held = next((name for name in _VALIDATION if name in splits), None)
    train = named or ("train" if "train" in splits else None)
    if held is None or train is None or train.partition(":")[0] in _VALIDATION:
        said = (
            f"A share of {HELD_BACK:g} of {reference} is held back to score on; --validation names "
            "other data for it."
        )
        return OwnValidation(reference, None, HELD_BACK, said)
    said = f"Learning from {stem}:{train}, scored on {stem}:{held}."
    return OwnValidation(f"{stem}:{train}", f"{stem}:{held}", None, said)


def _splits(reference: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Reference without its split, the split that it names, and those that there are."""
    builtin = builtin_dataset(reference)
    if builtin is not None:
        part = reference.removeprefix(builtin.name).removeprefix(":")
        return builtin.name, part or None, tuple(builtin.splits)
    try:
        path, split = find_data(reference, default_cache_dir())
    except (DatasetError, OSError, ValueError):
        known = downloadable(reference)
        return reference, None, known.splits if known else ()
    named = split if split is not None and reference.endswith(f":{split}") else None
    stem = reference.removesuffix(f":{named}") if named else reference
    return stem, named, _at(path)


def _at(path: Path) -> tuple[str, ...]:
    try:
        return splits_at(path)
    except OSError as error:
        raise DatasetError(f"Folder {path} can't be read: {error.strerror}.") from error
