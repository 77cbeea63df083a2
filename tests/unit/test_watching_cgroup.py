"""Processor time and memory of cgroups, version 2, version 1 and both at once."""

import asyncio
import os
from pathlib import Path

import pytest

from stepped_clock import SteppedClock
from visiondyno.errors import NotFound, SpecError
from visiondyno.loadtest.watching.cgroup import CgroupWatcher, find_cgroup


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def version_2(root: Path, usage_us=1_000_000, memory=500, peak: int | None = 900) -> None:
    put(
        root,
        {
            "cgroup.controllers": "cpu memory\n",
            "app/cpu.stat": f"usage_usec {usage_us}\nuser_usec 1\nsystem_usec 2\n",
            "app/memory.current": f"{memory}\n",
        },
    )
    if peak is not None:
        put(root, {"app/memory.peak": f"{peak}\n"})


def version_1(root: Path, usage_ns=1_000_000_000, memory=500, peak=900, tree="cpuacct") -> None:
    put(
        root,
        {
            f"{tree}/docker/1/cpuacct.usage": f"{usage_ns}\n",
            "cpu/docker/1/cpu.stat": "nr_periods 0\nnr_throttled 0\n",
            "memory/docker/1/memory.usage_in_bytes": f"{memory}\n",
            "memory/docker/1/memory.max_usage_in_bytes": f"{peak}\n",
        },
    )


def watched(root: Path, path: str, change, seconds=2.0):
    async def main():
        clock = SteppedClock()
        watcher = CgroupWatcher(path, 1.0, clock.clock, root)
        await watcher.check()
        await watcher.start()
        change()
        clock.now_s += seconds
        return await watcher.stop()

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["app", "/app", "sys/fs/cgroup/app"])
def test_version_2_is_found_by_any_of_its_names(tmp_path, path):
    version_2(tmp_path)
    if path.startswith("sys"):
        path = str(tmp_path / path)
    files = find_cgroup(path, tmp_path)
    assert files.cpu_s() == 1.0
    assert files.memory.name == "memory.current"
    assert files.peak.name == "memory.peak"


@pytest.mark.parametrize("tree", ["cpuacct", "cpu,cpuacct"])
@pytest.mark.parametrize("path", ["docker/1", "/docker/1", "memory/docker/1", "{tree}/docker/1"])
def test_version_1_is_found_by_the_folder_in_any_tree(tmp_path, path, tree):
    version_1(tmp_path, tree=tree)
    for name in (path, str(tmp_path / "sys/fs/cgroup" / "memory/docker/1")):
        files = find_cgroup(name.format(tree=tree), tmp_path)
        assert files.cpu_s() == 1.0
        assert files.memory.name == "memory.usage_in_bytes"
        assert files.peak.name == "memory.max_usage_in_bytes"


def test_version_2_beside_version_1_takes_its_memory_from_there(tmp_path):
    version_1(tmp_path)
    put(tmp_path, {"unified/docker/1/cpu.stat": "usage_usec 2500000\n"})
    files = find_cgroup(str(tmp_path / "sys/fs/cgroup/unified/docker/1"), tmp_path)
    assert files.cpu_s() == 2.5
    assert files.memory.name == "memory.usage_in_bytes"


def test_what_is_no_cgroup_is_refused_with_the_next_step(tmp_path):
    version_2(tmp_path)
    with pytest.raises(NotFound, match=r"no cgroup 'docker/1'.*/proc/PID/cgroup"):
        find_cgroup("docker/1", tmp_path)
    (tmp_path / "plain").mkdir()
    with pytest.raises(SpecError, match="no cgroup with figures"):
        find_cgroup(str(tmp_path / "plain"), tmp_path)


@pytest.mark.parametrize("version", [version_1, version_2])
def test_the_mean_is_of_the_counter_and_the_mark_counts_where_it_rose(tmp_path, version, request):
    version(tmp_path)
    path = "app" if version is version_2 else "docker/1"

    def change():
        usage = {"usage_us": 4_000_000} if version is version_2 else {"usage_ns": 4_000_000_000}
        version(tmp_path, **usage, memory=700, peak=1200)

    found = watched(tmp_path, path, change)
    assert found.cpu_cores_mean.value == pytest.approx(1.5)
    assert found.peak_memory_bytes.value == 1200
    assert [sample.memory_bytes for sample in found.samples] == [500, 700]
    assert "kernel's own mark" in found.peak_memory_bytes.method


def test_a_mark_of_an_earlier_peak_is_left_alone(tmp_path):
    version_1(tmp_path)
    found = watched(tmp_path, "docker/1", lambda: version_1(tmp_path, memory=600))
    assert found.peak_memory_bytes.value == 600
    assert "earlier, higher peak" in found.peak_memory_bytes.method


def test_without_a_mark_the_samples_are_the_peak_and_say_so(tmp_path):
    version_2(tmp_path, peak=None)
    found = watched(tmp_path, "app", lambda: version_2(tmp_path, memory=600, peak=None))
    assert found.peak_memory_bytes.value == 600
    assert "no mark" in found.peak_memory_bytes.method


def test_a_mark_of_ones_own_counts_from_the_start(tmp_path, monkeypatch):
    """Linux 6.12 gives each descriptor a mark; the files here are plain and keep none."""
    version_2(tmp_path, memory=100, peak=9000)
    monkeypatch.setattr(os, "pread", lambda descriptor, size, at: b"650\n")
    found = watched(tmp_path, "app", lambda: version_2(tmp_path, memory=600, peak=9000))
    assert found.peak_memory_bytes.value == 650
    assert "set back at the start" in found.peak_memory_bytes.method


def test_a_mark_that_cant_be_set_back_or_read_is_done_without(tmp_path, monkeypatch):
    version_2(tmp_path)

    def refused(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "write", refused)
    found = watched(tmp_path, "app", lambda: version_2(tmp_path, memory=600))
    assert "earlier, higher peak" in found.peak_memory_bytes.method
    monkeypatch.undo()
    monkeypatch.setattr(os, "pread", refused)
    found = watched(tmp_path, "app", lambda: version_2(tmp_path, memory=600, peak=950))
    assert found.peak_memory_bytes.value == 950


def test_a_group_that_is_made_anew_counts_from_0(tmp_path):
    version_2(tmp_path, usage_us=50_000_000)
    found = watched(tmp_path, "app", lambda: version_2(tmp_path, usage_us=3_000_000))
    assert found.cpu_cores_mean.value == pytest.approx(1.5)


def test_a_group_without_memory_tells_its_processor_time_alone(tmp_path):
    put(tmp_path, {"cgroup.controllers": "cpu\n", "app/cpu.stat": "usage_usec 1000000\n"})
    found = watched(
        tmp_path, "app", lambda: put(tmp_path, {"app/cpu.stat": "usage_usec 2000000\n"})
    )
    assert found.cpu_cores_mean.value == 0.5
    assert found.peak_memory_bytes.value is None
    assert "has no memory.current" in found.peak_memory_bytes.reason


def test_files_that_go_away_in_the_window_lose_nothing(tmp_path):
    version_2(tmp_path)
    app = tmp_path / "sys/fs/cgroup/app"

    def change():
        for file in app.iterdir():
            file.unlink()

    found = watched(tmp_path, "app", change)
    assert found.cpu_cores_mean.value is None
    assert "can't be read" in found.cpu_cores_mean.reason
    assert found.samples[1].memory_bytes is None
    assert found.peak_memory_bytes.value == 500


def test_a_group_that_is_gone_before_the_window_has_no_values(tmp_path):
    version_2(tmp_path)

    async def main():
        watcher = CgroupWatcher("gone", root=tmp_path)
        await watcher.start()
        return await watcher.stop()

    found = asyncio.run(main())
    assert found.cpu_cores_mean.value is None
    assert "has no cpu.stat" in found.cpu_cores_mean.reason
    assert "nothing to be read" in found.source
