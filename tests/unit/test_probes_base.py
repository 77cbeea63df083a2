"""The probe seam: windows, names, and probes that must stop whatever happens."""

from threading import Event

import pytest

from visiondyno.errors import OperationFailed
from visiondyno.measurements.measure import MEASURES, Measures, measured, not_measured, unit_of
from visiondyno.probes.base import Probe, Sampler, watch
from visiondyno.probes.cpu import CpuProbe
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe
from visiondyno.probes.memory import MemoryProbe


class Recorder(Probe):
    """Writes down when it was started and stopped."""

    def __init__(self, name: str, log: list[str], fails: str = "") -> None:
        self.names = (name,)
        self._log = log
        self._fails = fails

    def available(self) -> str | None:
        return None

    def start(self) -> None:
        if self._fails == "start":
            raise RuntimeError("start")
        self._log.append(f"start {self.names[0]}")

    def stop(self) -> Measures:
        self._log.append(f"stop {self.names[0]}")
        if self._fails == "stop":
            raise RuntimeError("stop")
        return {self.names[0]: measured(self.names[0], 1.0, "test")}


def test_first_opened_closes_last_and_all_measures_arrive() -> None:
    log: list[str] = []
    with watch([Recorder("load_ms", log), Recorder("cpu_percent", log)]) as window:
        log.append("block")
    assert log == [
        "start load_ms",
        "start cpu_percent",
        "block",
        "stop cpu_percent",
        "stop load_ms",
    ]
    assert set(window.measurements()) == {"load_ms", "cpu_percent"}
    assert window.duration_s > 0


def test_a_window_says_nothing_before_it_ends() -> None:
    with watch([]) as window:
        with pytest.raises(OperationFailed):
            window.measurements()
        with pytest.raises(OperationFailed):
            _ = window.duration_s
    assert window.measurements() == {}


@pytest.mark.parametrize("fails", ["start", "stop", "block"])
def test_every_started_probe_is_stopped_when_something_raises(fails: str) -> None:
    log: list[str] = []
    probes = [Recorder("load_ms", log), Recorder("cpu_percent", log, fails)]
    with pytest.raises(RuntimeError, match=fails), watch(probes):
        raise RuntimeError("block")
    assert log.count("stop load_ms") == 1


def test_two_probes_of_one_name_are_refused_before_they_start() -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="cpu_percent"), watch([CpuProbe(), CpuProbe()]):
        log.append("ran")
    assert log == []


def test_units_come_from_the_measure_table_or_the_supplement() -> None:
    assert measured("energy_joules", 2, "m").unit == "J"
    assert measured("cpu_percent", 2, "m").unit == MEASURES["cpu_percent"].unit
    assert not_measured("energy_joules", "why").unit == "J"
    with pytest.raises(KeyError):
        unit_of("no_such_measure")


def test_sampler_samples_at_start_at_stop_and_between() -> None:
    taken: list[int] = []
    third = Event()

    def sample() -> None:
        taken.append(1)
        if len(taken) >= 3:
            third.set()

    sampler = Sampler(sample, interval_s=0.001)
    sampler.start()
    assert third.wait(timeout=60)
    assert sampler.stop() is None
    count = len(taken)
    assert count >= 4


def test_sampler_hands_over_the_error_that_ended_it() -> None:
    calls: list[int] = []

    def sample() -> None:
        calls.append(1)
        raise OSError("gone")

    sampler = Sampler(sample, interval_s=1000)
    sampler.start()
    error = sampler.stop()
    assert isinstance(error, OSError)
    assert len(calls) == 1


@pytest.mark.parametrize("probe", [MemoryProbe(), CpuProbe(), GpuProbe("cpu"), EnergyProbe("cpu")])
def test_stop_without_start_is_an_error(probe: Probe) -> None:
    with pytest.raises(OperationFailed, match="start"):
        probe.stop()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_probes_together_answer_every_name_they_promise(device: str) -> None:
    probes: list[Probe] = [MemoryProbe(), GpuProbe(device), EnergyProbe(device), CpuProbe()]
    with watch(probes) as window:
        pass
    measures = window.measurements()
    assert set(measures) == {name for probe in probes for name in probe.names}
    for name, measure in measures.items():
        assert measure.unit == unit_of(name)
        assert (measure.value is None) == (measure.reason is not None), name
