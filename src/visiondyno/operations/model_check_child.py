"""What a file that was made answers, found in a child process: its crash is only the child's.

`run_in_child` calls `answer`; inputs, and what the source answered, come by files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.measuring.prediction_files import save_predictions
from visiondyno.operations.onnx_files import FP32_TOLERANCE
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.vision.preprocess import PreparedBatch

Array = NDArray[Any]

_ORDERED = frozenset({"end_to_end", "detr", "boxes_scores_classes"})
"""Heads whose rows come in the order of scores: two nearly equal ones may change places."""
_LEAST_PAIRED = 0.8
"""Share of all rows that must have their counterpart. At the cut-off others may come in, and where
queries look at each other, one that is another changes all of its image's a little."""
_PAIRED_WITHIN = {True: FP32_TOLERANCE, False: 0.1}
"""Of the largest number of its output, by whether the same numbers are wanted."""


@dataclass
class _Difference:
    """What is summed up of one output."""

    worst: float = 0.0
    total: float = 0.0
    count: int = 0
    largest: float = 0.0
    comparable: bool = True


def write_tensor(folder: Path, number: int, tensor: Array, expected: Sequence[Array]) -> None:
    """Keep an input and what the source answers to it, for `answer`."""
    np.save(folder / f"{number:05d}.npy", tensor)
    for index, output in enumerate(expected):
        np.save(folder / f"{number:05d}-{index:03d}.npy", output)


def answer(payload: dict[str, Any], emit: Any) -> dict[str, Any]:
    """Compare a model's outputs with the source's, and write its predictions to `made.npz`.

    Payload: `folder`, `model`, `device`, `images` (paths), `same_within` (share of the largest
    number; None: any numbers).

    Returns:
        `outputs`: for each `name`, `max_abs_difference`, `mean_abs_difference` (both None where
        rows can't be laid side by side) and `max_abs_source`; and `notes`.

    Raises:
        ModelError: it can't be loaded or run, answers other shapes, NaN or infinity.
    """
    folder = Path(payload["folder"])
    with load_model(payload["model"], LoadOptions(device=payload["device"])) as model:
        compared = _Compared(model, payload["same_within"])
        for tensor, expected in _tensors(folder):
            compared.add(expected, model.infer(PreparedBatch(tensor, ())))
        if payload["images"]:
            images = EncodedImages([Path(path) for path in payload["images"]])
            total = len(images)

            def tell(done: int) -> None:
                emit({"stage": "the file's predictions", "done": done, "total": total})

            save_predictions(folder / "made.npz", predict_each(model, images, on_done=tell))
    return {"outputs": compared.outputs(), "notes": compared.notes()}


def _tensors(folder: Path) -> Iterator[tuple[Array, list[Array]]]:
    for path in sorted(folder.glob("[0-9]*.npy")):
        if "-" not in path.stem:
            expected = sorted(folder.glob(f"{path.stem}-*.npy"))
            yield np.load(path), [np.load(one) for one in expected]


class _Compared:
    def __init__(self, model: LoadedModel, same_within: float | None) -> None:
        self._names = _names(model)
        self._same_within = same_within
        self._is_ordered = model.description.card.head in _ORDERED
        self._differences: list[_Difference] = []
        self._rows = self._paired = self._moved = 0

    def add(self, expected: Sequence[Array], found: Sequence[Array]) -> None:
        """One batch's outputs."""
        if len(expected) != len(found):
            raise ModelError(
                f"The file has {len(found)} outputs, and its source {len(expected)}; it can't be "
                "used in its place."
            )
        self._differences = self._differences or [_Difference() for _ in expected]
        for one, other in zip(expected, found, strict=True):
            _check_finite(one, "source answers NaN or infinity; check its weights")
            _check_finite(other, "file answers NaN or infinity; take 'precision': 'fp32'")
        if self._is_ordered and self._are_rows(expected, found):
            expected, found = self._in_order(expected, found)
        for kept, one, other in zip(self._differences, expected, found, strict=True):
            self._compare(kept, one, other)

    def outputs(self) -> list[dict[str, Any]]:
        """Each output's differences.

        Raises:
            ModelError: the same numbers are wanted, and too many rows have no counterpart.
        """
        if self._same_within is not None and self._paired < _LEAST_PAIRED * self._rows:
            raise ModelError(
                f"Only {self._paired} of the {self._rows} rows that the source answers are among "
                "the file's; it can't be used in its place."
            )
        names = [*self._names, *(f"output {n}" for n in range(len(self._differences)))]
        return [
            {
                "name": name,
                "max_abs_difference": one.worst if one.comparable else None,
                "mean_abs_difference": one.total / max(one.count, 1) if one.comparable else None,
                "max_abs_source": one.largest,
            }
            for name, one in zip(names, self._differences, strict=False)
        ]

    def notes(self) -> list[str]:
        """What the differences don't show."""
        notes = []
        if self._moved:
            notes.append(
                f"{self._moved} of {self._rows} rows came in another place than the source's "
                f"(their scores are nearly equal), and {self._rows - self._paired} have no "
                "counterpart; differences are those of the others."
            )
        if not all(one.comparable for one in self._differences):
            notes.append(
                "The file finds another number of boxes than its source in some images, so that "
                "outputs can't be compared number by number; see the agreement of predictions."
            )
        return notes

    def _compare(self, kept: _Difference, one: Array, other: Array) -> None:
        values, others = one.astype(np.float64), other.astype(np.float64)
        kept.largest = max(kept.largest, float(np.abs(values).max(initial=0.0)))
        if one.shape != other.shape:
            if self._same_within is not None or one.ndim != other.ndim:
                raise ModelError(
                    f"The file answers shape {other.shape}, and its source {one.shape}; it can't "
                    "be used in its place."
                )
            kept.comparable = False
            return
        errors = np.abs(values - others)
        kept.worst = max(kept.worst, float(errors.max(initial=0.0)))
        kept.total += float(errors.sum())
        kept.count += errors.size

    def _are_rows(self, expected: Sequence[Array], found: Sequence[Array]) -> bool:
        alike = all(one.shape == other.shape for one, other in zip(expected, found, strict=True))
        return alike and len({one.shape[:2] for one in expected}) == 1 and expected[0].ndim >= 2

    def _in_order(
        self, expected: Sequence[Array], found: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """Both without rows that have no counterpart, the file's in the source's order."""
        first, second = _as_rows(expected), _as_rows(found)
        scale = np.abs(first).max(axis=(0, 1), initial=1.0)
        kept: list[tuple[list[Array], list[Array]]] = []
        limit = _PAIRED_WITHIN[self._same_within is not None]
        rows = paired = moved = 0
        for image, (one, other) in enumerate(zip(first / scale, second / scale, strict=True)):
            nearest, distances = _nearest(one, other)
            near = distances <= limit
            rows, paired = rows + len(one), paired + int(near.sum())
            moved += int((near & (nearest != np.arange(len(one)))).sum())
            kept.append(
                (
                    [output[image][near] for output in expected],
                    [output[image][nearest[near]] for output in found],
                )
            )
        self._rows, self._paired = self._rows + rows, self._paired + paired
        self._moved += moved + rows - paired
        joined = [
            [np.concatenate([pair[side][index] for pair in kept]) for index in range(len(expected))]
            for side in (0, 1)
        ]
        return joined[0], joined[1]


def _nearest(one: Array, other: Array) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each row of `one` the row of `other` that is nearest by the largest difference."""
    found = np.arange(len(one))
    distances = np.abs(one - other).max(axis=1, initial=0.0)
    for row in np.flatnonzero(distances > FP32_TOLERANCE / 10):
        apart = np.abs(other - one[row]).max(axis=1)
        found[row] = int(apart.argmin())
        distances[row] = apart[found[row]]
    return found, distances


def _as_rows(outputs: Sequence[Array]) -> NDArray[np.float64]:
    return np.concatenate(
        [one.reshape(*one.shape[:2], -1).astype(np.float64) for one in outputs], axis=2
    )


def _names(model: LoadedModel) -> list[str]:
    return [] if model.graph is None else [one.name for one in model.graph.outputs]


def _check_finite(values: Array, problem: str) -> None:
    if not np.isfinite(values).all():
        raise ModelError(f"In the check the {problem}.")
