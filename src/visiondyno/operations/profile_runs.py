"""Runs of one model with its profiler and without, in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from visiondyno.errors import OperationFailed, Unavailable
from visiondyno.measurements.operators import OperatorRun
from visiondyno.operations.context import OperationContext
from visiondyno.operations.verified_data import open_verified
from visiondyno.predictions import Image
from visiondyno.probes.gpu_share import gpu_share
from visiondyno.probes.kernel_files import usable_cpus_here
from visiondyno.report.format import plural
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_changes import ProfileInput
from visiondyno.vision.decode import decode_image

_BLOCK = 5
MOST_PROFILED = 200
"""Profiles are kept in memory until the end, and ONNX Runtime keeps a million events at most."""
_OTHER_RUNS = 10


@dataclass(frozen=True, slots=True)
class ProfiledRuns:
    """What was measured; times in seconds, one for each run.

    Attributes:
        operators: those of the counted runs; `run` counts these.
        profiled_runs: how many there are.
        other_threads: seconds at other numbers of threads.
        data: what was run, in words.
    """

    description: ModelDescription
    inference_s: list[float]
    profiled_s: list[float]
    preprocess_s: list[float]
    postprocess_s: list[float]
    operators: list[OperatorRun]
    profiled_runs: int
    other_threads: dict[int, list[float]]
    data: str


def measure_runs(spec: ProfileInput, context: OperationContext) -> ProfiledRuns:
    """Load the model twice, and run the same images on both, in blocks that take turns.

    The first run of a block isn't counted: it finds the caches and threads as the other left them.

    Raises:
        DatasetError: the data can't be read.
        ModelError: the model can't be found, read, understood or run.
        Unavailable: the device isn't here, or the runtime has no profiler.
    """
    options = LoadOptions(device=spec.device, intra_op_threads=spec.threads)
    with context.model(spec.model, options) as plain:
        images, data = _images(spec, plain.description, context)
        prepared, preprocess_s = _prepared(plain, images)
        with _profiled(spec.model, options) as profiled:
            turns = _Turns(plain, profiled, prepared, context)
            turns.run(spec.warm_up_runs, spec.runs)
            # With what its profiler has to say of itself.
            description = profiled.description
        answered = plain.infer(prepared)
        postprocess_s = [
            _timed(lambda: plain.postprocess(answered, prepared)) for _ in range(_OTHER_RUNS)
        ]
        others = _other_threads(spec, options, prepared, context)
    return ProfiledRuns(
        description,
        turns.inference_s,
        turns.profiled_s,
        preprocess_s,
        postprocess_s,
        turns.operators,
        len(turns.profiled_s),
        others,
        data,
    )


def _profiled(reference: str, options: LoadOptions) -> LoadedModel:
    share = gpu_share(options.device)
    if share is not None:
        options = replace(options, gpu_memory_limit_bytes=share.limit_bytes)
    model = load_model(reference, replace(options, profile=True))
    if model.operator_times is None:
        runtime = model.description.runtime
        model.close()
        raise Unavailable(
            f"{reference} can't be profiled: {runtime} doesn't tell the time of single operators. "
            "Export it with 'dyno export', and profile the ONNX file."
        )
    return model


class _Turns:
    """Blocks of runs without the profiler and with it."""

    def __init__(
        self, plain: LoadedModel, profiled: LoadedModel, prepared: Any, context: OperationContext
    ) -> None:
        self.inference_s: list[float] = []
        self.profiled_s: list[float] = []
        self.operators: list[OperatorRun] = []
        self._plain, self._profiled = plain, profiled
        self._prepared = prepared
        self._context = context
        self._calls = 0
        self._counted: list[int] = []

    def run(self, warm_up: int, runs: int) -> None:
        """Warm both up, take turns, and read the profile."""
        self._context.progress("warming up")
        for _ in range(warm_up):
            self._once(self._plain)
            self._once_profiled()
        while len(self.inference_s) < runs:
            self._context.progress("measuring", done=len(self.inference_s), total=runs)
            count = min(_BLOCK, runs - len(self.inference_s))
            self._once(self._plain)
            self.inference_s += [self._once(self._plain) for _ in range(count)]
            count = min(count, MOST_PROFILED - len(self.profiled_s))
            if count > 0:
                self._once_profiled()
                self.profiled_s += [self._once_profiled(counted=True) for _ in range(count)]
        self._context.progress("reading the profile")
        assert self._profiled.operator_times is not None
        found = self._profiled.operator_times()
        self.operators = operators_of_calls(found, self._calls, self._counted)

    def _once(self, model: LoadedModel) -> float:
        self._context.check()
        return _timed(lambda: model.infer(self._prepared))

    def _once_profiled(self, *, counted: bool = False) -> float:
        if counted:
            self._counted.append(self._calls)
        self._calls += 1
        return self._once(self._profiled)


def operators_of_calls(
    found: Sequence[OperatorRun], calls: int, counted: Sequence[int]
) -> list[OperatorRun]:
    """The operators of the calls of `infer` that count, `run` being the number among those.

    Args:
        found: of all calls; a call that was run in pieces has as many runs as every other.
        calls: how many there were.
        counted: which of them count.

    Raises:
        OperationFailed: the profiler doesn't tell of every call.
    """
    runs = 1 + max((one.run for one in found), default=-1)
    if not runs or runs % calls:
        raise OperationFailed(
            f"The profiler tells of {runs} runs, and there were {calls}; ask for fewer runs, or "
            "another runtime (openvino:FILE).",
            "profile",
        )
    pieces = runs // calls
    places = {call: place for place, call in enumerate(counted)}
    return [
        replace(one, run=places[one.run // pieces]) for one in found if one.run // pieces in places
    ]


def _images(
    spec: ProfileInput, description: ModelDescription, context: OperationContext
) -> tuple[list[Image], str]:
    if spec.data is None:
        size = description.card.input
        shape = (spec.batch_size, size.height, size.width, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return list(noise), f"noise of {size.width}×{size.height} pixels"
    dataset = open_verified(
        spec.data,
        skip_bad=True,
        max_images=spec.batch_size,
        context=context,
        unlabelled=True,
    )
    paths = [dataset.sample(place).path for place in range(len(dataset))]
    images = [decode_image(path.read_bytes(), str(path)) for path in paths]
    words = f"the first {len(images)} images" if len(images) > 1 else "the first image"
    repeated = [images[place % len(images)] for place in range(spec.batch_size)]
    again = ", repeated" if len(images) < spec.batch_size else ""
    bad = f", {plural(len(dataset.skipped), 'bad image')} left out" if dataset.skipped else ""
    return repeated, f"{words} of {spec.data}{bad}{again}"


def _prepared(model: LoadedModel, images: Sequence[Image]) -> tuple[Any, list[float]]:
    prepared = model.preprocess(images)
    return prepared, [_timed(lambda: model.preprocess(images)) for _ in range(_OTHER_RUNS)]


def _other_threads(
    spec: ProfileInput, options: LoadOptions, prepared: Any, context: OperationContext
) -> dict[int, list[float]]:
    """Inference at one thread and at all processors, where those aren't what was measured."""
    usable = usable_cpus_here()
    if spec.device != "cpu":
        return {}
    found: dict[int, list[float]] = {}
    for threads in sorted({1, usable} - {spec.threads or usable}):
        context.progress(f"trying {threads} thread{'s' * (threads > 1)}")
        with load_model(spec.model, replace(options, intra_op_threads=threads)) as model:
            infer = partial(model.infer, prepared)
            for _ in range(spec.warm_up_runs):
                context.check()
                infer()
            found[threads] = []
            for _ in range(min(spec.runs, _OTHER_RUNS)):
                context.check()
                found[threads].append(_timed(infer))
    return found


def _timed(run: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s
