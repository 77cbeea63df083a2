"""What rows and times of the local queue's file mean."""

import json
import math
from collections.abc import Sequence
from typing import Any

from visiondyno.executors.queue import LONGEST_BACKOFF_S, read_answer
from visiondyno.job import JobEvent, JobState


def event_of(row: Sequence[Any]) -> JobEvent:
    """An event from `(job_id, number, state, progress, answer)`."""
    job_id, number, state, progress, text = row
    answer = None if text is None else read_answer(job_id, text)
    return JobEvent(
        job_id=job_id,
        number=number,
        state=JobState(state) if answer is None else answer.status,
        progress=None if progress is None else json.loads(progress),
        answer=answer,
    )


def backoffs(now: float) -> tuple[float, float]:
    """Between these lies `not_before` of a job in backoff; a later one is of a clock set back."""
    return math.nextafter(now, math.inf), now + LONGEST_BACKOFF_S


def whole_ms(seconds: float) -> int:
    """Milliseconds, never below 0."""
    return max(0, round(seconds * 1000))
