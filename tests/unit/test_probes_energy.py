"""Energy: RAPL's layout, wraps and permissions; the estimate; J/image."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError, Unavailable
from visiondyno.measurements.measure import measured, not_measured
from visiondyno.probes.energy import EnergyProbe, energy_joules_per_image, estimate_joules
from visiondyno.probes.rapl import RaplCounter, counted_uj, find_zones

RANGE_UJ = 65_532_610_987


def zone(root: Path, folder: str, name: str, energy_uj: int) -> Path:
    """One powercap zone as the kernel lays it out (each lies flat in the class folder)."""
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Two packages with core and memory, psys, and the same package again by MMIO."""
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 700_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 100_000)
    zone(tmp_path, "intel-rapl:1", "package-1", RANGE_UJ - 499_999)
    zone(tmp_path, "intel-rapl:1:0", "uncore", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    (tmp_path / "sys/class/powercap/intel-rapl").mkdir()
    return tmp_path


def test_packages_and_memory_are_added_and_nothing_twice(server: Path) -> None:
    names = [f"{z.folder.name} {z.name}" for z in find_zones(server)]
    assert names == ["intel-rapl:0 package-0", "intel-rapl:0:1 dram", "intel-rapl:1 package-1"]


def test_mmio_is_used_where_it_is_all_there_is(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1)
    assert [z.folder.name for z in find_zones(tmp_path)] == ["intel-rapl-mmio:0"]


@given(start=st.integers(0, RANGE_UJ), spent=st.integers(0, RANGE_UJ))
def test_one_wrap_of_the_counter_loses_nothing(start: int, spent: int) -> None:
    after = (start + spent) % (RANGE_UJ + 1)
    assert counted_uj(start, after, RANGE_UJ) == spent


def test_counter_adds_zones_through_a_wrap(server: Path) -> None:
    counter = RaplCounter(server)
    counter.start()
    zone(server, "intel-rapl:0", "package-0", 3_000_000)
    zone(server, "intel-rapl:0:1", "dram", 600_000)
    zone(server, "intel-rapl:1", "package-1", 500_000)
    assert counter.stop() == pytest.approx(2.0 + 0.5 + 1.0)


def test_a_counter_that_vanishes_is_an_error_not_a_number(server: Path) -> None:
    counter = RaplCounter(server)
    counter.start()
    (server / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("garbage")
    with pytest.raises(Unavailable, match="can't be read"):
        counter.stop()


class Clock:
    """Wall and processor seconds that only a test moves."""

    def __init__(self) -> None:
        self.wall_s = 50.0
        self.cpu_s = 3.0


def cpu_probe(root: Path, clock: Clock) -> EnergyProbe:
    return EnergyProbe(
        "cpu", NoDriver, root, {}, now_s=lambda: clock.wall_s, cpu_s=lambda: clock.cpu_s
    )


class NoDriver:
    """NVML where there is no NVIDIA driver."""

    class NVMLError(Exception):
        pass

    @classmethod
    def nvmlInit(cls) -> None:  # noqa: N802 - NVML's own name
        raise cls.NVMLError("NVML Shared Library Not Found")


def test_energy_is_measured_by_rapl(server: Path) -> None:
    clock = Clock()
    probe = cpu_probe(server, clock)
    assert probe.available() is None
    probe.start()
    zone(server, "intel-rapl:0", "package-0", 21_000_000)
    clock.wall_s += 2
    energy = probe.stop()["energy_joules"]
    assert energy.value == pytest.approx(20.0)
    assert not energy.estimated
    assert "RAPL (dram, package-0, package-1)" in energy.method
    assert "idle power not subtracted" in energy.method


@pytest.mark.parametrize(("duration_s", "text"), [(0.4, "too short"), (2.0, "did not move")])
def test_a_counter_that_says_nothing_gives_no_value(
    server: Path, duration_s: float, text: str
) -> None:
    clock = Clock()
    probe = cpu_probe(server, clock)
    probe.start()
    clock.wall_s += duration_s
    energy = probe.stop()["energy_joules"]
    assert energy.value is None
    assert text in (energy.reason or "")


def test_a_counter_that_breaks_during_the_window_gives_a_reason(server: Path) -> None:
    clock = Clock()
    probe = cpu_probe(server, clock)
    probe.start()
    (server / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    clock.wall_s += 2
    energy = probe.stop()["energy_joules"]
    assert energy.value is None
    assert "intel-rapl:1" in (energy.reason or "")


def test_without_a_counter_the_figure_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    clock = Clock()
    probe = cpu_probe(tmp_path, clock)
    assert "RAPL" in (probe.available() or "")
    probe.start()
    clock.wall_s += 10
    clock.cpu_s += 15
    energy = probe.stop()["energy_joules"]
    assert energy.value == pytest.approx(4 * 15 + 20 * 10)
    assert energy.estimated
    assert "ESTIMATE" in energy.method


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder whose files a plain user can be refused; as root, root's rights are laid down."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        was = os.geteuid()
        yield folder
        os.seteuid(was)


def test_permission_denied_names_the_command_that_allows_it(unprivileged: Path) -> None:
    zone(unprivileged, "intel-rapl:0", "package-0", 1).chmod(0o000)
    if os.geteuid() == 0:
        os.seteuid(65534)
    probe = cpu_probe(unprivileged, Clock())
    assert "chmod a+r /sys/class/powercap" in (probe.available() or "")
    probe.start()
    assert probe.stop()["energy_joules"].estimated


def test_a_gpu_without_a_driver_has_no_energy_at_all(server: Path) -> None:
    clock = Clock()
    probe = EnergyProbe("cuda:1", NoDriver, server, {}, now_s=lambda: clock.wall_s)
    assert "No NVIDIA GPU" in (probe.available() or "")
    probe.start()
    clock.wall_s += 5
    energy = probe.stop()["energy_joules"]
    assert energy.value is None
    assert not energy.estimated


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SpecError, match="tpu"):
        EnergyProbe("tpu")


windows = st.lists(st.tuples(st.floats(0.001, 1e6), st.integers(1, 10**6)), min_size=1, max_size=8)


@given(windows)
def test_joules_an_image_is_all_energy_over_all_images(pairs: list[tuple[float, int]]) -> None:
    measure = energy_joules_per_image([(measured("energy_joules", j, "m"), n) for j, n in pairs])
    images = sum(n for _, n in pairs)
    assert measure.value == pytest.approx(sum(j for j, _ in pairs) / images)
    assert measure.n == images
    assert (measure.interval is None) == (len(pairs) < 3)
    if measure.interval is not None:
        low, high = measure.interval
        assert low is not None
        assert high is not None
        assert 0 <= low <= high


def test_the_interval_is_students_t() -> None:
    # scipy-free figures: mean 2, s = 1, t(0.975; 2) = 4.302653 (any statistics table).
    measures = [(measured("energy_joules", j, "m"), 1) for j in (1.0, 2.0, 3.0)]
    low, high = energy_joules_per_image(measures).interval or (None, None)
    assert high == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-6)
    assert low == 0.0


def test_one_window_without_energy_or_with_an_estimate_marks_the_whole() -> None:
    good = measured("energy_joules", 5, "RAPL")
    absent = energy_joules_per_image([(good, 2), (not_measured("energy_joules", "gone"), 2)])
    assert absent.value is None
    assert absent.reason == "gone"
    mixed = energy_joules_per_image([(good, 2), (estimate_joules(1, 1, "no RAPL"), 2)])
    assert mixed.estimated


@pytest.mark.parametrize("images", [[], [0]])
def test_no_images_is_an_error(images: list[int]) -> None:
    with pytest.raises(ValueError, match="image"):
        energy_joules_per_image([(measured("energy_joules", 5, "m"), n) for n in images])
