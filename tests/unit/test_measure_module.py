"""What is measured of a module: numbers by a clock that the module moves, bounds, reasons."""

import base64
import io
import os
from pathlib import Path
from typing import Any

import pytest
from operation_cases import TRAIN, alike, done
from test_operations_interruptions import killed_after
from training_cases import CPU, MLP, class_samples, nn, session, torch

from visiondyno.errors import Cancelled, SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.measure_module import (
    UNITS,
    ModuleMeasurements,
    Subject,
    measure_module,
)
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.specs.training import Hyperparameters

pytestmark = pytest.mark.torch

ALL: Any = ("energy_joules", "latency_ms", "parameters", "throughput_images_per_s")
WATTS = 8
CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


class Machine:
    """Kernel files and a clock, which only `pass_by` moves."""

    def __init__(self, root: Path, *, counts_energy: bool = True, others: float = 0.0) -> None:
        self.now_s = 100.0
        self.root = root
        self._began_s = self.now_s
        self._counts_energy = counts_energy
        self._others = others
        self._told_s = 0.0
        (root / "proc").mkdir()
        self._zone = root / "sys/class/powercap/intel-rapl:0"
        if counts_energy:
            self._zone.mkdir(parents=True)
            (self._zone / "name").write_text("package-0\n")
            (self._zone / "max_energy_range_uj").write_text("65532610987\n")
        self.pass_by(0.0)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, in which other processes take their share of each processor."""
        self.now_s += seconds
        since_s = self.now_s - self._began_s
        if self._counts_energy:
            (self._zone / "energy_uj").write_text(f"{round(1e6 * WATTS * since_s)}\n")
        if 0 < since_s < self._told_s + 0.1:
            return  # the test waits for each file
        self._told_s = since_s
        ticks = os.sysconf("SC_CLK_TCK")
        busy, idle = round(ticks * since_s * self._others), round(ticks * since_s * 2)
        rows = [f"cpu{n} {busy} 0 0 {idle} 0 0 0 0 0 0" for n in CPUS]
        (self.root / "proc/stat").write_text("\n".join(rows))

    def clock(self) -> float:
        return self.now_s

    def monitor(self) -> QuietMonitor:
        return QuietMonitor(self.root, None, lambda: 0.01, self.clock, lambda: 0.0)

    def probe(self) -> EnergyProbe:
        return EnergyProbe("cpu", None, self.root, {}, now_s=self.clock, cpu_s=lambda: 0.0)


class Slow(nn.Module):
    """Takes 10 ms and another 2 for each sample, and remembers how it was called."""

    def __init__(self, machine: Machine, factor: float = 1.0, most: int = 10**6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.sizes: list[int] = []
        self._machine, self._factor, self._most = machine, factor, most

    def forward(self, features: Any) -> Any:
        assert not self.training
        assert not torch.is_grad_enabled()
        if len(features) > self._most:
            raise RuntimeError(f"no more than {self._most} at once")
        self.calls += 1
        torch.rand(3)
        self.sizes.append(len(features))
        self._machine.pass_by(self._factor * (0.010 + 0.002 * len(features)))
        return features @ self.weight


def measure(
    machine: Machine,
    module: nn.Module,
    names: Any = ALL,
    seconds: float = 6.0,
    context: OperationContext | None = None,
) -> ModuleMeasurements:
    subject = Subject(module, class_samples(24), Hyperparameters(batch_size=20), CPU)
    return measure_module(
        subject,
        names,
        context or OperationContext(),
        seconds=seconds,
        clock=machine.clock,
        monitor=machine.monitor(),
        energy_probe=machine.probe(),
    )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A quiet machine that counts energy."""
    return Machine(tmp_path)


def test_numbers_are_those_of_the_clock_and_the_counter(machine: Machine) -> None:
    found = measure(machine, Slow(machine))
    assert tuple(found.measures) == ALL
    assert {name: one.unit for name, one in found.measures.items()} == {n: UNITS[n] for n in ALL}
    values = {name: one.value for name, one in found.measures.items()}
    assert values["parameters"] == 12
    assert values["latency_ms"] == pytest.approx(12)
    assert values["throughput_images_per_s"] == pytest.approx(20 / 0.050)
    assert values["energy_joules"] == pytest.approx(WATTS * 0.012, rel=1e-3)
    assert not any(one.estimated for one in found.measures.values())
    assert found.measures["latency_ms"].interval == pytest.approx((12, 12))
    assert found.measures["throughput_images_per_s"].interval == pytest.approx((400, 400))
    assert "RAPL (package-0)" in found.measures["energy_joules"].method
    assert (found.beside_other_load, found.notes) == (False, ())


def test_it_takes_the_time_it_is_given_a_third_for_each(machine: Machine) -> None:
    module = Slow(machine)
    began_s = machine.now_s
    measure(machine, module)
    assert 6.0 <= machine.now_s - began_s <= 6.1
    assert {1, 20} == set(module.sizes)
    assert sum(size == 1 for size in module.sizes) * 0.012 == pytest.approx(4, abs=0.02)
    for names, wanted_s in [
        (("latency_ms",), 2.0),
        (("energy_joules",), 4.0),
        (("parameters",), 0),
    ]:
        began_s = machine.now_s
        measure(machine, module, names)
        assert machine.now_s - began_s == pytest.approx(wanted_s, abs=0.02)


def test_a_slow_module_is_passed_twice_a_kind_and_no_more(machine: Machine) -> None:
    module = Slow(machine, factor=1000)
    found = measure(machine, module, seconds=3)
    assert module.sizes == [1, 1, 20, 20]
    assert found.measures["latency_ms"].value == pytest.approx(12_000)
    assert found.measures["latency_ms"].n == 1
    assert found.measures["latency_ms"].interval == (None, None)
    assert "the warm-up ended before" in found.measures["latency_ms"].method
    assert found.measures["throughput_images_per_s"].interval is None
    assert found.measures["energy_joules"].value == pytest.approx(WATTS * 12)


def test_without_a_counter_energy_is_an_estimate_and_marked(tmp_path: Path) -> None:
    machine = Machine(tmp_path, counts_energy=False)
    energy = measure(machine, Slow(machine)).measures["energy_joules"]
    assert energy.value is not None
    assert energy.value > 0
    assert energy.estimated
    assert "ESTIMATE" in energy.method


def test_too_short_for_the_counter_is_no_zero(machine: Machine) -> None:
    found = measure(machine, Slow(machine), seconds=0.9)
    energy = found.measures["energy_joules"]
    assert (energy.value, energy.unit) == (None, "J/image")
    assert "too short for the energy counters" in (energy.reason or "")
    assert found.measures["latency_ms"].value == pytest.approx(12)


def test_what_the_module_fails_at_has_the_reason_and_the_rest_its_value(machine: Machine) -> None:
    found = measure(machine, Slow(machine, most=1))
    failed = found.measures["throughput_images_per_s"]
    assert failed.value is None
    assert failed.reason == "the model fails at it: no more than 1 at once"
    assert found.measures["latency_ms"].value == pytest.approx(12)

    class Full(Slow):
        def forward(self, features: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    found = measure(machine, Full(machine), ("latency_ms", "energy_joules"))
    assert {one.reason for one in found.measures.values()} == {"the memory is full"}
    assert {one.value for one in found.measures.values()} == {None}


def test_other_load_beside_it_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, others=0.5)
    found = measure(machine, Slow(machine))
    assert found.beside_other_load is True
    (note,) = found.notes
    assert "Other processes used " in note
    for name, one in found.measures.items():
        assert ("beside other load" in one.method) is (name != "parameters")


def test_where_other_load_cannot_be_told_nothing_is_claimed(machine: Machine) -> None:
    found = measure(machine, Slow(machine), ("latency_ms",), seconds=0.9)
    assert (found.beside_other_load, found.notes) == (None, ())
    assert "whether other load ran beside it can't be told" in found.measures["latency_ms"].method


def test_generators_buffers_and_mode_are_as_before(machine: Machine) -> None:
    module = Slow(machine).train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    measure(machine, module)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(module.calls) == 0
    assert module.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("calls", [0, 3, 40, 330])
def test_a_cancel_stops_it_between_two_passes(machine: Machine, calls: int) -> None:
    module = Slow(machine)
    context = OperationContext(is_cancelled=lambda: len(module.sizes) > calls)
    with pytest.raises(Cancelled):
        measure(machine, module, context=context)
    assert len(module.sizes) == calls + 1
    assert module.training


def test_shared_and_frozen_weights(machine: Machine) -> None:
    inner = nn.Linear(3, 3, bias=False)
    inner.weight.requires_grad_(False)
    module = nn.Sequential(nn.Linear(4, 3), inner, inner)
    count = measure(machine, module, ("parameters",)).measures["parameters"]
    assert (count.value, count.n) == (12 + 3 + 9, 3)
    assert "15 of them are trained" in count.method


@pytest.mark.parametrize("precision", ["none", "bf16"])
def test_the_method_names_how(machine: Machine, precision: str) -> None:
    hyper = Hyperparameters(batch_size=4, mixed_precision=precision, compile=True)
    subject = Subject(session().module, class_samples(3), hyper, CPU)
    found = measure_module(
        subject, ("throughput_images_per_s",), OperationContext(), seconds=0.1
    ).measures["throughput_images_per_s"]
    assert found.value is not None
    assert found.value > 0
    assert ("autocast to bf16" in found.method) is (precision == "bf16")
    assert "batches of 4" in found.method
    assert "1 thread, " in found.method
    assert "not compiled" in found.method


MEASURED = TRAIN | {"measure": list(ALL), "measure_seconds": 0.3}


def test_a_training_that_measures_comes_to_the_same_bits() -> None:
    seen: list[dict[str, Any]] = []
    plain, answer = done(TRAIN), done(MEASURED, seen.append)
    stages = [facts["stage"] for facts in seen]
    assert stages.index("measuring") < stages.index("measured") < stages.index("epoch")
    told = seen[stages.index("measured")]
    assert told["measurements"] == answer.pop("measurements")
    assert told.keys() == {"stage", "measurements", "beside_other_load"}
    assert list(told["measurements"]) == list(ALL)
    for one in told["measurements"].values():
        assert one.keys() == {"value", "unit", "interval", "n", "method", "estimated", "reason"}
        assert one["value"] is None or one["value"] > 0
    assert "measurements" not in plain
    assert alike(plain, answer)
    answer["notes"] = [note for note in answer["notes"] if "beside other load" not in note]
    assert answer == plain


def test_a_wider_net_has_more_parameters() -> None:
    def values(width: int) -> Any:
        layers = [
            {"type": "linear", "in_features": 4, "out_features": width},
            {"type": "relu"},
            {"type": "linear", "in_features": width, "out_features": 3},
        ]
        job = MEASURED | {"model_config": {"type": "sequential", "layers": layers}, "epochs": 1}
        return {name: one["value"] for name, one in done(job)["measurements"].items()}

    narrow, wide = values(8), values(20_000)
    assert (narrow["parameters"], wide["parameters"]) == (8 * 8 + 3, 8 * 20_000 + 3)
    for name in ("latency_ms", "throughput_images_per_s"):
        assert min(narrow[name], wide[name]) > 0


def test_a_training_that_goes_on_measures_again() -> None:
    killed_after(2, MEASURED)
    seen: list[dict[str, Any]] = []
    answer = done(MEASURED, seen.append)
    assert answer["resumed_from_epoch"] >= 1
    (told,) = [facts for facts in seen if facts["stage"] == "measured"]
    assert answer["measurements"] == told["measurements"]


def test_health_is_told_of_each_epoch_and_only_where_asked() -> None:
    seen: list[dict[str, Any]] = []
    plain = done(TRAIN)
    answer = done(TRAIN | {"health": True}, seen.append)
    epochs = [facts for facts in seen if facts["stage"] == "epoch"]
    assert [facts["health"] for facts in epochs] == [r["health"] for r in answer["history"]]
    assert all(record.pop("health")["nonfinite_steps"] == 0 for record in answer["history"])
    assert answer == plain


def test_a_checkpoint_without_health_is_not_taken_for_one_with_it() -> None:
    killed_after(2, TRAIN)
    answer = done(TRAIN | {"health": True})
    assert answer["resumed_from_epoch"] == 0
    assert all("health" in record for record in answer["history"])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("measure", ["latency"], "measure"),
        ("measure", ["parameters", "parameters"], "'parameters' is named twice"),
        ("measure_seconds", 0, "measure_seconds"),
        ("measure_seconds", 3600, "measure_seconds"),
        ("health", "often", "health"),
    ],
)
def test_wrong_wishes_are_refused_by_name(field: str, value: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        done(TRAIN | {field: value})


def test_exported_and_normalised_modules_are_measured_as_they_are() -> None:
    module = session(MLP).module
    program = torch.export.export(
        module.train(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    config = {"type": "exported", "program": base64.b64encode(stream.getvalue()).decode()}
    job = MEASURED | {"model_config": config}
    plain = done({name: job[name] for name in job if name not in ("measure", "measure_seconds")})
    answer = done(job)
    assert alike(plain, answer)
    assert answer["measurements"]["latency_ms"]["value"] > 0
    assert answer["measurements"]["parameters"]["value"] == 4 * 8 + 8 + 16 + 8 * 3 + 3
