"""What is measured of workers and their machine for those who look at them."""

from dataclasses import replace
from pathlib import Path

from visiondyno import __version__
from visiondyno.errors import Unavailable
from visiondyno.executors.workers import WorkerInfo
from visiondyno.probes.kernel_files import ROOT, read_fields
from visiondyno.probes.nvml import Nvml, NvmlDevice


class MachineFacts:
    """Adds memory and GPU to what a supervisor knows of a worker; None for what can't be read."""

    def __init__(self, machine: str | None = None, root: Path = ROOT) -> None:
        self._root = root
        self._machine = machine
        self._gpu: NvmlDevice | None = None
        try:
            self._gpu = Nvml().device(0)
        except Unavailable:
            self._gpu = None

    def of(self, info: WorkerInfo) -> WorkerInfo:
        """The same worker with its memory and GPU."""
        name, used = self._read_gpu()
        return replace(
            info,
            rss_bytes=None if info.pid is None else self._rss_bytes(info.pid),
            gpu=name,
            gpu_memory_used_bytes=used,
            machine=self._machine,
            version=__version__,
        )

    def _rss_bytes(self, pid: int) -> int | None:
        kibibytes = read_fields(self._root / "proc" / str(pid) / "status").get("VmRSS")
        return None if kibibytes is None else kibibytes * 1024

    def _read_gpu(self) -> tuple[str | None, int | None]:
        if self._gpu is None:
            return None, None
        try:
            return self._gpu.name, self._gpu.used_bytes()
        except Unavailable:
            return None, None
