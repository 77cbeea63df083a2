"""`score_submission`: a stranger's model, run in the sandbox and scored outside it.

The confined child gets the model, the images and nothing else. Labels, the split and the scoring
rule stay here; what the child answers is checked before it is used.
"""

import base64
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visiondyno.datasets.base import Dataset
from visiondyno.errors import OperationFailed
from visiondyno.operations.confined_model import ConfinedRun, predict_confined
from visiondyno.operations.context import OperationContext
from visiondyno.operations.scoring import ScoringRules, map_predictions, score_predictions
from visiondyno.operations.verified_data import open_verified
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.predictions import Predictions
from visiondyno.specs.evaluation_task import EvaluationTask, SplitName
from visiondyno.specs.operations import ScoreSubmissionInput
from visiondyno.vision.accuracy import Accuracy


def run(spec: ScoreSubmissionInput, context: OperationContext) -> dict[str, Any]:
    """Score the model on each part of the task's images.

    Returns:
        `task`, `metric`, `model`, `images`, and `splits`: part → `images`, `score`, `low`, `high`,
        `measures` (by name, as JSON) and `paired` (base64 of little-endian float32: the metric in
        each half-sample of the part's images, the same half-samples for every model); then
        `protections` (name → `held`, `how`), `description` of the model, `predict_s`, `total_s`
        and `notes`.

    Raises:
        ModelError: the model is refused, can't be run or scored; the message is for its author.
        TimeLimitExceeded: it took longer than the task allows.
        ChildDied: its process crashed.
        NotFound, TransportDown: the model's blob can't be had.
        DatasetError: the task's data can't be read.
    """
    start_s = time.monotonic()
    task = spec.task
    with tempfile.TemporaryDirectory(prefix="visiondyno-submission-") as folder:
        context.progress("fetching the model")
        model = WorkerFiles.of_this_worker(spec.blobs_url).fetch(
            spec.model, spec.file_name, context.check
        )
        dataset = _open(task, context)
        file = Path(folder) / "predictions.npz"
        found = predict_confined(spec, dataset, context, model, file)
        context.progress("scoring")
        splits = _score(task, dataset, found)
    return {
        "operation": "score_submission",
        "status": "success",
        "task": task.name,
        "metric": task.metric.name,
        "model": spec.model,
        "images": len(dataset),
        "splits": splits,
        "protections": {name: held.model_dump() for name, held in found.protections.items()},
        "description": found.description.model_dump(mode="json", by_alias=True),
        "predict_s": found.predict_s,
        "total_s": time.monotonic() - start_s,
        "notes": [*dataset.notes, *found.mapping.notes],
    }


def _open(task: EvaluationTask, context: OperationContext) -> Dataset:
    dataset = open_verified(task.data, skip_bad=False, max_images=task.images, context=context)
    if task.images is not None and len(dataset) != task.images:
        raise OperationFailed(
            f"Task {task.name} is for {task.images} images and {task.data} has {len(dataset)}; "
            "correct the task's file.",
            stage="data",
        )
    return dataset


def _score(
    task: EvaluationTask, dataset: Dataset, found: ConfinedRun
) -> dict[SplitName, dict[str, Any]]:
    # What an output means and how it is aligned is the task's rule, whatever the model says.
    card = found.description.card.model_copy(update={"depth": task.depth})
    mapped = map_predictions(found.mapping, found.predictions, card)
    rules = ScoringRules(None, task.resamples, task.seed)
    splits: dict[SplitName, dict[str, Any]] = {}
    for name, indices in task.parts(len(dataset)).items():
        others = set(range(len(dataset))) - set(indices)
        part = dataset.without(dict.fromkeys(others, "of the other part")) if others else dataset
        accuracy = score_predictions(part, card, found.mapping, _Part(mapped, indices), rules)
        splits[name] = _as_json(accuracy, task)
    return splits


class _Part(Sequence[Predictions]):
    """Some of the predictions, each read when it is asked for."""

    def __init__(self, whole: Sequence[Predictions], indices: Sequence[int]) -> None:
        self._whole = whole
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._whole[self._indices[index]]


def _as_json(accuracy: Accuracy, task: EvaluationTask) -> dict[str, Any]:
    metric = task.metric.name
    measure = accuracy.measures[metric]
    if measure.value is None:
        raise OperationFailed(
            f"The metric of task {task.name} has no value on its data: {measure.reason}",
            stage="score",
        )
    low, high = measure.interval or (None, None)
    resampled = accuracy.resampled.get(metric)
    return {
        "images": accuracy.n_images,
        "score": measure.value,
        "low": low,
        "high": high,
        "measures": {name: one.model_dump(mode="json") for name, one in accuracy.measures.items()},
        "paired": None
        if resampled is None
        else base64.b64encode(resampled.astype("<f4").tobytes()).decode(),
    }
