"""What a file that was made answers, found in a child process: its crash is only the child's.

`run_in_child` calls `answer`; inputs, and what the source answered, come by files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.measuring.prediction_files import save_predictions
from visiondyno.operations.model_agreement import CONFIDENCE, matches
from visiondyno.operations.onnx_files import FP32_TOLERANCE
from visiondyno.predictions import Detections
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import HeadName
from visiondyno.vision.preprocess import Geometry, PreparedBatch

Array = NDArray[Any]

_ORDERED = frozenset({"end_to_end", "detr", "boxes_scores_classes"})
"""Heads whose rows come in the order of scores: two nearly equal ones may change places."""
_LEAST_PAIRED = 0.8
"""Share of all rows that must have their counterpart. At the cut-off others may come in, and where
queries look at each other, one that is another changes all of its image's a little."""
_PAIRED_WITHIN = {True: FP32_TOLERANCE, False: 0.1}
"""Of the largest number of its output, by whether the same numbers are wanted."""
_LEAST_SURE = 0.95
"""Share of the boxes from `CONFIDENCE` on that must be found again where the same are wanted: most
rows are of nothing, so that their share says little of those that matter."""
_SAME_SCORE = 0.05
_COLUMNS: dict[HeadName, int] = {"yolov8": 1, "yolov5": 2, "yolox": 2}
"""Axis along which an output holds pixels beside scores, each to be judged by its own size."""


@dataclass
class _Difference:
    """What is summed up of one output.

    Attributes:
        apart: largest difference of each column, or of all numbers together.
        sizes: of the same, the source's largest.
    """

    total: float = 0.0
    count: int = 0
    comparable: bool = True
    apart: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def add(self, values: Array, errors: Array | None, column_axis: int | None) -> None:
        """Numbers of the source, and how far the file's are off; None: they aren't alike."""
        axis = column_axis if column_axis is not None and column_axis < values.ndim else None
        others = tuple(one for one in range(values.ndim) if one != axis)
        sizes = np.abs(values).max(axis=others, initial=0.0)
        self.sizes = np.maximum(self.sizes, sizes)
        if errors is None:
            self.comparable = False
            return
        self.apart = np.maximum(self.apart, errors.max(axis=others, initial=0.0))
        self.total += float(errors.sum())
        self.count += errors.size


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
        ModelError: it can't be loaded or run, answers other shapes, NaN or infinity; or, where the
            same numbers are wanted, others.
    """
    folder = Path(payload["folder"])
    with load_model(payload["model"], LoadOptions(device=payload["device"])) as model:
        compared = _Compared(model, payload["same_within"])
        for tensor, expected in _tensors(folder):
            compared.add(tensor, expected, model.infer(PreparedBatch(tensor, ())))
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
        card = model.description.card
        self._is_ordered = card.head in _ORDERED
        self._column_axis = _COLUMNS.get(card.head)
        wants_boxes = same_within is not None and card.task == "detection"
        self._boxes = _SureBoxes(model) if wants_boxes else None
        self._differences: list[_Difference] = []
        self._rows = self._paired = self._moved = 0

    def add(self, tensor: Array, expected: Sequence[Array], found: Sequence[Array]) -> None:
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
        alike = self._are_alike(expected, found)
        if alike and self._boxes is not None:
            self._boxes.add(tensor, expected, found)
        if alike and self._is_ordered and self._are_rows(expected):
            expected, found = self._in_order(expected, found)
        for kept, one, other in zip(self._differences, expected, found, strict=True):
            self._compare(kept, one, other)

    def outputs(self) -> list[dict[str, Any]]:
        """Each output's differences.

        Raises:
            ModelError: the same numbers are wanted, and too many rows or boxes have no counterpart,
                or a number is another.
        """
        if self._boxes is not None:
            self._boxes.require_found()
        if self._same_within is not None and self._paired < _LEAST_PAIRED * self._rows:
            raise ModelError(
                f"Only {self._paired} of the {self._rows} rows that the source answers are among "
                "the file's; it can't be used in its place. (Of weights that have learned nothing, "
                "rows can't be told apart: export trained ones.)"
            )
        names = [*self._names, *(f"output {n}" for n in range(len(self._differences)))]
        named = list(zip(names, self._differences, strict=False))
        for name, one in named:
            self._require_same(name, one)
        return [
            {
                "name": name,
                "max_abs_difference": float(one.apart.max()) if one.comparable else None,
                "mean_abs_difference": one.total / max(one.count, 1) if one.comparable else None,
                "max_abs_source": float(one.sizes.max()),
            }
            for name, one in named
        ]

    def _require_same(self, name: str, one: _Difference) -> None:
        if self._same_within is None:
            return
        over = one.apart - self._same_within * np.maximum(one.sizes, 1.0)
        worst = int(over.argmax())
        if over[worst] > 0:
            column = f", column {worst}," if over.size > 1 else ""
            raise ModelError(
                f"The file's output '{name}'{column} differs by up to {one.apart[worst]:.3g} from "
                f"its source's, whose largest is {one.sizes[worst]:.3g}; it can't be used in its "
                "place."
            )

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
        if one.shape != other.shape:
            if self._same_within is not None or one.ndim != other.ndim:
                raise ModelError(
                    f"The file answers shape {other.shape}, and its source {one.shape}; it can't "
                    "be used in its place."
                )
            kept.add(values, None, self._column_axis)
            return
        kept.add(values, np.abs(values - others), self._column_axis)

    def _are_alike(self, expected: Sequence[Array], found: Sequence[Array]) -> bool:
        return all(one.shape == other.shape for one, other in zip(expected, found, strict=True))

    def _are_rows(self, expected: Sequence[Array]) -> bool:
        return len({one.shape[:2] for one in expected}) == 1 and expected[0].ndim >= 2

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


class _SureBoxes:
    """Of the boxes that the source is sure of, how many the file finds, from the same tensors."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._count = self._found = 0

    def add(self, tensor: Array, expected: Sequence[Array], found: Sequence[Array]) -> None:
        """One batch's outputs, of the same shapes."""
        is_nchw = self._model.description.card.input.layout == "nchw"
        height, width = tensor.shape[2:] if is_nchw else tensor.shape[1:3]
        geometry = Geometry(1.0, 1.0, 0.0, 0.0, width, height)
        batch = PreparedBatch(tensor, (geometry,) * len(tensor))
        source = self._model.postprocess(list(expected), batch, confidence=CONFIDENCE)
        # Lower, as a score on the edge may fall to its other side.
        made = self._model.postprocess(list(found), batch, confidence=CONFIDENCE - _SAME_SCORE)
        for one, other in zip(source, made, strict=True):
            assert isinstance(one, Detections)
            assert isinstance(other, Detections)
            pairs = matches(one, other, np.arange(len(one)))
            self._count += len(one)
            self._found += sum(
                abs(float(one.scores[box]) - float(other.scores[match])) <= _SAME_SCORE
                for box, match in pairs
            )

    def require_found(self) -> None:
        """Refuse a file that misses more than a few of them.

        Raises:
            ModelError: says how many.
        """
        if self._found < _LEAST_SURE * self._count:
            raise ModelError(
                f"Only {self._found} of the {self._count} boxes that the source is sure of (score "
                f"{CONFIDENCE:g} and more) are among the file's; it can't be used in its place."
            )


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
