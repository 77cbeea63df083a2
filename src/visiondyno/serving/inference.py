"""What every face of the server (REST, Open Inference Protocol, gRPC) asks: items to answers.

It counts and times them; errors of the pool pass through, counted.
"""

import asyncio
import time
from collections.abc import Sequence

from visiondyno.errors import (
    InputError,
    NotReady,
    RateLimited,
    TimeLimitExceeded,
    VisionDynoError,
)
from visiondyno.serving.metrics import ServingMetrics
from visiondyno.serving.pool import Pool, Predicted
from visiondyno.serving.statistics import Statistics
from visiondyno.serving.wire import Item
from visiondyno.telemetry.traces import Stage, Tracing


class Inference:
    """A pool with its counts, times and spans."""

    def __init__(
        self,
        pool: Pool,
        metrics: ServingMetrics,
        tracing: Tracing,
        statistics: Statistics | None = None,
    ) -> None:
        """`statistics`: those that the pool's `on_batch` tells."""
        self.pool = pool
        self.statistics = statistics or Statistics()
        self._metrics = metrics
        self._tracing = tracing

    async def predict(self, items: Sequence[Item]) -> list[Predicted]:
        """An answer for each item, in order; see `Pool.predict` for what it raises."""
        started = time.monotonic()
        predicted: list[Predicted] | None = None
        try:
            predicted = await self._predict(items)
        finally:
            took_ms = (time.monotonic() - started) * 1e3
            self.statistics.request_done(items, predicted, took_ms)
        return predicted

    def refused(self, error: Exception) -> None:
        """Count an item that was refused before it could be asked for."""
        of_the_client = isinstance(error, InputError) or not isinstance(error, VisionDynoError)
        outcome = _outcome(error)
        if outcome == "server_error" and of_the_client:
            outcome = "client_error"
        self._metrics.ended(outcome)

    async def _predict(self, items: Sequence[Item]) -> list[Predicted]:
        try:
            predicted = await self.pool.predict(items)
        except asyncio.CancelledError:
            self._metrics.ended("gone", len(items))
            raise
        except VisionDynoError as error:
            self._metrics.ended(_outcome(error), len(items))
            raise
        for one in predicted:
            status = one.answer.status
            if status < 400:
                self._metrics.ended("ok")
                self._metrics.timed(one.answer.stages, one.queue_ms, one.total_ms)
            else:
                self._metrics.ended("client_error" if status < 500 else "server_error")
        if self._tracing.is_on:
            self._tracing.record_stages(stages_of(predicted[0]))
        return predicted


def server_timing(predicted: Sequence[Predicted]) -> str:
    """The `Server-Timing` header (W3C), ms: of several items the slowest of each stage."""
    each = [
        {
            "queue": one.queue_ms,
            "decode": one.answer.stages.decode_ms,
            "preprocess": one.answer.stages.preprocess_ms,
            "inference": one.answer.stages.inference_ms,
            "postprocess": one.answer.stages.postprocess_ms,
            "total": one.total_ms,
        }
        for one in predicted
    ]
    parts = [f"{stage};dur={max(one[stage] for one in each):.3f}" for stage in each[0]]
    start = next((one.start for one in predicted if one.start is not None), None)
    if start is not None:
        parts += (
            f"start-process;dur={start.process_ms:.1f}",
            f"start-load;dur={start.load_ms:.1f}",
            f"start-first-inference;dur={start.first_inference_ms:.1f}",
        )
    return ", ".join(parts)


def stages_of(one: Predicted) -> list[Stage]:
    """Where an item's time went, as parts of its request's span, on the wall clock."""
    stages = one.answer.stages
    at_s = time.time() - one.total_ms / 1e3
    found = []
    for name, took_ms in (
        ("queue", one.queue_ms),
        ("decode", stages.decode_ms),
        ("preprocess", stages.preprocess_ms),
        ("inference", stages.inference_ms),
        ("postprocess", stages.postprocess_ms),
    ):
        found.append(Stage(name, at_s, at_s + took_ms / 1e3))
        at_s += took_ms / 1e3
    return found


def _outcome(error: Exception) -> str:
    if isinstance(error, TimeLimitExceeded):
        return "time_limit"
    return "rejected" if isinstance(error, RateLimited | NotReady) else "server_error"
