"""What a benchmark's child process does with one model; labels never enter it.

Order: load, first inference, accuracy pass over all images, warm-up, then each scenario. The parent
scores the predictions and makes measures of the samples.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
from pydantic import BaseModel, ConfigDict

from visiondyno.measuring.described import describe
from visiondyno.measuring.images import EncodedImages
from visiondyno.measuring.pipeline import predict_each
from visiondyno.measuring.prediction_files import save_predictions
from visiondyno.measuring.scenarios import (
    Load,
    as_json,
    run_scenario,
    run_scenario_by_loadgen,
    say_progress,
)
from visiondyno.measuring.single_stream import StageTimes, run_query, warm_up
from visiondyno.probes.base import watch
from visiondyno.probes.gpu import device_used_bytes
from visiondyno.probes.gpu_share import gpu_share
from visiondyno.probes.memory import MemoryProbe
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.operations import Engine, Scenario

Emit = Callable[[dict[str, Any]], None]


class ChildInput(BaseModel):
    """What the child needs.

    Attributes:
        predictions_file: where the accuracy pass's predictions go; None leaves the pass out.
        started_ns: the monotonic clock just before the child was started.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    device: str
    threads: int | None
    images: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    engine: Engine
    duration_s: float
    rate_per_s: float | None
    latency_limit_ms: float | None
    seed: int
    predictions_file: str | None
    started_ns: int


def measure_model(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Measure one model; see the module's docstring.

    Returns:
        `description`, `load_ms`, `first_inference_ms`, `peak_rss_bytes`; `accuracy_pass` if there
        was one; `warm_up` and an entry for each scenario, with LoadGen under `NAME by LoadGen`.
    """
    spec = ChildInput.model_validate(payload)
    if spec.threads is not None:
        cv2.setNumThreads(spec.threads)  # decoding and resizing are under the limit too
    vram_before_bytes = device_used_bytes(spec.device)
    options = _load_options(spec, emit)
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
        }
        if spec.predictions_file is not None:
            file = Path(spec.predictions_file)
            found["accuracy_pass"] = _accuracy_pass(model, images, file, emit)
        load = Load(
            model=model,
            images=images,
            order=images.shuffled(spec.seed),
            emit=emit,
            device=spec.device,
            duration_s=spec.duration_s,
            rate_per_s=spec.rate_per_s,
            latency_limit_ms=spec.latency_limit_ms,
            seed=spec.seed,
            vram_before_bytes=vram_before_bytes,
            memory=MemoryProbe(),
        )
        found.update(_scenarios(spec, load))
        with watch([load.memory]) as end:
            pass
        found["peak_rss_bytes"] = as_json(end.measurements())["peak_rss_bytes"]
        if spec.engine == "loadgen":  # after the peak was read: its batches aren't ours
            found.update(_scenarios_by_loadgen(spec, load, found))
    return found


def _load_options(spec: ChildInput, emit: Emit) -> LoadOptions:
    share = gpu_share(spec.device)
    if share is not None and share.reason is not None:
        emit({"stage": "load", "log": share.reason})
    return LoadOptions(
        device=spec.device,
        intra_op_threads=spec.threads,
        gpu_memory_limit_bytes=None if share is None else share.limit_bytes,
    )


def _scenarios(spec: ChildInput, load: Load) -> dict[str, Any]:
    if not spec.scenarios:
        return {}
    load.emit({"stage": "warm-up"})
    warm = warm_up(load.model, load.images, load.order, duration_s=spec.duration_s)
    found: dict[str, Any] = {"warm_up": asdict(warm)}
    for scenario in spec.scenarios:
        found[scenario] = run_scenario(scenario, load)
    return found


def _scenarios_by_loadgen(spec: ChildInput, load: Load, ours: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{scenario} by LoadGen": run_scenario_by_loadgen(scenario, load, ours[scenario])
        for scenario in spec.scenarios
        # A server whose search found no rate has none to repeat.
        if scenario != "server" or ours[scenario]["rate_per_s"] is not None
    }


def _accuracy_pass(
    model: LoadedModel, images: EncodedImages, file: Path, emit: Emit
) -> dict[str, Any]:
    start_ns = time.perf_counter_ns()
    predictions = predict_each(
        model,
        images,
        batch_size=model.description.batch_size or 1,
        on_done=say_progress(emit, "accuracy pass", len(images)),
    )
    save_predictions(file, predictions)
    return {"images": len(images), "elapsed_s": (time.perf_counter_ns() - start_ns) / 1e9}
