"""How many of the images that a trained model is scored on it has learned from."""

from pathlib import Path

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import builtin_dataset, open_dataset
from visiondyno.errors import DatasetError, ModelError
from visiondyno.runtimes.registry import resolve_reference
from visiondyno.runtimes.trained_models import read_trained
from visiondyno.specs.trained_model import TrainedOn

MOST_LOOKED_THROUGH = 20_000
"""Images of training data that are opened again to compare them."""


def learned_images(on: TrainedOn, dataset: Dataset) -> int:
    """How many images of `dataset` are among those that a model learned from.

    The same data by digest are the same images. Parts of a built-in data set share none; two
    prefixes of one part share the shorter one. Other data are compared by their files, where those
    that were learned from are still here; 0 where they aren't, or are more than
    `MOST_LOOKED_THROUGH`.
    """
    if on.digest == dataset.digest:
        return min(on.images, len(dataset))
    learned, scored = builtin_dataset(on.reference), builtin_dataset(dataset.reference)
    if learned is not None and scored is not None:
        parts = [
            (built.name, [*reference.split(":"), built.default_split][1])
            for built, reference in ((learned, on.reference), (scored, dataset.reference))
        ]
        return min(on.images, len(dataset)) if parts[0] == parts[1] else 0
    if learned is not None or scored is not None or on.images > MOST_LOOKED_THROUGH:
        return 0
    try:
        before = open_dataset(on.reference, skip_bad=True)
    except DatasetError:
        return 0
    files = {_file(before, index) for index in range(len(before))}
    return min(on.images, sum(_file(dataset, index) in files for index in range(len(dataset))))


def learned_note(reference: str, dataset: Dataset) -> str | None:
    """A warning for whoever reads a trained model's accuracy on images that it has learned.

    None for other models, and for images that it hasn't learned from as far as is known.
    """
    try:
        resolved = resolve_reference(reference)
        if resolved.runtime != "trained" or resolved.path is None:
            return None
        record = read_trained(resolved.path)
    except ModelError:
        return None
    count = learned_images(record.trained_on, dataset)
    if not count:
        return None
    return (
        f"Warning: {reference} learned from {count} of the {len(dataset)} images that it is scored "
        f"on ({record.trained_on.reference}). Its accuracy here says how well it knows them, not "
        "how good it is on new ones; compare it on data that it hasn't seen."
    )


def _file(dataset: Dataset, index: int) -> Path:
    return dataset.sample(index).path.resolve()
