"""The environment and the doctor, on machines laid out in files."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from nvml_stand_in import Driver, gpu
from visiondyno.environment import Environment
from visiondyno.probes import doctor
from visiondyno.probes.doctor import Finding, examine
from visiondyno.probes.machine import capture_environment, installed_packages

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU @ 3GHz\nflags\t\t: fpu vme {}\n"


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def capture(root: Path, driver: Driver | None = None) -> Environment:
    return capture_environment(root, driver or Driver(), {})


def test_a_bare_machine(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        proc__cpuinfo=CPUINFO.format("sse"),
        proc__meminfo="MemTotal:       16384 kB\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance\n",
        sys__class__dmi__id__product_name="PowerEdge R740\n",
    )
    found = capture(root)
    assert found.cpu_model == "Some CPU @ 3GHz"
    assert found.memory_bytes == 16384 * 1024
    assert found.cpu_governor == "performance"
    assert found.cpu_count == len(os.sched_getaffinity(0))
    assert (found.container, found.virtual_machine, found.gpus) == (None, None, ())
    assert set(found.cannot_measure) == {
        "peak_rss_bytes",
        "peak_inference_rss_bytes",
        "peak_vram_bytes",
        "gpu_percent",
        "energy_joules_per_image",
    }


def test_a_limited_container_on_a_virtual_machine_with_a_gpu(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        proc__cpuinfo=CPUINFO.format("hypervisor sse"),
        proc__meminfo=f"MemTotal: {64 << 20} kB\n",
        proc__self__status="VmHWM: 5 kB\n",
        sys__class__dmi__id__product_name="KVM\n",
        sys__class__dmi__id__sys_vendor="QEMU\n",
    )
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpu memory\n")
    (group / "cpu.max").write_text("50000 100000\n")
    (group / "memory.max").write_text(f"{2 << 30}\n")
    (root / ".dockerenv").touch()
    found = capture(root, Driver(gpu()))
    assert found.cpu_count == 1
    assert found.memory_bytes == 2 << 30
    assert found.container == "docker, cgroup v2: 0.5 CPUs, 2.0 GiB"
    assert found.virtual_machine == "QEMU KVM"
    assert [g.name for g in found.gpus] == ["NVIDIA L4"]
    assert set(found.cannot_measure) == {"energy_joules_per_image"}


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "ARM 0x41:0xd0c"),
        ("Model\t\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
    ],
)
def test_arm_processors(tmp_path: Path, cpuinfo: str, model: str) -> None:
    assert capture(lay(tmp_path, proc__cpuinfo=cpuinfo)).cpu_model == model


def test_without_proc_python_names_the_processor_and_counts_the_memory(tmp_path: Path) -> None:
    found = capture(tmp_path)
    assert found.cpu_model
    assert found.memory_bytes > 1 << 20


def test_a_virtual_machine_that_hides_its_name(tmp_path: Path) -> None:
    root = lay(tmp_path, proc__cpuinfo=CPUINFO.format("hypervisor"))
    assert "doesn't say" in (capture(root).virtual_machine or "")


def test_machine_id_follows_the_hardware_and_nothing_else(tmp_path: Path) -> None:
    lay(tmp_path, proc__cpuinfo=CPUINFO.format("sse"), proc__meminfo="MemTotal: 16777216 kB\n")
    first = capture(tmp_path)
    # A kernel update moves MemTotal by some kB and may change the governor.
    lay(
        tmp_path,
        proc__meminfo="MemTotal: 16770000 kB\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
    )
    assert capture(tmp_path).machine_id == first.machine_id
    assert capture(tmp_path, Driver(gpu())).machine_id != first.machine_id
    lay(tmp_path, proc__cpuinfo="model name : Another CPU\n")
    assert capture(tmp_path).machine_id != first.machine_id


def test_the_hosts_name_is_only_kept_as_a_hash(tmp_path: Path) -> None:
    import platform

    found = capture(tmp_path)
    assert len(found.hostname_hash) == 16
    assert platform.node() not in found.model_dump_json() or len(platform.node()) < 4


def test_packages_are_those_installed() -> None:
    found = installed_packages(("numpy", "no-such-package-as-this"))
    assert found == {"numpy": importlib.metadata.version("numpy")}


def by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def test_doctor_on_a_machine_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lay(tmp_path, proc__self__status="VmHWM: 5 kB\n", proc__self__clear_refs="")
    zone = root / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "99"), ("energy_uj", "1")):
        (zone / name).write_text(text)
    monkeypatch.setattr(
        doctor.onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    found = by_topic(examine(tmp_path / "cache", root, Driver(gpu()), {}))
    for topic in (
        "clock",
        "peak memory",
        "processor use",
        "GPU memory and use",
        "energy",
        "device cpu",
        "device cuda",
        "cache folder",
    ):
        assert found[topic].status == "ok", found[topic]
    assert "cuda:0 NVIDIA L4" in found["device cuda"].detail
    assert "NVML" in found["energy"].detail


def test_doctor_on_a_machine_with_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.onnxruntime, "get_available_providers", lambda: ["Azure"])
    found = by_topic(examine(None, tmp_path, Driver(), {}))
    assert found["peak memory"].status == "missing"
    assert found["GPU memory and use"].status == "missing"
    assert (found["energy"].status, found["energy"].fix) == ("limited", None)
    assert found["device cpu"].status == "missing"
    assert "cache folder" not in found
    root = lay(tmp_path, proc__self__status="VmHWM: 5 kB\n")
    assert by_topic(examine(None, root, Driver(), {}))["peak memory"].status == "limited"


def test_doctor_tells_a_gpu_that_onnxruntime_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    found = by_topic(examine(None, tmp_path, Driver(gpu()), {}))["device cuda"]
    assert found.status == "limited"
    assert "onnxruntime-gpu" in (found.fix or "")


def test_doctor_gives_the_command_for_each_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.importlib.metadata,
        "requires",
        lambda _: [
            "numpy>=1",
            "no-such-package; extra == 'none'",
            "numpy>=1; extra == 'all'",
            'numpy>=1; extra == "half"',
            'no-such-package>=2; extra == "half"',
        ],
    )
    found = by_topic(examine())
    assert found["extra none"].status == "missing"
    assert found["extra none"].fix == "pip install 'visiondyno[none]'"
    assert found["extra all"].status == "ok"
    assert found["extra half"].status == "limited"
    assert "no-such-package" in found["extra half"].detail


def test_doctor_without_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(doctor.importlib.metadata, "requires", absent)
    assert by_topic(examine())["extras"].status == "missing"


def test_doctor_reads_the_shipped_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.resources, "files", lambda _: tmp_path)
    assert by_topic(examine())["shipped models"].status == "missing"
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/broken.onnx").write_bytes(b"not a model")
    import onnx
    from onnx import TensorProto, helper

    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", shape[:1], shape[1:])),
        tmp_path / "shipped/good.onnx",
    )
    found = by_topic(examine())
    assert found["model visiondyno:good"].status == "ok"
    assert found["model visiondyno:broken"].status == "missing"
    assert "pip install" in (found["model visiondyno:broken"].fix or "")


def test_a_cache_folder_under_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = by_topic(examine(tmp_path / "file/cache"))["cache folder"]
    assert found.status == "missing"
    assert found.fix


def test_a_slow_clock_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = doctor.examine_clock()
    slow = type(facts)(facts.implementation, True, 15_600_000, facts.overhead_ns)
    monkeypatch.setattr(doctor, "examine_clock", lambda: slow)
    assert by_topic(examine())["clock"].status == "limited"
