"""What every face of the server (REST, Open Inference Protocol, gRPC) asks: items to answers.

It counts and times them; errors of the pool pass through, counted.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

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

    def begin(
        self, item: Item, on_end: Callable[[Predicted | BaseException], None]
    ) -> Callable[[], None]:
        """`predict` of one item without a task.

        Args:
            item: what is asked for.
            on_end: called with the answer, or with what `predict` would raise; not after giving up.

        Returns:
            What gives it up: nobody would read the answer.

        Raises:
            RateLimited, NotReady: as `Pool.predict`; nothing is counted then.
        """
        started = time.monotonic()
        begun = self.pool.begin((item,))

        def ended(done: "asyncio.Future[Predicted]") -> None:
            self.pool.ended(begun)
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            took_ms = (time.monotonic() - started) * 1e3
            self.statistics.request_done((item,), None if error else (done.result(),), took_ms)
            if error is None:
                self._count(done.result())
                on_end(done.result())
            elif isinstance(error, asyncio.CancelledError):
                self._metrics.ended("gone")
            else:
                self._metrics.ended(_outcome(error))
                on_end(error)

        def give_up() -> None:
            begun.each[0].cancel()

        begun.each[0].add_done_callback(ended)
        return give_up

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
            self._count(one)
        if self._tracing.is_on:
            self._tracing.record_stages(stages_of(predicted[0]))
        return predicted

    def _count(self, one: Predicted) -> None:
        status = one.answer.status
        if status < 400:
            self._metrics.ended("ok")
            self._metrics.timed(one.answer.stages, one.queue_ms, one.total_ms)
        else:
            self._metrics.ended("client_error" if status < 500 else "server_error")


_TIMING = (
    "queue;dur=%.3f, decode;dur=%.3f, preprocess;dur=%.3f, inference;dur=%.3f, "
    "postprocess;dur=%.3f, total;dur=%.3f"
)
_START_TIMING = ", start-process;dur=%.1f, start-load;dur=%.1f, start-first-inference;dur=%.1f"


def server_timing(predicted: Sequence[Predicted]) -> str:
    """The `Server-Timing` header (W3C), ms: of several items the slowest of each stage."""
    each = [_times(one) for one in predicted]
    slowest = each[0] if len(each) == 1 else tuple(max(stage) for stage in zip(*each, strict=True))
    header = _TIMING % slowest
    for one in predicted:
        if one.start is not None:
            start = one.start
            return header + _START_TIMING % (
                start.process_ms,
                start.load_ms,
                start.first_inference_ms,
            )
    return header


def _times(one: Predicted) -> tuple[float, ...]:
    stages = one.answer.stages
    return (
        one.queue_ms,
        stages.decode_ms,
        stages.preprocess_ms,
        stages.inference_ms,
        stages.postprocess_ms,
        one.total_ms,
    )


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


def _outcome(error: BaseException) -> str:
    if isinstance(error, TimeLimitExceeded):
        return "time_limit"
    return "rejected" if isinstance(error, RateLimited | NotReady) else "server_error"
