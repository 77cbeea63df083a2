"""The contract of watchers, on real processes, cgroups and pages; and whether they are right."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import prometheus_client
import pytest

from cloud_monitoring_stand_in import (
    PROJECT,
    cloud_monitoring,
    distribution_point,
    number_point,
    one_series,
)
from contracts.watcher_contract import Target, WatcherContract
from services import free_port
from stepped_clock import SleeplessClock
from visiondyno.loadtest.watching.cgroup import CgroupWatcher, find_cgroup
from visiondyno.loadtest.watching.cloud_run import CloudRunWatcher
from visiondyno.loadtest.watching.pid import PidWatcher
from visiondyno.loadtest.watching.process_tree import ProcessTree
from visiondyno.loadtest.watching.prometheus import PrometheusWatcher
from visiondyno.specs.load_test import WatchedCloudRun

NO_PID = 2**22 + 1
"""Above the highest that Linux gives."""
LOOK_S = 0.05


class TestPid(WatcherContract):
    @pytest.fixture
    def target(self):
        return Target(lambda: PidWatcher(os.getpid(), LOOK_S), lambda: PidWatcher(NO_PID, LOOK_S))


class TestCgroup(WatcherContract):
    @pytest.fixture
    def target(self):
        if not Path("/sys/fs/cgroup").is_dir():
            pytest.skip("no cgroups are mounted here")
        return Target(
            lambda: CgroupWatcher("/", LOOK_S),
            lambda: CgroupWatcher("/no/such/group", LOOK_S),
            # The topmost group of version 2 has no file for memory.
            tells_memory=find_cgroup("/").memory is not None,
        )


@pytest.fixture(scope="module")
def metrics_page():
    port = free_port()
    server, thread = prometheus_client.start_http_server(port, "127.0.0.1")
    yield f"http://127.0.0.1:{port}/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


class TestPrometheus(WatcherContract):
    @pytest.fixture
    def target(self, metrics_page):
        return Target(
            lambda: PrometheusWatcher(metrics_page, LOOK_S),
            lambda: PrometheusWatcher(f"http://127.0.0.1:{free_port()}/metrics", LOOK_S),
        )


class TestCloudRun(WatcherContract):
    @pytest.fixture
    def target(self, tmp_path):
        clock = SleeplessClock()

        def series(metric, begin, end):
            ends = [begin + 60 * (at + 1) for at in range(int((end - begin) // 60))]
            if metric == "instance_count":
                return [one_series([number_point(at, 2) for at in ends], "INT64", state="active")]
            return [one_series([distribution_point(at, [0.25, 0.75]) for at in ends])]

        with cloud_monitoring(tmp_path) as google:
            google.series = series

            def make(project=PROJECT):
                watched = WatchedCloudRun(
                    project=project,
                    service="s",
                    location="l",
                    credentials_file=str(google.key_file),
                )
                return CloudRunWatcher(
                    watched, vcpus=1, memory_gib=1, clock=clock.clock, endpoint=google.url
                )

            yield Target(make, lambda: make("another"), lambda: clock.sleep(180))


BURNER = """
import json, os, resource, sys, time
block = bytearray(os.urandom(1)) * 60_000_000
print("ready", flush=True)
sys.stdin.readline()
def burn(seconds):
    while time.process_time() < seconds:
        pass
begin = time.process_time()
for _ in range(3):
    child = os.fork()
    if not child:
        burn(0.1)
        os._exit(0)
    os.waitpid(child, 0)
burn(begin + 0.1)
both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps(sum(usage.ru_utime + usage.ru_stime for usage in both)), flush=True)
sys.stdin.readline()
"""


def test_processor_time_of_children_that_came_and_went_is_the_kernels_own_sum():
    with subprocess.Popen(
        [sys.executable, "-c", BURNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        async def main():
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            before = ProcessTree(process.pid)
            before.read()
            watcher = PidWatcher(process.pid, 0.05)
            await watcher.start()
            process.stdin.write("go\n")
            process.stdin.flush()
            used_s = json.loads(await asyncio.to_thread(process.stdout.readline))
            found = await watcher.stop()
            return used_s, found, before.read()

        used_s, found, tree = asyncio.run(main())
        process.stdin.close()
    # Each of four processes burns 0.1 s; the kernel tells whole ticks of 10 ms.
    assert 0.36 <= tree.cpu_s <= used_s + 0.02
    span_s = found.samples[-1].at_s - found.samples[0].at_s
    assert found.cpu_cores_mean.value * span_s == pytest.approx(tree.cpu_s, abs=0.03)
    assert 60_000_000 <= found.peak_memory_bytes.value <= 200_000_000
    assert "PSS" in found.source


def burn_while(watcher, seconds: float):
    async def main():
        await watcher.start()
        begin_s = time.process_time()
        while time.process_time() - begin_s < seconds:
            sum(range(1000))
        return await watcher.stop()

    found = asyncio.run(main())
    return found, found.cpu_cores_mean.value * (found.samples[-1].at_s - found.samples[0].at_s)


def test_a_cgroup_counts_what_this_process_uses():
    if not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("no cgroups are mounted here")
    found, used_s = burn_while(CgroupWatcher("/"), 0.2)
    assert used_s >= 0.19
    assert "cgroup" in found.cpu_cores_mean.method


def test_a_page_of_metrics_counts_what_its_process_uses(metrics_page):
    found, used_s = burn_while(PrometheusWatcher(metrics_page), 0.2)
    assert used_s == pytest.approx(0.2, abs=0.1)
    assert found.peak_memory_bytes.value > 10_000_000


def test_where_there_is_no_proc_processes_cant_be_watched(tmp_path):
    with pytest.raises(Exception, match=r"isn't Linux's.*prometheus"):
        asyncio.run(PidWatcher(1, root=tmp_path).check())


def test_without_pss_the_window_is_in_rss_throughout(tmp_path):
    """Another user's process: its stat can be read, its smaps_rollup can't."""
    for name, text in (
        ("stat", "7 (x) S 1 " + " ".join(["0"] * 48)),
        ("statm", "100 50 1 1 0 1 0"),
        ("smaps_rollup", "Pss: 10 kB\n"),
    ):
        path = tmp_path / "proc/7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def main():
        watcher = PidWatcher(7, root=tmp_path)
        await watcher.start()
        (tmp_path / "proc/7/smaps_rollup").unlink()
        return await watcher.stop()

    found = asyncio.run(main())
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    assert [sample.memory_bytes for sample in found.samples] == [50 * page_bytes] * 2
    assert "RSS" in found.peak_memory_bytes.method
