"""Energy of processor packages and their memory: RAPL, through Linux' powercap."""

from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import Unavailable
from visiondyno.probes.base import Sampler
from visiondyno.probes.kernel_files import ROOT, read_int, read_text

READ_INTERVAL_S = 30.0
"""The 32-bit counter wraps after 65 to 262 kJ. Read so often, one wrap at most lies between two
readings up to 2 kW a package."""

PERMISSION_FIX = "sudo chmod a+r /sys/class/powercap/*/energy_uj"
"""Until the next boot. A udev rule makes it last; see docs/measuring-energy.md."""


@dataclass(frozen=True, slots=True)
class RaplZone:
    """One counter.

    Attributes:
        name: e.g. `package-0`, `dram`.
        folder: holds `energy_uj`.
        range_uj: the counter's highest value, microjoules.
    """

    name: str
    folder: Path
    range_uj: int

    def read_uj(self) -> int:
        """The counter, microjoules.

        Raises:
            Unavailable: not allowed, or unreadable.
        """
        path = self.folder / "energy_uj"
        try:
            return int(path.read_text(encoding="ascii"))
        except PermissionError as error:
            raise Unavailable(
                f"{path} may be read by root only; allow it with: {PERMISSION_FIX}"
            ) from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"{path} can't be read: {error}") from error


def counted_uj(before_uj: int, after_uj: int, range_uj: int) -> int:
    """Microjoules between two readings of a counter that wraps once at most.

    After `range_uj` comes 0 (Documentation/power/powercap: max_energy_range_uj).
    """
    return (after_uj - before_uj) % (range_uj + 1)


def find_zones(root: Path = ROOT) -> tuple[RaplZone, ...]:
    """The counters to add up: each processor package, and each package's memory where apart.

    `core` and `uncore` are parts of their package, and `psys` holds the package, so neither is
    added. The same package shows again under `intel-rapl-mmio`: used only where the first isn't.

    Raises:
        Unavailable: the kernel shows no package.
    """
    powercap = root / "sys/class/powercap"
    for driver in ("intel-rapl", "intel-rapl-mmio"):
        zones = [
            RaplZone(name, folder, range_uj)
            for folder in sorted(powercap.glob(f"{driver}:*"))
            if (name := read_text(folder / "name") or "").startswith(("package", "dram"))
            and (range_uj := read_int(folder / "max_energy_range_uj"))
        ]
        if any(zone.name.startswith("package") for zone in zones):
            return tuple(zones)
    raise Unavailable(
        f"The kernel shows no RAPL energy counter under {powercap} (usual on virtual machines, "
        "containers and other makers' processors)."
    )


class RaplCounter:
    """Adds up all zones from its making to `stop`, through wraps while `start` has it running.

    Raises:
        Unavailable: at making, no zone can be read.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.zones = find_zones(root)
        self._last_uj = [zone.read_uj() for zone in self.zones]
        self._total_uj = 0
        self._sampler = Sampler(self._add, READ_INTERVAL_S)

    def start(self) -> None:
        """Read every `READ_INTERVAL_S` from a thread."""
        self._sampler.start()

    def stop(self) -> float:
        """Joules of all zones since its making.

        Raises:
            Unavailable: a zone became unreadable.
        """
        error = self._sampler.stop()
        if error is not None:
            raise error
        return self._total_uj / 1e6

    def _add(self) -> None:
        now_uj = [zone.read_uj() for zone in self.zones]
        for zone, before, after in zip(self.zones, self._last_uj, now_uj, strict=True):
            self._total_uj += counted_uj(before, after, zone.range_uj)
        self._last_uj = now_uj
