"""Peaks: the best of several repeats, of real work at small sizes."""

import pytest

from visiondyno.operations import profile_torch_peaks
from visiondyno.probes import peaks
from visiondyno.runtimes.openvino_profile import openvino_runs


def test_the_best_repeat_counts_and_the_first_does_not():
    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0, 28.0])
    runs = []
    assert peaks.best_rate(lambda: runs.append(1), 6.0, repeats=3, now_s=lambda: next(clock)) == 3.0
    assert len(runs) == 4


def test_the_largest_cache_is_the_last_level(tmp_path, monkeypatch):
    monkeypatch.setattr(peaks.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert peaks.last_level_cache_bytes(tmp_path) is None
    for place, size in enumerate(("32K", "8M", "1024K", "odd")):
        index = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{place}"
        index.mkdir(parents=True)
        (index / "size").write_text(size)
    assert peaks.last_level_cache_bytes(tmp_path) == 8 << 20


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_copied_and_both_ways_count(tmp_path, threads):
    found = peaks.memory_peak(threads, root=tmp_path, most_bytes=1 << 20)
    assert found.per_s > 1e6
    assert "copy of 1 MiB" in found.method
    assert f"{threads} thread" in found.method


@pytest.mark.parametrize("threads", [None, 1])
def test_onnx_runtime_multiplies_and_convolves(monkeypatch, threads):
    monkeypatch.setattr(peaks, "SIDE", 64)
    found = peaks.compute_peak(threads)
    assert found.per_s > 1e6
    assert "64² matrices" in found.method
    assert "by onnxruntime" in found.method


@pytest.mark.parametrize("threads", [None, 1])
def test_openvino_multiplies_and_convolves(threads):
    pytest.importorskip("openvino")
    found = peaks.best_of(openvino_runs(peaks.graphs(64), threads), "openvino", 64)
    assert found.per_s > 1e6
    assert "by openvino" in found.method


@pytest.mark.torch
def test_torch_multiplies_with_the_threads_asked_for_and_sets_them_back(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(profile_torch_peaks, "SIDE", 64)
    before = torch.get_num_threads()
    found = profile_torch_peaks.torch_compute_peak("cpu", 1)
    assert found.per_s > 1e6
    assert "by torch" in found.method
    assert torch.get_num_threads() == before


@pytest.mark.torch
def test_a_devices_own_memory_is_copied_by_torch(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(profile_torch_peaks, "_GPU_COPY_BYTES", 1 << 20)
    found = profile_torch_peaks.torch_memory_peak("cpu")
    assert found.per_s > 1e6
    assert "1 MiB on cpu" in found.method
