"""MLPerf's own LoadGen driving the same model, so that both engines' reports stand side by side.

LoadGen (https://github.com/mlcommons/inference/tree/master/loadgen) issues queries from its own
threads; ours hands them to one thread that answers them in order. What it reports is read from its
summary file; its verdict is kept word for word.
"""

import importlib.metadata
import queue
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visiondyno.errors import MissingExtra, OperationFailed
from visiondyno.measuring.images import EncodedImages
from visiondyno.runtimes.base import LoadedModel

LoadGenScenario = Literal["single-stream", "multi-stream", "server", "offline"]
_NAMES = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
_LARGEST_BATCH = 16
_PERCENTILE = re.compile(r"^(\d+\.\d+) percentile latency \(ns\)\s*:\s*(\d+)", re.MULTILINE)
_VERDICT = re.compile(r"^Result is\s*:\s*(\w+)", re.MULTILINE)
_RATE = re.compile(
    r"^(?:Completed samples per second|Samples per second|Scheduled samples per second)"
    r"\s*:\s*([\d.eE+-]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class LoadGenPlan:
    """What LoadGen is told.

    Attributes:
        scenario: in MLPerf's terms.
        duration_s: its least duration.
        queries: its least number of queries; also the most of them where `exact`.
        rate_per_s: of the server scenario's arrivals.
        limit_ms: the server scenario's latency limit; only its verdict depends on it.
        exact: run `queries` queries, no more.
        seed: of its schedule.
    """

    scenario: LoadGenScenario
    duration_s: float
    queries: int
    rate_per_s: float | None = None
    limit_ms: float | None = None
    exact: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LoadGenReport:
    """What LoadGen says.

    Attributes:
        version: of LoadGen.
        verdict: VALID or INVALID, by its own rules.
        percentiles_ms: quantile (0.5 … 0.999) → milliseconds.
        rate_per_s: samples a second, where its summary has it.
        summary: its summary file.
    """

    version: str
    verdict: str
    percentiles_ms: dict[float, float]
    rate_per_s: float | None
    summary: str


def run_loadgen(
    model: LoadedModel, images: EncodedImages, order: Iterator[int], plan: LoadGenPlan
) -> LoadGenReport:
    """Let LoadGen load the model.

    Raises:
        MissingExtra: LoadGen isn't installed.
        OperationFailed: it wrote no summary.
        VisionDynoError: what the model raised while it answered.
    """
    try:
        import mlperf_loadgen as loadgen
    except ImportError as error:
        raise MissingExtra("loadgen", "--engine loadgen") from error
    system = _SystemUnderTest(loadgen, model, images, order)
    with tempfile.TemporaryDirectory(prefix="visiondyno-loadgen-") as folder:
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        sut = loadgen.ConstructSUT(system.issue, lambda: None)
        count = len(images)
        library = loadgen.ConstructQSL(count, count, lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(sut, library, _settings(loadgen, plan), log)
        finally:
            system.stop()
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(sut)
        return _read(Path(folder) / "mlperf_log_summary.txt")


class _SystemUnderTest:
    """One thread that answers LoadGen's queries in order."""

    def __init__(
        self, loadgen: Any, model: LoadedModel, images: EncodedImages, order: Iterator[int]
    ) -> None:
        self._loadgen = loadgen
        self._model = model
        self._images = images
        self._order = order
        self._waiting: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="loadgen-sut")
        self._thread.start()

    def issue(self, samples: list[Any]) -> None:
        """LoadGen's callback: must return at once."""
        self._waiting.put([sample.id for sample in samples])

    def stop(self) -> None:
        """End the thread; raise what the model raised."""
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (ids := self._waiting.get()) is not None:
            # After an error every query is answered at once, so that LoadGen comes to an end.
            if self._error is None:
                try:
                    self._answer(len(ids))
                except Exception as error:
                    self._error = error
            done = [self._loadgen.QuerySampleResponse(sample, 0, 0) for sample in ids]
            self._loadgen.QuerySamplesComplete(done)

    def _answer(self, count: int) -> None:
        """A query's images, in batches that fit in memory (offline asks for all at once)."""
        while count > 0:
            size = min(count, _LARGEST_BATCH)
            batch = [self._images.decode(next(self._order)) for _ in range(size)]
            prepared = self._model.preprocess(batch)
            self._model.postprocess(self._model.infer(prepared), prepared)
            count -= size


def _settings(loadgen: Any, plan: LoadGenPlan) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, _NAMES[plan.scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = 0 if plan.exact else round(plan.duration_s * 1000)
    settings.min_query_count = plan.queries
    if plan.exact:
        settings.max_query_count = plan.queries
    settings.schedule_rng_seed = plan.seed
    if plan.rate_per_s is not None:
        settings.server_target_qps = plan.rate_per_s
        settings.offline_expected_qps = plan.rate_per_s
    if plan.limit_ms is not None:
        settings.server_target_latency_ns = round(plan.limit_ms * 1e6)
        settings.server_target_latency_percentile = 0.99
    return settings


def _read(summary: Path) -> LoadGenReport:
    if not summary.is_file():
        raise OperationFailed("LoadGen wrote no summary; run it again.", stage="loadgen")
    text = summary.read_text()
    verdict, rate = _VERDICT.search(text), _RATE.search(text)
    if verdict is None:
        raise OperationFailed("LoadGen's summary holds no result; run it again.", stage="loadgen")
    return LoadGenReport(
        version=importlib.metadata.version("mlcommons-loadgen"),
        verdict=verdict.group(1),
        percentiles_ms={
            round(float(q) / 100, 6): int(latency_ns) / 1e6
            for q, latency_ns in _PERCENTILE.findall(text)
        },
        rate_per_s=float(rate.group(1)) if rate else None,
        summary=text,
    )
