"""What a benchmark's child process does with one model; labels never enter it.

Order: load, first inference, accuracy pass over all images, warm-up, single-stream, offline. The
parent scores the predictions and makes measures of the samples.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from visiondyno.measurements.measure import Measures
from visiondyno.measuring.energy_windows import EnergyWindows
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.offline import run_offline
from visiondyno.measuring.pipeline import predict_all
from visiondyno.measuring.prediction_files import save_predictions
from visiondyno.measuring.single_stream import (
    StageTimes,
    run_query,
    run_single_stream,
    warm_up,
)
from visiondyno.probes.base import Probe, watch
from visiondyno.probes.cpu import CpuProbe
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe, device_used_bytes
from visiondyno.probes.memory import MemoryProbe
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.operations import Scenario

Emit = Callable[[dict[str, Any]], None]
_SAY_EVERY_S = 0.2
_ENERGY = "energy_joules_per_image"


class ChildInput(BaseModel):
    """What the child needs; `started_ns` is the monotonic clock just before it was started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    device: str
    threads: int | None
    images: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    duration_s: float
    seed: int
    predictions_file: str
    started_ns: int


def measure_model(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Measure one model; see the module's docstring.

    Returns:
        `description`, `load_ms`, `first_inference_ms`, `accuracy_pass`, one entry for each
        scenario with its samples and its probes' measures, and `peak_rss_bytes`.
    """
    spec = ChildInput.model_validate(payload)
    vram_before_bytes = device_used_bytes(spec.device)
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    with load_model(spec.reference, options) as model:
        load_ms = (time.monotonic_ns() - spec.started_ns) / 1e6
        description = describe(model.description)
        emit({"stage": "loaded", "description": description})
        images = EncodedImages([Path(path) for path in spec.images])
        first = StageTimes()
        run_query(model, images, 0, first, time.perf_counter_ns)
        found: dict[str, Any] = {
            "description": description,
            "load_ms": load_ms,
            "first_inference_ms": first.latency_ms[0],
            "accuracy_pass": _accuracy_pass(model, images, Path(spec.predictions_file), emit),
        }
        order = images.shuffled(spec.seed)
        load = _Load(emit, spec.duration_s, spec.device, vram_before_bytes, MemoryProbe())
        for scenario in spec.scenarios:
            found[scenario] = _SCENARIOS[scenario](model, images, order, load)
        with watch([load.memory]) as end:
            pass
        found["peak_rss_bytes"] = _as_json(end.measurements())["peak_rss_bytes"]
    return found


@dataclass(frozen=True, slots=True)
class _Load:
    """What every scenario needs besides the model and the images."""

    emit: Emit
    duration_s: float
    device: str
    vram_before_bytes: int | None
    memory: MemoryProbe
    """One for the whole process: each window sets the kernel's mark back."""

    def probes(self) -> list[Probe]:
        """What watches a scenario."""
        return [self.memory, CpuProbe(), GpuProbe(self.device, self.vram_before_bytes)]


def describe(description: ModelDescription) -> dict[str, Any]:
    """A model's description as JSON."""
    plain = {field.name: getattr(description, field.name) for field in fields(description)}
    return {**plain, "card": description.card.model_dump(mode="json", by_alias=True)}


def _accuracy_pass(
    model: LoadedModel, images: EncodedImages, file: Path, emit: Emit
) -> dict[str, Any]:
    start_ns = time.perf_counter_ns()
    predictions = predict_all(
        model,
        images,
        batch_size=model.description.batch_size or 1,
        on_done=_saying(emit, "accuracy pass", len(images)),
    )
    elapsed_s = (time.perf_counter_ns() - start_ns) / 1e9
    save_predictions(file, predictions)
    return {"images": len(predictions), "elapsed_s": elapsed_s}


def _single_stream(
    model: LoadedModel, images: EncodedImages, order: Iterator[int], load: "_Load"
) -> dict[str, Any]:
    load.emit({"stage": "warm-up"})
    warm = warm_up(model, images, order, duration_s=load.duration_s)
    say = _saying(load.emit, "single-stream", None)
    energy = EnergyWindows(EnergyProbe(load.device), load.duration_s)

    def on_query(done: int) -> None:
        energy.count(done)
        say(done)

    with watch(load.probes()) as window:
        energy.start()
        times = run_single_stream(
            model, images, order, duration_s=load.duration_s, on_query=on_query
        )
        joules = energy.finish()
    return {
        "warmup_queries": warm.queries,
        "steady": warm.steady,
        "samples": times.as_dict(),
        "probes": _as_json({**window.measurements(), _ENERGY: joules}),
    }


def _offline(
    model: LoadedModel, images: EncodedImages, order: Iterator[int], load: "_Load"
) -> dict[str, Any]:
    with watch(load.probes()) as window:
        run = run_offline(
            model,
            images,
            order,
            duration_s=load.duration_s,
            on_done=_saying(load.emit, "offline", None),
        )
    return {"run": asdict(run), "probes": _as_json(window.measurements())}


_SCENARIOS: dict[
    Scenario, Callable[[LoadedModel, EncodedImages, Iterator[int], _Load], dict[str, Any]]
] = {"single-stream": _single_stream, "offline": _offline}


def _saying(emit: Emit, stage: str, total: int | None) -> Callable[[int], None]:
    """Tell progress at most five times a second: a message costs the measured process time."""
    last_s = 0.0

    def say(done: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _SAY_EVERY_S or done == total:
            last_s = now_s
            emit({"stage": stage, "done": done, "total": total})

    return say


def _as_json(measures: Measures) -> dict[str, Any]:
    return {name: measure.model_dump(mode="json") for name, measure in measures.items()}
