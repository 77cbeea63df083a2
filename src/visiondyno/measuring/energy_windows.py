"""Energy of a run in several windows, so that joules an image have an interval."""

import time
from collections.abc import Callable

from visiondyno.measurements.measure import Measure
from visiondyno.probes.base import Probe
from visiondyno.probes.energy import MIN_WINDOW_S, energy_joules_per_image

WINDOWS = 5


class EnergyWindows:
    """Splits a run into windows of `duration_s` / 5, but at least the probe's least.

    `start`, then `count` after each step with the images done so far, then `finish`. A last window
    too short to be read is left out together with its images, unless it is the only one.
    """

    def __init__(
        self,
        probe: Probe,
        duration_s: float,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._probe = probe
        self._least_s = max(duration_s / WINDOWS, MIN_WINDOW_S)
        self._now_s = now_s
        self._windows: list[tuple[Measure, int]] = []
        self._began_s = 0.0
        self._counted = 0
        self._done = 0

    def start(self) -> None:
        """Open the first window."""
        self._probe.start()
        self._began_s = self._now_s()

    def count(self, done: int) -> None:
        """`done` images are finished since `start`; closes the window if it is long enough."""
        self._done = done
        if self._now_s() - self._began_s >= self._least_s and done > self._counted:
            self._close()
            self.start()

    def finish(self) -> Measure:
        """`energy_joules_per_image` over all windows; without a value where none can be read."""
        if self._done > self._counted and (
            not self._windows or self._now_s() - self._began_s >= MIN_WINDOW_S
        ):
            self._close()
        else:
            self._probe.stop()
        return energy_joules_per_image(self._windows)

    def _close(self) -> None:
        energy = self._probe.stop()["energy_joules"]
        self._windows.append((energy, self._done - self._counted))
        self._counted = self._done
