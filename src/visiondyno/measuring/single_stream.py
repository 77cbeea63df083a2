"""MLPerf's single-stream scenario: one query at a time, the next when the last one is answered.

A query is one encoded image; its latency runs from the moment it is issued to its predictions:
decode, pre-process, inference, post-process. Nothing is clipped or left out after the warm-up.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from visiondyno.measuring.images import EncodedImages
from visiondyno.runtimes.base import LoadedModel

MIN_QUERIES = 64
"""LoadGen's least for its bound on p90 (research: early stopping, d = 0, confidence 0.99)."""

WANTED_QUERIES = 662
"""LoadGen's least for its bound on p99; gone for while it costs at most `_PATIENCE` durations."""

_PATIENCE = 2.0
_WINDOW = 8
_STEADY_WITHIN = 0.05
_WARMUP_PATIENCE = 0.5
_WARMUP_LEAST_S = 1.0

Clock = Callable[[], int]


@dataclass(slots=True)
class StageTimes:
    """Milliseconds of each query, in order of issue; all lists have one length."""

    decode_ms: list[float] = field(default_factory=list)
    preprocess_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    postprocess_ms: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How the warm-up ended.

    Attributes:
        queries: how many it took; they are in no statistic.
        steady: False if the last three windows' medians still lay more than 5 % apart.
    """

    queries: int
    steady: bool


def run_query(
    model: LoadedModel, images: EncodedImages, index: int, times: StageTimes, clock: Clock
) -> None:
    """Answer one query and append its times."""
    start = clock()
    image = images.decode(index)
    decoded = clock()
    prepared = model.preprocess([image])
    ready = clock()
    outputs = model.infer(prepared)
    inferred = clock()
    model.postprocess(outputs, prepared)
    end = clock()
    times.decode_ms.append((decoded - start) / 1e6)
    times.preprocess_ms.append((ready - decoded) / 1e6)
    times.inference_ms.append((inferred - ready) / 1e6)
    times.postprocess_ms.append((end - inferred) / 1e6)
    times.latency_ms.append((end - start) / 1e6)


def warm_up(
    model: LoadedModel,
    images: EncodedImages,
    order: Iterator[int],
    *,
    duration_s: float,
    clock: Clock = time.perf_counter_ns,
) -> WarmUp:
    """Issue queries until the medians of three windows of 8 lie within 5 % of each other.

    Gives up after half of `duration_s`, or one second if that is longer.
    """
    times = StageTimes()
    limit_ns = clock() + int(max(_WARMUP_LEAST_S, duration_s * _WARMUP_PATIENCE) * 1e9)
    medians: list[float] = []
    while True:
        for _ in range(_WINDOW):
            run_query(model, images, next(order), times, clock)
        medians.append(statistics.median(times.inference_ms[-_WINDOW:]))
        last = medians[-3:]
        if len(last) == 3 and max(last) - min(last) <= _STEADY_WITHIN * min(last):
            return WarmUp(len(times.latency_ms), steady=True)
        if clock() > limit_ns:
            return WarmUp(len(times.latency_ms), steady=False)


def run_single_stream(
    model: LoadedModel,
    images: EncodedImages,
    order: Iterator[int],
    *,
    duration_s: float,
    on_query: Callable[[int], None] = lambda _: None,
    clock: Clock = time.perf_counter_ns,
) -> StageTimes:
    """Issue queries for at least `duration_s` and at least 64 of them.

    Goes on to 662 queries, which p99 needs, while that takes at most three durations in all.
    """
    times = StageTimes()
    start = clock()
    least_ns = int(duration_s * 1e9)
    most_ns = int(duration_s * (1 + _PATIENCE) * 1e9)
    while True:
        run_query(model, images, next(order), times, clock)
        queries, elapsed_ns = len(times.latency_ms), clock() - start
        on_query(queries)
        if queries < MIN_QUERIES or elapsed_ns < least_ns:
            continue
        if queries >= WANTED_QUERIES or elapsed_ns >= most_ns:
            return times
