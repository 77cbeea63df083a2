"""Memory of this process, from the kernel's own high-water mark."""

import os
from pathlib import Path

from visiondyno.errors import OperationFailed
from visiondyno.measurements.measure import Measure, Measures, measured, not_measured
from visiondyno.probes.base import Probe
from visiondyno.probes.kernel_files import ROOT, Cgroup, read_cgroup, read_fields

_PEAK_METHOD = "VmHWM of /proc/self/status: the kernel's own mark, not polled"
_RESET_HIGH_WATER_MARK = b"5"
"""proc(5): written to clear_refs, sets VmHWM back to the present resident size."""


class MemoryProbe(Probe):
    """Peak resident memory: of the process's whole life and of this window.

    The kernel keeps one mark a process. `start` sets it back so that `stop` sees the window's own
    peak, and remembers the mark from before: `peak_rss_bytes` is the highest that this probe has
    seen over all its windows. Use one probe in a process, or an earlier one's reset hides a peak.

    A forked process begins with its parent's memory: use it in a spawned one.
    """

    names = (
        "peak_rss_bytes",
        "peak_inference_rss_bytes",
        "pss_bytes",
        "uss_bytes",
        "cgroup_peak_bytes",
    )

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._process = root / "proc/self"
        self._highest_bytes = 0
        self._reset_refused: str | None = None
        self._cgroup: Cgroup | None = None

    def available(self) -> str | None:
        """Why VmHWM can't be read, or None."""
        if self._high_water_bytes() is None:
            return (
                f"{self._process / 'status'} holds no VmHWM: peak memory needs the Linux kernel's "
                "/proc"
            )
        return None

    def start(self) -> None:
        """Remember the mark and set it back."""
        self._cgroup = read_cgroup(self._root)
        self._highest_bytes = max(self._highest_bytes, self._high_water_bytes() or 0)
        self._reset_refused = self._reset()

    def stop(self) -> Measures:
        """Both peaks, and beside them the shared-page-aware sizes and the container's peak."""
        if self._cgroup is None:
            raise OperationFailed("MemoryProbe.stop needs a start before it.", "probe")
        missing = self.available()
        if missing is not None:
            peaks = {name: not_measured(name, missing) for name in self.names[:2]}
        else:
            peaks = self._peaks()
        return {**peaks, **self._shared_aware(), "cgroup_peak_bytes": self._cgroup_peak()}

    def _peaks(self) -> Measures:
        window_bytes = self._high_water_bytes() or 0
        self._highest_bytes = max(self._highest_bytes, window_bytes)
        peaks = {"peak_rss_bytes": measured("peak_rss_bytes", self._highest_bytes, _PEAK_METHOD)}
        name = "peak_inference_rss_bytes"
        if self._reset_refused is None:
            method = f"{_PEAK_METHOD}, set back when the window opened"
            peaks[name] = measured(name, window_bytes, method)
        else:
            peaks[name] = not_measured(name, self._reset_refused)
        return peaks

    def _high_water_bytes(self) -> int | None:
        kilobytes = read_fields(self._process / "status").get("VmHWM")
        return None if kilobytes is None else kilobytes * 1024

    def _reset(self) -> str | None:
        path = self._process / "clear_refs"
        try:
            # Not Path.write_text: it would make the file where the kernel has none, and succeed.
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.write(descriptor, _RESET_HIGH_WATER_MARK)
            finally:
                os.close(descriptor)
        except OSError as error:
            return (
                f"the kernel refused to set the peak back ({path}: {error.strerror}), so a peak "
                "before inference can't be told from one during it"
            )
        return None

    def _shared_aware(self) -> Measures:
        fields = read_fields(self._process / "smaps_rollup")
        path = self._process / "smaps_rollup"
        if "Pss" not in fields:
            reason = f"{path} holds no Pss: it needs Linux 4.14 or later"
            return {name: not_measured(name, reason) for name in ("pss_bytes", "uss_bytes")}
        private = fields.get("Private_Clean", 0) + fields.get("Private_Dirty", 0)
        return {
            "pss_bytes": measured(
                "pss_bytes",
                fields["Pss"] * 1024,
                "smaps_rollup when the window closed: shared pages divided among their users",
            ),
            "uss_bytes": measured(
                "uss_bytes",
                private * 1024,
                "smaps_rollup when the window closed: pages of this process alone",
            ),
        }

    def _cgroup_peak(self) -> Measure:
        name = "cgroup_peak_bytes"
        peak = self._cgroup.peak_bytes() if self._cgroup is not None else None
        if peak is None:
            return not_measured(
                name, "the cgroup has no memory.peak (Linux 5.19) or memory.max_usage_in_bytes"
            )
        return measured(
            name, peak, "the cgroup's own mark: page cache and the group's other processes counted"
        )
