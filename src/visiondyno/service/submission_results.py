"""What is kept of a scored submission, and what is shown of it: the part of the images that ranks.

The score on the private part is kept from the start and shown only after the task's deadline; the
half-samples that pair models are for the leaderboard and never shown.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from visiondyno.service.leaderboard import Scored
from visiondyno.specs.evaluation_task import EvaluationTask, SplitName
from visiondyno.store.records import SubmissionRecord, SubmissionState

_KEPT = ("splits", "predict_s", "protections", "description", "notes")


class SplitScore(BaseModel):
    """The score on one part of the images; see `operations.score_submission`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int
    score: float
    low: float | None
    high: float | None
    measures: dict[str, dict[str, Any]]
    paired: str | None

    def half_samples(self) -> "np.ndarray[Any, np.dtype[np.float32]] | None":
        """(resamples,) the metric in each half-sample, or None where they weren't kept."""
        if self.paired is None:
            return None
        try:
            return np.frombuffer(base64.b64decode(self.paired, validate=True), "<f4")
        except (binascii.Error, ValueError):
            return None


def kept_metrics(output: Mapping[str, Any]) -> dict[str, Any]:
    """What of an operation's output is kept with the submission."""
    return {name: output[name] for name in _KEPT if name in output}


def split_score(record: SubmissionRecord, name: SplitName) -> SplitScore | None:
    """The score on a part; None where the submission has none (its task was another then)."""
    try:
        return SplitScore.model_validate(record.metrics.get("splits", {}).get(name))
    except ValidationError:
        return None


def as_shown(record: SubmissionRecord, task: EvaluationTask, now_s: float) -> SubmissionRecord:
    """The submission with the score and the measures that may be seen now.

    Its `metrics` hold the measures by name, and beside them `split`, `images`, `predict_s`,
    `protections`, `description` and `notes`.
    """
    if record.state != SubmissionState.COMPLETED:
        return record
    name = task.ranking_split(now_s)
    found = split_score(record, name)
    about = {key: record.metrics[key] for key in _KEPT[1:] if key in record.metrics}
    if found is None:
        return replace(record, score=None, low=None, high=None, metrics=about)
    metrics = {**found.measures, "split": name, "images": found.images, **about}
    return replace(record, score=found.score, low=found.low, high=found.high, metrics=metrics)


def as_scored(record: SubmissionRecord, task: EvaluationTask, now_s: float) -> Scored | None:
    """The submission for the leaderboard; None if it has no score on the part that ranks."""
    found = split_score(record, task.ranking_split(now_s))
    if record.state != SubmissionState.COMPLETED or found is None:
        return None
    return Scored(
        submission_id=record.id,
        group=f"{record.owner or ''}/{record.name}",
        name=record.name,
        score=found.score,
        low=found.low,
        high=found.high,
        n_images=found.images,
        submitted_at=record.created_at,
        paired=found.half_samples(),
    )
