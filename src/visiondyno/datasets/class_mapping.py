"""Which class of the data a model's class is.

Three steps, each only for what the ones before left open: the same name; the same name but for
case, spaces, underscores and hyphens; a synonym of `SYNONYMS`. Whatever isn't the same name is
noted, so that a report can show it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import overload

import numpy as np

from visiondyno.errors import ClassMismatch
from visiondyno.predictions import (
    Classification,
    DepthMap,
    Detections,
    IntArray,
    Predictions,
)

SYNONYMS: tuple[frozenset[str], ...] = (
    frozenset({"motorbike", "motorcycle"}),
    frozenset({"aeroplane", "airplane"}),
    frozenset({"tvmonitor", "tv", "television"}),
    frozenset({"sofa", "couch"}),
    frozenset({"person", "pedestrian"}),
    frozenset({"hairdrier", "hairdryer"}),
    frozenset({"donut", "doughnut"}),
    frozenset({"cellphone", "mobilephone"}),
    frozenset({"truck", "lorry"}),
)
"""Names of one thing in Pascal VOC, COCO and the like, as `_plain` writes them. Names that mean
different things in different data sets (bike, rider, van, sign) are left out on purpose."""

_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True, eq=False)
class ClassMapping:
    """How a model's classes stand for a data set's.

    Attributes:
        model_classes: the model's names.
        dataset_classes: the data set's names.
        scored: names of the data set's classes that are scored, in its order.
        to_dataset: (model classes,) int64: index into `dataset_classes`, or -1 for a class that
            the data doesn't have. Classes that aren't scored keep their index.
        notes: whatever a reader of the report must know.
    """

    model_classes: tuple[str, ...]
    dataset_classes: tuple[str, ...]
    scored: tuple[str, ...]
    to_dataset: IntArray
    notes: tuple[str, ...]

    @property
    def scored_ids(self) -> IntArray:
        """(scored,) int64: indices of the scored classes in `dataset_classes`."""
        return np.array([self.dataset_classes.index(name) for name in self.scored], np.int64)


def map_classes(
    model_classes: Sequence[str],
    dataset_classes: Sequence[str],
    requested: Sequence[str] | None = None,
    *,
    counts: Mapping[str, int] | None = None,
) -> ClassMapping:
    """Match a model's classes to a data set's.

    Args:
        model_classes: the model's names, class 0 first.
        dataset_classes: the data set's names, class 0 first.
        requested: score these classes of the data only; all of them if None.
        counts: labels of each data class. A class without any label needs no counterpart in the
            model: it is left out. If None, each class is taken to have labels.

    Neither has classes where the task is depth: then nothing is matched.

    Raises:
        ClassMismatch: a class to score has no counterpart in the model, a requested class isn't
            in the data, or no class to score has a label.
    """
    notes: list[str] = []
    if not model_classes and not dataset_classes and requested is None:
        return ClassMapping((), (), (), np.zeros(0, np.int64), ())
    wanted = _wanted(requested, dataset_classes, notes)
    to_dataset = _match(model_classes, dataset_classes, notes)
    matched = {dataset_classes[index] for index in to_dataset if index >= 0}
    labelled = [name for name in wanted if counts is None or counts.get(name, 0) > 0]
    if not labelled:
        raise ClassMismatch(
            f"None of the classes to score has a label in the data: {_listed(wanted)}. "
            "Choose other classes"
        )
    missing = [name for name in labelled if name not in matched]
    if missing:
        raise _mismatch(missing, model_classes, dataset_classes, matched)
    _note_left_out(wanted, matched, model_classes, to_dataset, notes)
    return ClassMapping(
        model_classes=tuple(model_classes),
        dataset_classes=tuple(dataset_classes),
        scored=tuple(name for name in wanted if name in matched),
        to_dataset=np.array(to_dataset, np.int64),
        notes=tuple(notes),
    )


@overload
def apply(mapping: ClassMapping, predictions: Detections) -> Detections: ...
@overload
def apply(mapping: ClassMapping, predictions: Classification) -> Classification: ...
@overload
def apply(mapping: ClassMapping, predictions: DepthMap) -> DepthMap: ...
def apply(mapping: ClassMapping, predictions: Predictions) -> Predictions:
    """Predictions of the model, in the data set's classes.

    Detections: those of classes that aren't scored are dropped; order is kept.
    Classification: probabilities of model classes that stand for one data class are added, those
    of classes the data doesn't have are dropped, and data classes the model doesn't have get 0.
    Classes that aren't scored stay, since naming one of them is a wrong answer too. The result is
    **not** scaled to sum to 1 again: what the model gave to dropped classes stays visible.
    Depth has no classes and stays as it is.
    """
    if isinstance(predictions, DepthMap):
        return predictions
    if isinstance(predictions, Detections):
        class_ids = mapping.to_dataset[predictions.class_ids]
        kept = np.isin(class_ids, mapping.scored_ids)
        return Detections(predictions.boxes_xyxy[kept], predictions.scores[kept], class_ids[kept])
    probabilities = np.zeros(len(mapping.dataset_classes), np.float32)
    known = mapping.to_dataset >= 0
    np.add.at(probabilities, mapping.to_dataset[known], predictions.probabilities[known])
    return Classification(probabilities)


def _plain(name: str) -> str:
    """A name without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _synonyms(name: str) -> frozenset[str]:
    plain = _plain(name)
    return next((group for group in SYNONYMS if plain in group), frozenset({plain}))


def _match(
    model_classes: Sequence[str], dataset_classes: Sequence[str], notes: list[str]
) -> list[int]:
    exact = {name: index for index, name in enumerate(dataset_classes)}
    by_plain: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(dataset_classes):
        by_plain[_plain(name)].append(index)
    result = []
    for name in model_classes:
        index = exact.get(name, -1)
        if index < 0:
            index = _unique(by_plain, [_plain(name)])
            how = "spelling aside"
        if index < 0:
            index = _unique(by_plain, sorted(_synonyms(name)))
            how = "a synonym"
        if index >= 0 and dataset_classes[index] != name:
            notes.append(
                f"Model class '{name}' is taken for '{dataset_classes[index]}' of the data ({how})"
            )
        result.append(index)
    for index in sorted({index for index in result if index >= 0 and result.count(index) > 1}):
        several = [name for name, to in zip(model_classes, result, strict=True) if to == index]
        notes.append(
            f"Model classes {_listed(several)} all count as '{dataset_classes[index]}' of the data"
        )
    return result


def _unique(by_plain: Mapping[str, list[int]], plain_names: Sequence[str]) -> int:
    """The only data class of any of these names; -1 for none, and for several: no guess."""
    found = [index for name in plain_names for index in by_plain.get(name, ())]
    return found[0] if len(found) == 1 else -1


def _wanted(
    requested: Sequence[str] | None, dataset_classes: Sequence[str], notes: list[str]
) -> list[str]:
    """Requested names as the data writes them, in the data's order."""
    if requested is None:
        return list(dataset_classes)
    chosen = set()
    for name in requested:
        found = [known for known in dataset_classes if known == name] or [
            known for known in dataset_classes if _plain(known) == _plain(name)
        ]
        if len(found) != 1:
            raise _unknown_class(name, dataset_classes)
        if found[0] != name:
            notes.append(f"Requested class '{name}' is '{found[0]}' in the data")
        chosen.add(found[0])
    return [name for name in dataset_classes if name in chosen]


def _unknown_class(name: str, dataset_classes: Sequence[str]) -> ClassMismatch:
    by_plain = {_plain(known): known for known in dataset_classes}
    near = get_close_matches(_plain(name), by_plain, n=3)
    near += [plain for plain in by_plain if plain in _synonyms(name) and plain not in near]
    hint = f" Did you mean {_listed([by_plain[plain] for plain in near])}?" if near else ""
    return ClassMismatch(
        f"The data has no class '{name}'.{hint} Its classes: {_listed(dataset_classes)}"
    )


def _mismatch(
    missing: Sequence[str],
    model_classes: Sequence[str],
    dataset_classes: Sequence[str],
    matched: set[str],
) -> ClassMismatch:
    common = [name for name in dataset_classes if name in matched]
    advice = (
        f'Score what both have with --classes "{",".join(common)}"'
        if common
        else "They have no class in common: this model can't be scored on this data"
    )
    return ClassMismatch(
        f"The model lacks {_listed(missing)} of the data. "
        f"Model: {_listed(model_classes)}; data: {_listed(dataset_classes)}. {advice}"
    )


def _note_left_out(
    wanted: Sequence[str],
    matched: set[str],
    model_classes: Sequence[str],
    to_dataset: Sequence[int],
    notes: list[str],
) -> None:
    unlabelled = [name for name in wanted if name not in matched]
    if unlabelled:
        notes.append(
            "Data classes without a label that the model lacks aren't scored: "
            f"{_listed(unlabelled)}"
        )
    dropped = [name for name, to in zip(model_classes, to_dataset, strict=True) if to < 0]
    if dropped:
        notes.append(
            "Predictions of model classes that the data doesn't have are dropped: "
            f"{_listed(dropped)}"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
