"""Whether a model that was made of another answers what its source does: on real images.

The source runs in this process, as it is evaluated; what was made runs in a child process, since
native code may die of a file that nobody has run before.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.base import Dataset
from visiondyno.errors import ChildDied, ModelError
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.measuring.prediction_files import load_predictions, save_predictions
from visiondyno.operations.context import OperationContext
from visiondyno.operations.model_agreement import agreement
from visiondyno.operations.model_check_child import write_tensor
from visiondyno.operations.onnx_files import FP32_TOLERANCE
from visiondyno.operations.paired_scores import PairedScores, paired_scores
from visiondyno.operations.verified_data import open_verified
from visiondyno.predictions import Image
from visiondyno.runtimes.base import LoadedModel
from visiondyno.runtimes.model_cards import read_graph_file, resolve_card
from visiondyno.sandbox import run_in_child
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.preprocess import PreparedBatch, Preprocessor

Answers = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""What the source answers to an input tensor: (n, …) to its outputs, in the graph's order."""

NOISE = "noise"
_CHILD = "visiondyno.operations.model_check_child:answer"
_FIRST_BATCHES = (1, 2, 5)
"""A graph may have learnt one size by heart."""
_BATCH = 4
_MOST_TENSORS = 64
"""Of them inputs and outputs lie on the disk: of 640 px about 8 MB each."""


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file that was made.

    Attributes:
        path: of the file, which carries its card.
        precision: `fp32` must answer the same: numbers within `FP32_TOLERANCE`, and the boxes that
            its source is sure of; of others the difference is told.
        device: where it runs.
    """

    path: Path
    precision: str
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """How a model that was made differs from its source.

    Attributes:
        report: the `check` of an operation's output: `images`, `data`, `outputs`,
            `source_metrics`, `metrics`, `metric_differences`, `agreement`.
        notes: what its reader must know.
        checked_samples: inputs that both answered, of which `outputs` tells.
    """

    report: dict[str, Any]
    notes: tuple[str, ...]
    checked_samples: int

    @property
    def flat(self) -> dict[str, Any]:
        """All outputs together, as `export` has always said it.

        `max_abs_difference` and `mean_abs_difference` (of the output that differs most) and
        `max_abs_output`; None where no output can be compared number by number.
        """
        told = [one for one in self.report["outputs"] if one["max_abs_difference"] is not None]
        return {
            "max_abs_difference": max((one["max_abs_difference"] for one in told), default=None),
            "mean_abs_difference": max((one["mean_abs_difference"] for one in told), default=None),
            "max_abs_output": max((one["max_abs_source"] for one in told), default=None),
            "checked_samples": self.checked_samples,
        }


def check_made(
    source: LoadedModel,
    made: MadeFile,
    dataset: Dataset | None,
    context: OperationContext,
    answers: Answers | None = None,
) -> ModelCheck:
    """Let both answer the same tensors, and predict and score the same images.

    Args:
        source: loaded, on the processor.
        made: the file.
        dataset: images, from `images_of`; noise of the model's size if None.
        context: told of progress, and stops it.
        answers: of the source, to tensors that are prepared as the made file's card says; None:
            `source.infer`, of a source that has the same card.

    Raises:
        ModelError: what was made can't be run, or answers otherwise: other shapes, NaN, infinity,
            or, in fp32, other numbers or boxes.
    """
    card = resolve_card(read_graph_file(made.path)).card
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = _write_tensors(folder, card, dataset, answers or _infer(source), context)
        predicted = _source_predictions(source, dataset, folder, context)
        payload = {
            "folder": name,
            "model": str(made.path),
            "device": made.device,
            "images": [] if dataset is None else [str(path) for path in _paths(dataset)],
            "same_within": FP32_TOLERANCE if made.precision == "fp32" else None,
        }
        found = _run_child(payload, context)
        report: dict[str, Any] = {
            "images": 0 if dataset is None else len(dataset),
            "data": NOISE if dataset is None else dataset.reference,
            "outputs": found["outputs"],
            **PairedScores().to_json(),
            "agreement": None,
        }
        notes = [*_noise_notes(dataset), *found["notes"]]
        if dataset is not None and predicted is not None:
            theirs = load_predictions(folder / "made.npz")
            scores = paired_scores(dataset, source, card, predicted, theirs)
            report |= scores.to_json()
            report["agreement"], more = agreement(predicted, theirs)
            notes += [*scores.notes, *more]
    return ModelCheck(report, tuple(notes), count)


def images_of(data: str | None, images: int, context: OperationContext) -> Dataset | None:
    """The first `images` of the reference `data`, labelled or not; None where there is none.

    Opened before a model is made of another: a wrong name costs no work then.

    Raises:
        DatasetError: they can't be read.
    """
    if data is None:
        return None
    return open_verified(data, skip_bad=False, max_images=images, context=context, unlabelled=True)


def _paths(dataset: Dataset) -> list[Path]:
    return [dataset.sample(index).path for index in range(len(dataset))]


def _infer(source: LoadedModel) -> Answers:
    def answers(tensor: NDArray[Any]) -> Sequence[NDArray[Any]]:
        found: Sequence[NDArray[Any]] = source.infer(PreparedBatch(tensor, ()))
        return found

    return answers


def _write_tensors(
    folder: Path,
    card: ModelCard,
    dataset: Dataset | None,
    answers: Answers,
    context: OperationContext,
) -> int:
    """Inputs and what the source answers, as files; how many samples they hold."""
    images = _noise(card) if dataset is None else _decoded(dataset)
    preprocessor = Preprocessor(card.input)
    sizes = iter(_FIRST_BATCHES)
    number = done = 0
    total = min(max(0 if dataset is None else len(dataset), sum(_FIRST_BATCHES)), _MOST_TENSORS)
    source = iter(images)
    while done < total:
        wanted = min(next(sizes, _BATCH), total - done)
        batch = [next(source) for _ in range(wanted)]
        done += wanted
        for prepared in preprocessor.by_shape(batch).batches:
            context.progress("asking the source", done=done, total=total)
            write_tensor(folder, number, prepared.tensor, answers(prepared.tensor))
            number += 1
    return done


def _noise(card: ModelCard) -> "_Endless":
    generator = np.random.default_rng(0)
    shape = (card.input.height, card.input.width, 3)
    count = sum(_FIRST_BATCHES)
    return _Endless(count, lambda _: generator.integers(0, 256, shape, dtype=np.uint8))


def _decoded(dataset: Dataset) -> "_Endless":
    images = EncodedImages(_paths(dataset))
    return _Endless(len(images), images.decode)


class _Endless:
    """Images in order, and then from the first on again: batches hold more than there may be."""

    def __init__(self, count: int, image: Callable[[int], Image]) -> None:
        self._count = count
        self._image = image
        self._next = 0

    def __iter__(self) -> "_Endless":
        return self

    def __next__(self) -> Image:
        self._next += 1
        return self._image((self._next - 1) % self._count)


def _source_predictions(
    source: LoadedModel, dataset: Dataset | None, folder: Path, context: OperationContext
) -> Sequence[Any] | None:
    if dataset is None:
        return None
    total = len(dataset)
    file = folder / "source.npz"
    each = predict_each(
        source,
        EncodedImages(_paths(dataset)),
        on_done=lambda done: context.progress("source's predictions", done=done, total=total),
    )
    save_predictions(file, each)
    return load_predictions(file)


def _run_child(payload: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    try:
        return run_in_child(
            _CHILD,
            payload,
            on_event=lambda event: context.progress(event.pop("stage"), **event),
            check=context.check,
        )
    except ChildDied as error:
        raise ModelError(
            f"The runtime dies of the file that was made ({error.message}) Take another "
            "'precision', 'format' or 'opset'."
        ) from error


def _noise_notes(dataset: Dataset | None) -> list[str]:
    if dataset is not None:
        return []
    return ["Checked on noise: name images with 'data' to check it on what it will see."]
