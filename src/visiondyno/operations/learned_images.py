"""How many of the images that a trained model is scored on it has learned from."""

from pathlib import Path

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import builtin_dataset, open_dataset
from visiondyno.errors import DatasetError, ModelError
from visiondyno.runtimes.registry import resolve_reference
from visiondyno.runtimes.trained_models import read_trained
from visiondyno.specs.trained_model import TrainedModel, TrainedOn

MOST_LOOKED_THROUGH = 20_000
"""Images of training data that are opened again to compare them."""


def learned_images(on: TrainedOn, dataset: Dataset) -> int:
    """How many images of `dataset` are among those that a model learned from.

    The same data by digest are the same images. Parts of a built-in data set share none; two
    prefixes of one part share the shorter one. Other data are compared by their files, where those
    that were learned from are still here; 0 where they aren't, or are more than
    `MOST_LOOKED_THROUGH`.
    """
    return min(on.images, _shared(on.reference, on.digest, on.images, dataset))


def _shared(reference: str, digest: str | None, images: int, dataset: Dataset) -> int:
    """How many images of `dataset` may be among those of another one, of so many images."""
    if digest == dataset.digest:
        return len(dataset)
    learned, scored = builtin_dataset(reference), builtin_dataset(dataset.reference)
    if learned is not None and scored is not None:
        parts = [
            (built.name, [*named.split(":"), built.default_split][1])
            for built, named in ((learned, reference), (scored, dataset.reference))
        ]
        return len(dataset) if parts[0] == parts[1] else 0
    if learned is not None or scored is not None or images > MOST_LOOKED_THROUGH:
        return 0
    try:
        before = open_dataset(reference, skip_bad=True)
    except DatasetError:
        return 0
    files = {_file(before, index) for index in range(len(before))}
    return sum(_file(dataset, index) in files for index in range(len(dataset)))


def learned_note(reference: str, dataset: Dataset) -> str | None:
    """A warning for whoever reads a trained model's accuracy on images that it has learned.

    Or on those by which its best epoch was chosen. None for other models, and for images that are
    new to it as far as is known.
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
        return _chosen_note(reference, record, dataset)
    return (
        f"Warning: {reference} learned from {count} of the {len(dataset)} images that it is scored "
        f"on ({record.trained_on.reference}). Its accuracy here says how well it knows them, not "
        "how good it is on new ones; compare it on data that it hasn't seen."
    )


def _chosen_note(reference: str, record: TrainedModel, dataset: Dataset) -> str | None:
    on = record.trained_on
    if on.validation_reference is None or record.epochs == 1:
        return None
    if not _shared(on.validation_reference, on.validation_digest, on.images, dataset):
        return None
    return (
        f"{reference} didn't learn from these images, but epoch {record.best_epoch} of its "
        f"{record.epochs} was chosen as the best by its score on {on.validation_reference}, which "
        "they belong to: its accuracy here is somewhat better than on images that nothing was "
        "chosen by."
    )


def _file(dataset: Dataset, index: int) -> Path:
    return dataset.sample(index).path.resolve()
