"""Predictions as an .npz file: how they leave a child process (arrays only, never a pickle)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visiondyno.predictions import Classification, Detections, Predictions


def save_predictions(path: Path, predictions: Sequence[Predictions]) -> None:
    """Write predictions of one task, in order."""
    if predictions and isinstance(predictions[0], Classification):
        probabilities = [p.probabilities for p in predictions if isinstance(p, Classification)]
        np.savez(path, probabilities=np.stack(probabilities))
        return
    found = [p for p in predictions if isinstance(p, Detections)]
    pieces = found or [Detections()]  # concatenation needs at least one
    np.savez(
        path,
        counts=np.array([len(d) for d in found], np.int64),
        boxes_xyxy=np.concatenate([d.boxes_xyxy for d in pieces]),
        scores=np.concatenate([d.scores for d in pieces]),
        class_ids=np.concatenate([d.class_ids for d in pieces]),
    )


def load_predictions(path: Path) -> list[Predictions]:
    """Read what `save_predictions` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
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
