"""The probe seam: something that reads the machine between `start` and `stop`."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

from visiondyno.errors import OperationFailed
from visiondyno.measurements.measure import Measures


class Probe(ABC):
    """Reads one aspect of the machine over a window of time.

    Contract: `available` says why nothing can be read here, or None. `start` never raises for a
    machine that can't be read: then `stop` returns each of the probe's names as a measure without
    a value and with the reason, never 0; or, where the class says so, as an estimate marked as
    one. `stop` without `start` raises `OperationFailed`. A probe may be started again after
    `stop`; each window stands for itself, unless the class says more.
    Thread safety: start and stop from one thread.
    """

    names: tuple[str, ...]
    """What `stop` returns, in `MEASURES` or `SUPPLEMENTARY_UNITS`."""

    @abstractmethod
    def available(self) -> str | None:
        """Why this can't be measured here, or None where it can."""

    @abstractmethod
    def start(self) -> None:
        """Open the window."""

    @abstractmethod
    def stop(self) -> Measures:
        """Close the window: one measure for each of `names`."""


class Window:
    """What was read during `watch`; readable once its block has ended."""

    def __init__(self) -> None:
        self._measures: Measures | None = None
        self._duration_s: float | None = None

    @property
    def duration_s(self) -> float:
        """Seconds from the block's beginning to its end, monotonic clock.

        Raises:
            OperationFailed: the block is still running.
        """
        if self._duration_s is None:
            raise OperationFailed("A window has no duration before its block ends.", "probe")
        return self._duration_s

    def measurements(self) -> Measures:
        """Every probe's measures, by name.

        Raises:
            OperationFailed: the block is still running.
        """
        if self._measures is None:
            raise OperationFailed("A window has no measurements before its block ends.", "probe")
        return dict(self._measures)

    def _close(self, duration_s: float, measures: Measures) -> None:
        self._duration_s = duration_s
        self._measures = measures


@contextmanager
def watch(probes: Sequence[Probe]) -> Iterator[Window]:
    """Run the block under `probes`; all are stopped however it ends.

    The first probe given opens first and closes last, so put those that must not be seen by the
    others (a sampling thread costs processor time) last.

    Raises:
        ValueError: two probes measure the same name.
    """
    names = [name for probe in probes for name in probe.names]
    if len(names) != len(set(names)):
        raise ValueError(f"two probes measure the same name: {sorted(names)}")
    window = Window()
    measures: Measures = {}
    # The stack closes every probe, the last one first, even if the block or a probe raises.
    with ExitStack() as open_probes:
        for probe in probes:
            probe.start()
            open_probes.callback(_collect, probe, measures)
        began_ns = time.perf_counter_ns()
        yield window
        duration_s = (time.perf_counter_ns() - began_ns) / 1e9
    window._close(duration_s, measures)


def _collect(probe: Probe, measures: Measures) -> None:
    measures.update(probe.stop())


class Sampler:
    """Calls `sample` at once, then every `interval_s` from a thread of its own, and at the stop.

    An exception ends the sampling; `stop` returns it, since a probe must say that its peak may
    have been missed.
    """

    def __init__(self, sample: Callable[[], None], interval_s: float) -> None:
        self._sample = sample
        self._interval_s = interval_s
        self._stopping = Event()
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name="visiondyno-sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample and start the thread."""
        self._take()
        self._thread.start()

    def stop(self) -> Exception | None:
        """End the thread, take the last sample; what went wrong on the way, or None."""
        self._stopping.set()
        self._thread.join()
        self._take()
        return self._error

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._take()

    def _take(self) -> None:
        if self._error is not None:
            return
        try:
            self._sample()
        except Exception as error:
            # An exception that ends a thread is seen by nobody; `stop` hands it on.
            self._error = error
