"""What a worker measures of a module before it trains it: latency, throughput, energy, size.

Weights don't change any of it, so it counts from the first epoch on. The rules are in
docs/methods.md. Nothing that the training depends on is changed: random generators, buffers and
mode are afterwards as they were.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visiondyno.errors import VisionDynoError
from visiondyno.measurements.measure import Interval, Measure, Measures
from visiondyno.measurements.percentiles import mean_interval, percentile, percentile_interval
from visiondyno.measuring.energy_windows import EnergyWindows
from visiondyno.operations.context import OperationContext
from visiondyno.probes.base import Probe
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu_share import memory_fraction
from visiondyno.probes.quiet import QuietMonitor, Quietness
from visiondyno.specs.training import Hyperparameters
from visiondyno.specs.training_operations import Measurable
from visiondyno.training.arguments import one_line
from visiondyno.training.data import Samples
from visiondyno.training.memory import is_out_of_memory
from visiondyno.training.precision import autocast

if TYPE_CHECKING:
    import torch
    from torch import nn

UNITS: dict[str, str] = {
    "latency_ms": "ms",
    "throughput_images_per_s": "images/s",
    "energy_joules": "J/image",
    "parameters": "parameters",
}
"""Of each that can be measured; an image is one sample, whatever the data are."""

_WARM_UP_SHARE = 0.25
_WINDOW = 8
_STEADY_WITHIN = 0.05
_STRETCHES = 40

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        module: on `device`; called as it is, also where the training compiles it.
        samples: the first ones are what it is given.
        hyperparameters: batch size and precision are used.
        device: where.
    """

    module: "nn.Module"
    samples: Samples
    hyperparameters: Hyperparameters
    device: "torch.device"


@dataclass(frozen=True, slots=True)
class ModuleMeasurements:
    """What was measured, and beside what.

    Attributes:
        measures: by name, in the order in which they were asked for.
        beside_other_load: whether the machine did other work meanwhile, or its speed changed;
            None where nothing was timed or that can't be told.
        notes: what a reader must know.
    """

    measures: Measures
    beside_other_load: bool | None = None
    notes: tuple[str, ...] = ()


def measure_module(
    subject: Subject,
    names: Sequence[Measurable],
    context: OperationContext,
    *,
    seconds: float = 3.0,
    clock: Clock = time.perf_counter,
    monitor: QuietMonitor | None = None,
    energy_probe: Probe | None = None,
) -> ModuleMeasurements:
    """Measure `names` of a module where it is, as it is evaluated.

    A pass that is slow is finished: at least one of each kind follows the warm-up, whatever time
    there is. What can't be measured has no value, and the reason.

    Args:
        subject: the module, with what it is given.
        names: what to measure.
        context: asked between passes whether to stop.
        seconds: for all of it, a third each for latency, energy and throughput.
        clock: seconds.
        monitor: of the machine's other work; None: this machine's.
        energy_probe: gives `energy_joules`; None: that of `device`.

    Raises:
        Cancelled, TimeLimitExceeded: the job must stop.
    """
    measures: Measures = {}
    if "parameters" in names:
        measures["parameters"] = _count_parameters(subject.module)
    timed = [name for name in names if name != "parameters"]
    if not timed:
        return ModuleMeasurements(measures)
    monitor = monitor or QuietMonitor()
    passes = _Passes(subject, context, clock)
    probe = None
    if "energy_joules" in timed:
        probe = energy_probe or EnergyProbe(str(subject.device))
    monitor.start()
    with _undisturbed(subject.module, subject.device):
        if probe is not None or "latency_ms" in timed:
            share_s = seconds * (1 if probe is None else 2) / 3
            measures |= passes.or_reasons(
                ("latency_ms", "energy_joules"), lambda: passes.singly(share_s, probe)
            )
        if "throughput_images_per_s" in timed:
            measures |= passes.or_reasons(
                ("throughput_images_per_s",), lambda: passes.in_batches(seconds / 3)
            )
    asked: Measures = {name: measures[name] for name in names}
    return _judged(asked, monitor.stop(), subject.device)


class _Passes:
    """Forward passes of one module, timed."""

    def __init__(self, subject: Subject, context: OperationContext, clock: Clock) -> None:
        self._module = subject.module
        self._samples = subject.samples
        self._hyper = subject.hyperparameters
        self._device = subject.device
        self._context = context
        self._clock = clock

    def or_reasons(self, names: Sequence[str], measure: Callable[[], Measures]) -> Measures:
        """What `measure` gives; of a module that can't be run so, the reason for each name."""
        try:
            return measure()
        except VisionDynoError:
            raise
        except Exception as error:  # a module raises whatever its own code stumbles over
            full = is_out_of_memory(error)
            reason = "the memory is full" if full else f"the model fails at it: {one_line(error)}"
            return {
                name: Measure(value=None, unit=UNITS[name], method="none", reason=reason)
                for name in names
            }

    def singly(self, share_s: float, probe: Probe | None) -> Measures:
        """One sample at a time for `share_s`: latency, and energy where there is a probe."""
        features = self._features(1)
        end_s = self._clock() + share_s
        warm = self._warm_up(features, share_s * _WARM_UP_SHARE)
        latencies_ms: list[float] = []
        windows = None
        if probe is not None:
            windows = EnergyWindows(probe, max(0.0, end_s - self._clock()), self._clock)
            windows.start()
        try:
            while not latencies_ms or self._clock() < end_s:
                latencies_ms.append(1000 * self._seconds_of(features, 1))
                if windows is not None:
                    windows.count(len(latencies_ms))
                self._context.check()
        except BaseException:
            if probe is not None:
                probe.stop()
            raise
        energy = None if windows is None else windows.finish()
        return self._latency(latencies_ms, warm) | self._energy(energy)

    def in_batches(self, share_s: float) -> Measures:
        """One batch after the other for `share_s`; a GPU is waited for after each stretch."""
        size = self._hyper.batch_size
        features = self._features(size)
        end_s = self._clock() + share_s
        warm = self._warm_up(features, share_s * _WARM_UP_SHARE)
        left_s = max(0.0, end_s - self._clock())
        batches = max(1, int(left_s / _STRETCHES / warm.pass_s)) if warm.pass_s > 0 else 1
        stretches_s: list[float] = []
        while not stretches_s or self._clock() < end_s:
            stretches_s.append(self._seconds_of(features, batches))
            self._context.check()
        images = size * batches
        name = "throughput_images_per_s"
        return {
            name: Measure(
                value=images * len(stretches_s) / sum(stretches_s),
                unit=UNITS[name],
                interval=_rate_interval(images, stretches_s),
                n=images * len(stretches_s),
                method=f"batches of {size} through the model, one after the other, {self._how}; "
                f"in {len(stretches_s)} stretches, interval by batch means{warm.said}",
            )
        }

    def _latency(self, latencies_ms: Sequence[float], warm: "_WarmUp") -> Measures:
        return {
            "latency_ms": Measure(
                value=percentile(latencies_ms, 0.5),
                unit=UNITS["latency_ms"],
                interval=percentile_interval(latencies_ms, 0.5),
                n=len(latencies_ms),
                method=f"median time of one sample through the model, {self._how}; none clipped; "
                f"interval by order statistics, widened for autocorrelation{warm.said}",
            )
        }

    def _energy(self, energy: Measure | None) -> Measures:
        if energy is None:
            return {}
        method = f"one sample at a time through the model, {self._how}; {energy.method}"
        known = energy.value is not None
        return {"energy_joules": energy.model_copy(update={"method": method} if known else {})}

    @property
    def _how(self) -> str:
        import torch

        parts = ["evaluation mode", f"features on {self._device}"]
        if self._device.type == "cpu":
            count = torch.get_num_threads()
            parts.append(f"{count} thread{'s' if count > 1 else ''}")
        if self._hyper.mixed_precision != "none":
            parts.append(f"autocast to {self._hyper.mixed_precision}")
        if self._hyper.compile:
            parts.append("not compiled")
        return ", ".join(parts)

    def _features(self, size: int) -> "torch.Tensor":
        """The first samples on the device, from the first again where they are fewer."""
        import torch

        indices = torch.arange(size) % len(self._samples)
        return self._samples.features(indices).to(self._device)

    def _warm_up(self, features: "torch.Tensor", limit_s: float) -> "_WarmUp":
        """Passes until the medians of three windows of 8 lie within 5 %, or the time is over."""
        end_s = self._clock() + limit_s
        taken_s: list[float] = []
        medians: list[float] = []
        while not taken_s or self._clock() < end_s:
            taken_s.append(self._seconds_of(features, 1))
            self._context.check()
            if len(taken_s) % _WINDOW == 0:
                medians.append(statistics.median(taken_s[-_WINDOW:]))
                last = medians[-3:]
                if len(last) == 3 and max(last) - min(last) <= _STEADY_WITHIN * min(last):
                    return _WarmUp(medians[-1], steady=True)
        return _WarmUp(statistics.median(taken_s[-_WINDOW:]), steady=False)

    def _seconds_of(self, features: "torch.Tensor", passes: int) -> float:
        began_s = self._clock()
        for _ in range(passes):
            with autocast(self._hyper.mixed_precision, self._device):
                self._module(features)
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        return self._clock() - began_s


@dataclass(frozen=True, slots=True)
class _WarmUp:
    """How the warm-up ended: the time of a pass by then, and whether it had settled."""

    pass_s: float
    steady: bool

    @property
    def said(self) -> str:
        return "" if self.steady else "; the warm-up ended before three windows agreed within 5 %"


@contextmanager
def _undisturbed(module: "nn.Module", device: "torch.device") -> Iterator[None]:
    """Evaluation without gradients; afterwards everything is as it was.

    Not `inference_mode`: what a module keeps of such a pass could not be trained with.
    """
    import torch

    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    was_training = module.training
    devices = [device] if device.type == "cuda" else []
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        module.train(was_training)


def _count_parameters(module: "nn.Module") -> Measure:
    counts = [(weight.numel(), weight.requires_grad) for weight in module.parameters()]
    total = sum(count for count, _ in counts)
    learning = sum(count for count, learns in counts if learns)
    method = f"all weights, shared ones once, no buffers; {learning:,} of them are trained"
    return Measure(value=total, unit=UNITS["parameters"], n=len(counts), method=method)


def _rate_interval(images: int, stretches_s: Sequence[float]) -> Interval | None:
    spread = mean_interval(stretches_s)
    if spread is None:
        return None
    low_s, high_s = spread
    low = images / high_s if high_s else None
    return low, images / low_s if low_s is not None and low_s > 0 else None


def _judged(measures: Measures, quietness: Quietness, device: "torch.device") -> ModuleMeasurements:
    """The measures with what ran beside them in their methods."""
    is_told = quietness.reasons or "others_cpu_percent" in quietness.readings
    beside = bool(quietness.reasons) if is_told else None
    reasons = " ".join(quietness.reasons)
    said = {
        True: f"; beside other load: {reasons.rstrip('.')}",
        False: "",
        None: "; whether other load ran beside it can't be told",
    }[beside]
    if device.type == "cuda" and memory_fraction() is not None:
        said += "; other workers may have used this GPU"
    judged = {
        name: measure
        if name == "parameters" or measure.value is None
        else measure.model_copy(update={"method": measure.method.rstrip(".") + said})
        for name, measure in measures.items()
    }
    notes = (f"The measurements were taken beside other load. {reasons}",) if beside else ()
    return ModuleMeasurements(judged, beside, notes)
