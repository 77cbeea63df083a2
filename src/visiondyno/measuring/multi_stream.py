"""MLPerf's multi-stream scenario: queries of eight images, the next when the last one is answered.

It stands for a machine that serves eight cameras: a query is answered when all its images are.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice

from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.single_stream import MIN_QUERIES, WANTED_QUERIES, Clock
from visiondyno.runtimes.base import LoadedModel

SAMPLES_A_QUERY = 8
"""MLPerf Inference's, since v2.0."""

_PATIENCE = 2.0


def run_multi_stream(
    model: LoadedModel,
    images: EncodedImages,
    order: Iterator[int],
    *,
    duration_s: float,
    on_query: Callable[[int], None] = lambda _: None,
    clock: Clock = time.perf_counter_ns,
) -> list[float]:
    """Milliseconds of each query: decode, pre-process, one inference of eight, post-process.

    Runs as long as a single-stream run: at least `duration_s` and 64 queries, on to the 662 that
    p99 needs while that takes at most three durations in all.
    """
    latencies_ms: list[float] = []
    start = clock()
    while True:
        issued = clock()
        batch = [images.decode(index) for index in islice(order, SAMPLES_A_QUERY)]
        prepared = model.preprocess(batch)
        model.postprocess(model.infer(prepared), prepared)
        latencies_ms.append((clock() - issued) / 1e6)
        queries, elapsed_s = len(latencies_ms), (clock() - start) / 1e9
        on_query(queries)
        if queries < MIN_QUERIES or elapsed_s < duration_s:
            continue
        if queries >= WANTED_QUERIES or elapsed_s >= duration_s * (1 + _PATIENCE):
            return latencies_ms
