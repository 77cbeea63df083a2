"""`profile`: where a model's time goes, operator by operator, and how near the machine's limits."""

import math
import re
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

from visiondyno.operations.context import OperationContext
from visiondyno.operations.profile_advice import Findings, advice_of, can_be_exported
from visiondyno.operations.profile_rows import kind_rows, operator_rows
from visiondyno.operations.profile_runs import MOST_PROFILED, ProfiledRuns, measure_runs
from visiondyno.operations.profile_torch_peaks import torch_compute_peak, torch_memory_peak
from visiondyno.probes import peaks
from visiondyno.probes.kernel_files import usable_cpus_here
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.peaks import Peak, best_of, compute_peak, graphs, memory_peak
from visiondyno.probes.quiet import QuietMonitor, Quietness
from visiondyno.report.format import plural
from visiondyno.report.profile_result import OperatorRow, Peaks, Profile, Times
from visiondyno.runtimes.base import ModelDescription
from visiondyno.runtimes.openvino_profile import openvino_runs
from visiondyno.specs.model_changes import ProfileInput

_LIBRARIES: dict[str, Callable[[ProfileInput], Peak]] = {
    "onnxruntime": lambda spec: compute_peak(spec.threads),
    "openvino": lambda spec: best_of(
        openvino_runs(graphs(peaks.SIDE), spec.threads), "openvino", peaks.SIDE
    ),
    "torch": lambda spec: torch_compute_peak(spec.device, spec.threads),
}


def run(spec: ProfileInput, context: OperationContext) -> dict[str, Any]:
    """The profile.

    Returns:
        `profile`: see `visiondyno.report.profile_result.Profile`.

    Raises:
        DatasetError: the data can't be read.
        ModelError: the model can't be found, read, understood or run.
        Unavailable: the device isn't here, or the runtime has no profiler.
    """
    monitor = QuietMonitor()
    monitor.start()
    measured = measure_runs(spec, context)
    limits = _peaks(measured.description, spec, context)
    quietness = monitor.stop()
    found = _profile(spec, measured, limits, quietness)
    return {
        "operation": "profile",
        "status": "success",
        "profile": found.model_dump(mode="json", by_alias=True),
    }


def _profile(
    spec: ProfileInput, measured: ProfiledRuns, limits: Peaks, quietness: Quietness
) -> Profile:
    description = measured.description
    roofline = limits.roofline if description.precision == "fp32" else None
    rows = operator_rows(measured.operators, measured.profiled_runs, roofline)
    times = _times(measured, sum(row.ms for row in rows))
    others = {threads: 1e3 * median(found) for threads, found in measured.other_threads.items()}
    findings = Findings(
        spec.model, spec.data, spec.device, description.precision, spec.batch_size,
        description.batch_size, spec.threads, times, limits, rows, others, usable_cpus_here(),
        can_be_exported(spec.model),
    )  # fmt: skip
    environment = capture_environment()
    return Profile(
        model=spec.model,
        runtime=description.runtime,
        provider=description.provider,
        device=description.device,
        precision=description.precision,
        machine=_machine(environment.cpu_model, environment.cpu_count),
        data=measured.data,
        batch_size=spec.batch_size,
        threads=spec.threads,
        runs=spec.runs,
        times_ms=times,
        peaks=limits,
        operators=rows,
        kinds=kind_rows(rows),
        other_threads=others,
        advice=advice_of(findings),
        quiet=quietness.quiet,
        disturbances=quietness.reasons,
        notes=(*_notes(spec, description, limits, rows), *description.notes),
    )


def _times(measured: ProfiledRuns, operators_ms: float) -> Times:
    low, _, high = quantiles(measured.inference_s, n=4, method="inclusive")
    return Times(
        inference=1e3 * median(measured.inference_s),
        inference_quartiles=(1e3 * low, 1e3 * high),
        profiled=1e3 * median(measured.profiled_s),
        operators=operators_ms,
        preprocess=1e3 * median(measured.preprocess_s),
        postprocess=1e3 * median(measured.postprocess_s),
    )


def _peaks(description: ModelDescription, spec: ProfileInput, context: OperationContext) -> Peaks:
    context.progress("measuring what this machine can do")
    threads = spec.threads or usable_cpus_here()
    memory = memory_peak(threads) if spec.device == "cpu" else torch_memory_peak(spec.device)
    context.check()
    gflop_per_s, method = None, f"nothing here measures what {description.runtime} can compute"
    library = next((name for name in _LIBRARIES if _runs_by(name, description.runtime)), None)
    if library is not None:
        compute = _LIBRARIES[library](spec)
        count = "the library's own number of threads"
        if spec.threads is not None:
            count = plural(spec.threads, "thread")
        at = f", {count}" if spec.device == "cpu" else ""
        gflop_per_s, method = compute.per_s / 1e9, f"{compute.method}{at}"
    return Peaks(
        gflop_per_s=gflop_per_s,
        compute_method=method,
        gigabytes_per_s=memory.per_s / 1e9,
        memory_method=memory.method,
    )


def _runs_by(library: str, runtime: str) -> bool:
    return re.search(rf"\b{library}\b", runtime) is not None


def _machine(model: str, count: int) -> str:
    return f"{model}, {count} processor{'s' * (count > 1)}"


def _notes(
    spec: ProfileInput, description: ModelDescription, limits: Peaks, rows: Sequence[OperatorRow]
) -> tuple[str, ...]:
    notes = []
    if spec.runs > MOST_PROFILED:
        notes.append(f"{MOST_PROFILED} of the {spec.runs} runs were repeated with the profiler.")
    if description.precision != "fp32":
        notes.append(
            f"It computes in {description.precision}, and the peaks are of fp32: no operator is "
            "measured against them."
        )
    elif limits.gflop_per_s is None:
        notes.append(f"No limit is known: {limits.compute_method}.")
    size = description.batch_size
    if size is not None and spec.batch_size != size:
        pieces = math.ceil(spec.batch_size / size)
        filled = pieces * size - spec.batch_size
        notes.append(
            f"The model takes {plural(size, 'image')} at once: a batch of {spec.batch_size} is run "
            f"in {plural(pieces, 'piece')}"
            + (f", filled up with {plural(filled, 'empty image')}." if filled else ".")
        )
    above = [row for row in rows if row.limit == "compute" and (row.limit_share or 0) > 1]
    if above:
        notes.append(
            f"{plural(len(above), 'operator')} computed faster than the peak measured here: it is "
            "too low, as something disturbed it or another algorithm needs fewer operations."
        )
    return tuple(notes)
