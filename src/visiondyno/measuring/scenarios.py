"""The four MLPerf scenarios under probes, and LoadGen beside ours: samples and readings as JSON."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from visiondyno.measurements.measure import Measures
from visiondyno.measuring.energy_windows import EnergyWindows
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.loadgen_engine import LoadGenPlan, run_loadgen
from visiondyno.measuring.multi_stream import SAMPLES_A_QUERY, run_multi_stream
from visiondyno.measuring.offline import run_offline
from visiondyno.measuring.server import (
    ServerRun,
    find_highest_rate,
    poisson_arrivals,
    queries_for,
    run_server,
)
from visiondyno.measuring.single_stream import StageTimes, run_query, run_single_stream
from visiondyno.probes.base import Probe, watch
from visiondyno.probes.cpu import CpuProbe
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe
from visiondyno.probes.memory import MemoryProbe
from visiondyno.runtimes.base import LoadedModel
from visiondyno.specs.operations import Scenario

Emit = Callable[[dict[str, Any]], None]
_SAY_EVERY_S = 0.2
_ENERGY = "energy_joules_per_image"
_CAPACITY_QUERIES = 64


@dataclass(frozen=True, slots=True)
class Load:
    """A loaded, warm model and how load is applied to it.

    Attributes:
        duration_s: least seconds of each scenario's measured part.
        rate_per_s: of the server scenario's arrivals; None searches for the highest one.
        latency_limit_ms: that the server's p99 must keep.
        seed: of orders and arrivals.
        vram_before_bytes: in use on the GPU before the model was loaded.
        memory: one probe for the whole process: each window sets the kernel's mark back.
    """

    model: LoadedModel
    images: EncodedImages
    order: Iterator[int]
    emit: Emit
    device: str
    duration_s: float
    rate_per_s: float | None
    latency_limit_ms: float | None
    seed: int
    vram_before_bytes: int | None
    memory: MemoryProbe

    def probes(self) -> list[Probe]:
        """What watches a scenario."""
        return [self.memory, CpuProbe(), GpuProbe(self.device, self.vram_before_bytes)]

    def saying(self, stage: str) -> Callable[[int], None]:
        """Tell how many queries or images are done."""
        return say_progress(self.emit, stage, None)


def run_scenario(scenario: Scenario, load: Load) -> dict[str, Any]:
    """One scenario's samples and `probes`; the keys are for `measuring.scenario_results`."""
    return _RUNNERS[scenario](load)


def run_scenario_by_loadgen(scenario: Scenario, load: Load, ours: dict[str, Any]) -> dict[str, Any]:
    """The same scenario driven by MLPerf LoadGen; the server's rate is the one that ours ran at.

    Raises:
        MissingExtra: LoadGen isn't installed.
    """
    load.emit({"stage": f"{scenario} by LoadGen"})
    if scenario == "server":
        plan = LoadGenPlan(
            scenario,
            load.duration_s,
            queries_for(ours["rate_per_s"], load.duration_s),
            rate_per_s=ours["rate_per_s"],
            limit_ms=load.latency_limit_ms,
            exact=True,
            seed=load.seed,
        )
    elif scenario == "offline":
        rate = ours["run"]["images"] / ours["run"]["elapsed_s"]
        plan = LoadGenPlan(scenario, load.duration_s, 1, rate_per_s=rate)
    else:
        plan = LoadGenPlan(scenario, load.duration_s, 64)
    report = run_loadgen(load.model, load.images, load.order, plan)
    return {"plan": asdict(plan), "report": asdict(report)}


def say_progress(emit: Emit, stage: str, total: int | None) -> Callable[[int], None]:
    """Tell progress at most five times a second: a message costs the measured process time."""
    last_s = 0.0

    def say(done: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _SAY_EVERY_S or done == total:
            last_s = now_s
            emit({"stage": stage, "done": done, "total": total})

    return say


def as_json(measures: Measures) -> dict[str, Any]:
    """Measures by name, for JSON."""
    return {name: measure.model_dump(mode="json") for name, measure in measures.items()}


def _single_stream(load: Load) -> dict[str, Any]:
    say = load.saying("single-stream")
    energy = EnergyWindows(EnergyProbe(load.device), load.duration_s)

    def on_query(done: int) -> None:
        energy.count(done)
        say(done)

    with watch(load.probes()) as window:
        energy.start()
        times = run_single_stream(
            load.model, load.images, load.order, duration_s=load.duration_s, on_query=on_query
        )
        joules = energy.finish()
    return {
        "samples": times.as_dict(),
        "probes": as_json({**window.measurements(), _ENERGY: joules}),
    }


def _multi_stream(load: Load) -> dict[str, Any]:
    with watch(load.probes()) as window:
        latencies_ms = run_multi_stream(
            load.model,
            load.images,
            load.order,
            duration_s=load.duration_s,
            on_query=load.saying("multi-stream"),
        )
    return {
        "latencies_ms": latencies_ms,
        "samples_a_query": SAMPLES_A_QUERY,
        "probes": as_json(window.measurements()),
    }


def _server(load: Load) -> dict[str, Any]:
    with watch(load.probes()) as window:
        if load.rate_per_s is not None:
            run: ServerRun | None = _serve_at(load, load.rate_per_s)
            found = {"rate_per_s": load.rate_per_s, "tried": []}
        else:
            run, found = _search(load)
    return {
        **found,
        "limit_ms": load.latency_limit_ms,
        "run": None if run is None else asdict(run),
        "probes": as_json(window.measurements()),
    }


def _serve_at(load: Load, rate_per_s: float) -> ServerRun:
    arrivals_s = poisson_arrivals(rate_per_s, queries_for(rate_per_s, load.duration_s), load.seed)
    say = load.saying(f"server at {rate_per_s:.4g} images/s")
    return run_server(load.model, load.images, load.order, arrivals_s, on_query=say)


def _search(load: Load) -> tuple[ServerRun | None, dict[str, Any]]:
    assert load.latency_limit_ms is not None, "the spec asks for a rate or a limit"
    times = StageTimes()
    for _ in range(_CAPACITY_QUERIES):
        run_query(load.model, load.images, next(load.order), times, time.perf_counter_ns)
    found = find_highest_rate(
        lambda rate: _serve_at(load, rate),
        limit_ms=load.latency_limit_ms,
        capacity_per_s=1000 * len(times.latency_ms) / sum(times.latency_ms),
    )
    return found.best, {"rate_per_s": found.best_rate_per_s, "tried": list(found.probes)}


def _offline(load: Load) -> dict[str, Any]:
    with watch(load.probes()) as window:
        run = run_offline(
            load.model,
            load.images,
            load.order,
            duration_s=load.duration_s,
            on_done=load.saying("offline"),
        )
    return {"run": asdict(run), "probes": as_json(window.measurements())}


_RUNNERS: dict[Scenario, Callable[[Load], dict[str, Any]]] = {
    "single-stream": _single_stream,
    "multi-stream": _multi_stream,
    "server": _server,
    "offline": _offline,
}
