"""How many of the images that a trained model is scored on it has learned from."""

from collections.abc import Sequence
from pathlib import Path

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import builtin_dataset, open_dataset
from visiondyno.errors import DatasetError, ModelError, Unavailable
from visiondyno.report.format import listed
from visiondyno.runtimes.made_model import Learned, learned_by, read_made
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.openvino_file import read_openvino
from visiondyno.runtimes.registry import resolve_reference
from visiondyno.runtimes.trained_models import read_trained
from visiondyno.specs.trained_model import TrainedOn

MOST_LOOKED_THROUGH = 20_000
"""Images of training data that are opened again to compare them."""

_WHO = "{models}"


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


def learned_notes(references: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    """Warnings for whoever reads trained models' accuracy on images that they have learned.

    Or on those by which their best epoch was chosen. Files that were exported from one, or
    quantized, say it too. None of other models, and of images that are new to them as far as is
    known. Models of which the same is true, as all forms of one, are told of together.
    """
    told: dict[str, list[str]] = {}
    for reference in references:
        sentence = _learned(reference, dataset)
        if sentence is not None:
            told.setdefault(sentence, []).append(reference)
    return tuple(
        sentence.replace(_WHO, names[0] if len(names) == 1 else f"each of {listed(names)}")
        for sentence, names in told.items()
    )


def _learned(reference: str, dataset: Dataset) -> str | None:
    try:
        record = _learned_by(reference)
    except (ModelError, Unavailable):
        return None
    if record is None:
        return None
    count = learned_images(record.trained_on, dataset)
    if not count:
        return _chosen(record, dataset)
    return (
        f"Warning: {_WHO} learned from {count} of the {len(dataset)} images that it is scored "
        f"on ({record.trained_on.reference}). Its accuracy here says how well it knows them, not "
        "how good it is on new ones; compare it on data that it hasn't seen."
    )


def _learned_by(reference: str) -> Learned | None:
    resolved = resolve_reference(reference)
    path = resolved.path
    if path is None:
        return None
    if resolved.runtime == "trained":
        return learned_by(read_trained(path))
    if path.suffix.lower() == ".onnx":
        made = read_made(read_onnx(path).metadata)
    elif resolved.runtime in ("openvino", "openvino-bf16"):
        made = read_made(read_openvino(path).metadata)
    else:
        return None
    return None if made is None else made.learned


def _chosen(record: Learned, dataset: Dataset) -> str | None:
    on = record.trained_on
    if on.validation_reference is None or record.epochs == 1:
        return None
    if not _shared(on.validation_reference, on.validation_digest, on.images, dataset):
        return None
    return (
        f"Other images were learned by {_WHO}, but epoch {record.best_epoch} of its "
        f"{record.epochs} was chosen as the best by its score on {on.validation_reference}, which "
        "these belong to: its accuracy here is somewhat better than on images that nothing was "
        "chosen by."
    )


def _file(dataset: Dataset, index: int) -> Path:
    return dataset.sample(index).path.resolve()
