"""Predictions as an .npz file: how they leave a child process (arrays only, never a pickle).

Depth maps are written one at a time and read when asked for, float32 as the model gave them: a
set of them can be larger than memory.
"""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import overload

import numpy as np
from numpy.lib import format as npy

from visiondyno.predictions import Classification, DepthMap, Detections, Predictions

_DEPTH = "depth_{:06d}"


class DepthMapFile(Sequence[Predictions]):
    """The depth maps of an .npz file, each read when it is asked for.

    The file stays open until the last reference goes, so that it may be deleted meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path, allow_pickle=False)
        self._count = len(self._arrays.files)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Predictions: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Predictions]: ...
    def __getitem__(self, index: int | slice) -> Predictions | Sequence[Predictions]:
        """The map at `index`, read anew each time; a list of a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"depth map {index} of {self._count}")
        return DepthMap(self._arrays[_DEPTH.format(index % self._count)])


def save_predictions(path: Path, predictions: Iterable[Predictions]) -> None:
    """Write predictions of one task, in order; depth maps as they come, holding one at a time."""
    rest = iter(predictions)
    first = next(rest, None)
    if isinstance(first, DepthMap):
        _save_depth(path, chain([first], rest))
        return
    found = [] if first is None else [first, *rest]
    if isinstance(first, Classification):
        probabilities = [p.probabilities for p in found if isinstance(p, Classification)]
        np.savez(path, probabilities=np.stack(probabilities))
        return
    _save_detections(path, [p for p in found if isinstance(p, Detections)])


def load_predictions(path: Path) -> Sequence[Predictions]:
    """Read what `save_predictions` wrote; depth maps lazily, see `DepthMapFile`."""
    with np.load(path, allow_pickle=False) as arrays:
        if _DEPTH.format(0) in arrays:
            return DepthMapFile(path)
        if "probabilities" in arrays:
            return [Classification(row) for row in arrays["probabilities"]]
        ends = np.cumsum(arrays["counts"])[:-1]
        return [
            Detections(boxes, scores, ids)
            for boxes, scores, ids in zip(
                np.split(arrays["boxes_xyxy"], ends),
                np.split(arrays["scores"], ends),
                np.split(arrays["class_ids"], ends),
                strict=True,
            )
        ]


def _save_detections(path: Path, found: list[Detections]) -> None:
    pieces = found or [Detections()]  # concatenation needs at least one
    np.savez(
        path,
        counts=np.array([len(d) for d in found], np.int64),
        boxes_xyxy=np.concatenate([d.boxes_xyxy for d in pieces]),
        scores=np.concatenate([d.scores for d in pieces]),
        class_ids=np.concatenate([d.class_ids for d in pieces]),
    )


def _save_depth(path: Path, maps: Iterator[Predictions]) -> None:
    # As `np.savez` does it, which would hold all arrays at once. Not compressed: that would take
    # the accuracy pass several times as long as it takes to infer.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for index, found in enumerate(maps):
            assert isinstance(found, DepthMap)
            with archive.open(f"{_DEPTH.format(index)}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, found.depth.astype(np.float32, copy=False))
