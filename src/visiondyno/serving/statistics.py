"""Counts and times of each model, as Triton's statistics extension has them.

Requests are counted when they end; runs of the model when their batch comes back from its replica.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from visiondyno.api.deferred import Deferred
from visiondyno.serving.pool import Predicted
from visiondyno.serving.wire import Answer, Item, Kind, Stages

_NS = 1_000_000
_NEVER = {"count": 0, "ns": 0}


@dataclass(slots=True)
class _Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, took_ms: float) -> None:
        self.count += 1
        self.ns += round(took_ms * _NS)

    def as_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class _Compute:
    """The three parts of a run: input, inference, output."""

    input: _Duration = field(default_factory=_Duration)
    infer: _Duration = field(default_factory=_Duration)
    output: _Duration = field(default_factory=_Duration)

    def add(self, stages: Sequence[Stages]) -> None:
        """Of several the slowest: they were side by side."""
        if len(stages) == 1:
            (one,) = stages
            self.input.add(one.decode_ms + one.preprocess_ms)
            self.infer.add(one.inference_ms)
            self.output.add(one.postprocess_ms)
            return
        self.input.add(max(one.decode_ms + one.preprocess_ms for one in stages))
        self.infer.add(max(one.inference_ms for one in stages))
        self.output.add(max(one.postprocess_ms for one in stages))

    def as_json(self) -> dict[str, Any]:
        return {
            "compute_input": self.input.as_json(),
            "compute_infer": self.infer.as_json(),
            "compute_output": self.output.as_json(),
        }


class ModelStatistics:
    """Of one model since the server's start."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._inferences = 0
        self._executions = 0
        self._success = _Duration()
        self._fail = _Duration()
        self._queue = _Duration()
        self._compute = _Compute()
        self._batches: dict[int, _Compute] = {}

    def succeeded(self, predicted: Sequence[Predicted], now_ms: int) -> None:
        """A request got its answer."""
        self._last_ms = now_ms
        self._inferences += sum(one.answer.rows for one in predicted)
        self._success.add(max(one.total_ms for one in predicted))
        self._queue.add(max(one.queue_ms for one in predicted))
        self._compute.add([one.answer.stages for one in predicted])

    def failed(self, took_ms: float, now_ms: int) -> None:
        """A request ended without one."""
        self._last_ms = now_ms
        self._fail.add(took_ms)

    def ran(self, rows: int, stages: Stages) -> None:
        """The model was run on so many rows."""
        self._executions += 1
        self._batches.setdefault(rows, _Compute()).add([stages])

    def as_json(self) -> dict[str, Any]:
        """Triton's `$model_stat`, without name and version. There is no cache to hit or miss."""
        return {
            "last_inference": self._last_ms,
            "inference_count": self._inferences,
            "execution_count": self._executions,
            "inference_stats": {
                "success": self._success.as_json(),
                "fail": self._fail.as_json(),
                "queue": self._queue.as_json(),
                **self._compute.as_json(),
                "cache_hit": _NEVER,
                "cache_miss": _NEVER,
            },
            "batch_stats": [
                {"batch_size": rows, **compute.as_json()}
                for rows, compute in sorted(self._batches.items())
            ],
        }


class Statistics:
    """Of the graph, which takes tensors, and of the model that takes images. On the event loop.

    What happened is noted, and added up when somebody looks, or there is much of it: see
    `api.deferred`. Of an item only its kind is kept, never what it holds.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` gives seconds since the epoch."""
        self._wall_clock = wall_clock
        self._graph = ModelStatistics()
        self._images = ModelStatistics()
        self._deferred = Deferred()

    @property
    def graph(self) -> ModelStatistics:
        """Of the graph itself."""
        self._deferred.flush()
        return self._graph

    @property
    def images(self) -> ModelStatistics:
        """Of predictions for images."""
        self._deferred.flush()
        return self._images

    def batch_done(self, items: Sequence[Item], answers: Sequence[Answer]) -> None:
        """A batch came back from its replica."""
        self._deferred.later(self._batch_done, self._of(items), answers)

    @staticmethod
    def _batch_done(of: ModelStatistics, answers: Sequence[Answer]) -> None:
        runs: dict[int, tuple[int, Stages]] = {}
        for one in answers:
            if one.rows:
                before, _ = runs.get(one.run, (0, one.stages))
                runs[one.run] = (before + one.rows, one.stages)
        for rows, stages in runs.values():
            of.ran(rows, stages)

    def request_done(
        self, items: Sequence[Item], predicted: Sequence[Predicted] | None, took_ms: float
    ) -> None:
        """A request ended, with its answers or (None) with an error, after `took_ms`."""
        now_ms = int(self._wall_clock() * 1e3)
        of = self._of(items)
        if predicted and all(one.answer.status < 400 for one in predicted):
            self._deferred.later(of.succeeded, predicted, now_ms)
        else:
            self._deferred.later(of.failed, took_ms, now_ms)

    def refused(self, took_ms: float) -> None:
        """A request for predictions of images was refused before it was asked for."""
        self._deferred.later(self._images.failed, took_ms, int(self._wall_clock() * 1e3))

    def _of(self, items: Sequence[Item]) -> ModelStatistics:
        return self._graph if items[0].kind is Kind.TENSORS else self._images
