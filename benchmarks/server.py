"""The server scenario under overload: our p99 beside LoadGen's, and a closed loop's beside both.

Twice as many queries arrive as the model can answer. Each pair runs our engine and MLPerf's LoadGen
on the same loaded model, with the same rate and number of queries; arrivals are drawn from other
random numbers. Model and OpenCV have one thread: LoadGen's issuing thread needs a processor of its
own, and on two cores it would take one from them. A closed loop sends the next query when the last
one is answered: it has no queue to measure, and its p99 is the service time's.

- `server_p99_vs_loadgen`: ours over LoadGen's.
- `closed_loop_p99_vs_loadgen`: a closed loop's over LoadGen's.
"""

import time
from collections.abc import Callable

import cv2

from record import Ratio, interleave, record
from visiondyno.datasets.registry import open_dataset
from visiondyno.measurements.percentiles import percentile
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.loadgen_engine import LoadGenPlan, run_loadgen
from visiondyno.measuring.server import poisson_arrivals, run_server
from visiondyno.measuring.single_stream import StageTimes, run_query
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model

MODEL, DATA = "visiondyno:street-s", "street:demo"
PAIRS = 7
QUERIES = 2000
OVERLOAD = 2.0


def arms(
    model: LoadedModel, images: EncodedImages
) -> tuple[float, Callable[[], float], Callable[[], float], Callable[[], float]]:
    """The rate, and the p99 in ms of our engine, of LoadGen and of a closed loop."""
    order = images.shuffled(0)
    seeds = iter(range(1000))

    def closed_ms(queries: int = 300) -> list[float]:
        times = StageTimes()
        for _ in range(queries):
            run_query(model, images, next(order), times, time.perf_counter_ns)
        return times.latency_ms

    closed_ms()
    rate_per_s = OVERLOAD * 1000 / (sum(closed_ms()) / 300)

    def ours() -> float:
        arrivals_s = poisson_arrivals(rate_per_s, QUERIES, next(seeds))
        return percentile(run_server(model, images, order, arrivals_s).latencies_ms, 0.99)

    def loadgen() -> float:
        plan = LoadGenPlan(
            "server", 0, QUERIES, rate_per_s=rate_per_s, limit_ms=100, exact=True, seed=next(seeds)
        )
        return run_loadgen(model, images, order, plan).percentiles_ms[0.99]

    return rate_per_s, ours, loadgen, lambda: percentile(closed_ms(), 0.99)


def main() -> None:
    """Measure, print and record."""
    dataset = open_dataset(DATA)
    images = EncodedImages([dataset.sample(index).path for index in range(len(dataset))])
    monitor = QuietMonitor()
    monitor.start()
    cv2.setNumThreads(1)
    with load_model(MODEL, LoadOptions(intra_op_threads=1)) as model:
        rate_per_s, ours, loadgen, closed = arms(model, images)
        ratios = {
            "server_p99_vs_loadgen": Ratio(
                interleave(ours, loadgen, PAIRS),
                "ms",
                "our p99 over LoadGen's in the same overload",
                "0.90 to 1.10",
            ),
            "closed_loop_p99_vs_loadgen": Ratio(
                interleave(closed, loadgen, PAIRS),
                "ms",
                "a closed loop's p99 over LoadGen's: waiting isn't seen",
                "none: far from 1",
            ),
        }
    settings = {
        "model": MODEL,
        "data": DATA,
        "queries": QUERIES,
        "intra_op_threads": 1,
        "rate_per_s": round(rate_per_s, 2),
        "overload": OVERLOAD,
        "peer": "mlcommons-loadgen, Server scenario, PerformanceOnly",
    }
    record("server", ratios, settings, monitor)


if __name__ == "__main__":
    main()
