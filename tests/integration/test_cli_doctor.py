"""`dyno doctor --server` and `--workers`."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from live_api import LiveApi
from nvml_stand_in import Driver, gpu
from tiny_models import write_detector
from visiondyno import worker
from visiondyno.cli import doctor, doctor_workers
from visiondyno.errors import ModelError, Unavailable
from visiondyno.executors.base import Executor, ExecutorHealth
from visiondyno.executors.inline import InlineExecutor
from visiondyno.http_client import ServerClient
from visiondyno.operations.context import OperationContext
from visiondyno.probes.slots import HostMemory, gpu_memories
from visiondyno.store.records import KeyScope
from visiondyno.wiring import make_queue_executor

GB = 10**9


def dyno_doctor(*arguments: str) -> Result:
    """`standalone_mode=False` gives the command's own exit code back as its value."""
    return CliRunner().invoke(
        doctor.command, list(arguments), env={"COLUMNS": "300"}, standalone_mode=False
    )


# ---- a server


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveApi:
    with LiveApi(tmp_path_factory.mktemp("home"), worker.run, workers_min=0) as running:
        yield running


def test_a_well_server_passes_every_step(live: LiveApi) -> None:
    result = dyno_doctor("--server", live.url)
    assert result.return_value == 0, result.output
    lines = result.stdout.splitlines()
    assert [line[:2] for line in lines] == ["✓ "] * 5
    assert all(re.search(r"\d\.\d\d s ", line) for line in lines)
    assert "COMPLETED by worker inline" in lines[3]
    assert re.search(r": [1-9]\d* objects found", lines[3]), "the scene holds some"
    steps = json.loads(dyno_doctor("--server", live.url, "--json").stdout)
    assert [step["ok"] for step in steps] == [True] * 5


class SupervisedApi(LiveApi):
    """The API over a worker process of its own, as `dyno up` has it."""

    def _make_executor(self) -> Executor:
        return make_queue_executor(self.settings)


def test_the_second_time_the_worker_has_the_model_warm(tmp_path: Path) -> None:
    with SupervisedApi(tmp_path) as running, ServerClient(running.url) as client:
        for _ in range(2):
            result = dyno_doctor("--server", running.url)
            assert result.return_value == 0, result.output
        told = []
        for job in client.find_jobs()["jobs"]:
            events = client.events(job["id"])
            said = [event.progress for event in events if event.progress is not None]
            told += [one["warm"] for one in said if "warm" in one]
    assert told == [True, False]  # the newest first


class LateWorker(InlineExecutor):
    """Tells of its worker after it was asked so many times."""

    looks_left = 1_000_000

    async def health(self) -> ExecutorHealth:
        self.looks_left -= 1
        found = await super().health()
        return found if self.looks_left < 0 else replace(found, workers_ready=0)


class LateApi(LiveApi):
    """The API over a worker that isn't there yet."""

    def _make_executor(self) -> Executor:
        self.executor = LateWorker(self._run)
        return self.executor


def test_a_servers_first_worker_is_waited_for(tmp_path: Path) -> None:
    with LateApi(tmp_path, worker.run) as running:
        running.executor.looks_left = 2
        result = dyno_doctor("--server", running.url)
    assert result.return_value == 0, result.output
    assert "✓ readiness" in result.stdout
    assert running.executor.looks_left < 0, "it was looked for again, and found"


def test_a_worker_that_never_comes_fails_the_readiness(tmp_path: Path) -> None:
    with LateApi(tmp_path, worker.run) as running:
        result = dyno_doctor("--server", running.url, "--time-limit", "0.1")
    assert result.return_value == 1
    lines = result.stdout.splitlines()
    assert lines[1].startswith("✗ readiness")
    assert "workers: No worker is there yet; this server starts its own" in lines[1]
    assert len(lines) == 3


def test_the_first_step_that_fails_ends_it_with_the_next_thing_to_do(live: LiveApi) -> None:
    result = dyno_doctor("--server", live.url, "--endpoint", "other")
    assert result.return_value == 1
    lines = result.stdout.splitlines()
    assert lines[2].startswith("✗ submit")
    assert lines[3].startswith("→ ")
    assert "--endpoint" in lines[3]
    assert len(lines) == 4


def test_no_server_at_all() -> None:
    result = dyno_doctor("--server", "http://127.0.0.1:1")
    assert result.return_value == 1
    assert result.stdout.startswith("✗ health")
    assert "dyno up" in result.stdout


def test_a_server_that_asks_for_a_key(tmp_path: Path) -> None:
    with LiveApi(tmp_path, worker.run, workers_min=0, require_keys=True) as running:
        refused = dyno_doctor("--server", running.url)
        assert refused.return_value == 1
        assert "→ give a key" in refused.stdout
        _, narrow = running.call(running.service.keys.create("narrow", KeyScope.SUBMIT))
        assert "scope 'all'" in dyno_doctor("--server", running.url, "--api-key", narrow).stdout
        passed = dyno_doctor("--server", running.url, "--api-key", running.make_key())
        assert passed.return_value == 0, passed.output


def test_a_job_that_fails_or_never_ends(tmp_path: Path) -> None:
    def run(job_input: object, context: object) -> dict[str, object]:
        raise ModelError("The model went missing.")

    with LiveApi(tmp_path / "a", run, workers_min=0) as running:
        result = dyno_doctor("--server", running.url)
        assert result.return_value == 1
        assert "✗ result" in result.stdout
        assert "FAILED: " in result.stdout
        assert "The model went missing." in result.stdout
        assert "dyno jobs show" in result.stdout

    def stick(_: object, context: OperationContext) -> dict[str, object]:
        while True:
            context.check()

    with LiveApi(tmp_path / "b", stick, workers_min=0) as running:
        result = dyno_doctor("--server", running.url, "--time-limit", "0")
        assert result.return_value == 1
        assert "after 0 s" in result.stdout
        assert "dyno workers list" in result.stdout


def test_a_server_that_is_not_ready_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visiondyno.service.readiness.LEAST_FREE_BYTES", 1 << 62)
    with LiveApi(tmp_path, worker.run, workers_min=0) as running:
        result = dyno_doctor("--server", running.url)
    assert result.return_value == 1
    assert "✗ readiness" in result.stdout
    assert "disk: " in result.stdout


# ---- workers


def with_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: dict[str, object]) -> None:
    stand_in = functools.partial(gpu_memories, library=Driver(*gpus))
    monkeypatch.setattr(doctor_workers, "gpu_memories", stand_in)


def test_slots_of_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(
        monkeypatch,
        gpu(name="NVIDIA A40", total=46 * GB, used=0),
        gpu(name="NVIDIA L4", total=24 * GB, used=23 * GB),
    )
    monkeypatch.setattr(doctor_workers, "host_memory", lambda: HostMemory(None, None))
    text = dyno_doctor("--workers").stdout
    assert re.search(r"95 MB *│ GPU 0, NVIDIA A40 *│ *7 │ *0.1428 │", text)
    assert re.search(r"150 MB *│ GPU 1, NVIDIA L4 *│ *0 │ *│", text)
    path = write_detector(tmp_path / "net.onnx", [[1, 2, 15, 28, 0.9, 0]])
    text = dyno_doctor("--workers", str(path)).stdout
    assert "dyno worker --redis URL --slots 10 --gpu-memory-fraction 0.1\n" in text
    found = json.loads(dyno_doctor("--workers", str(path), "--json").stdout)
    assert [row["suggestion"]["slots"] for row in found["suggestions"]] == [10, 0]
    assert found["suggestions"][0]["model_bytes"] == path.stat().st_size


def test_without_a_gpu_processors_are_counted_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_driver() -> None:
        raise Unavailable("No NVIDIA GPU can be read here (NVML: none).")

    monkeypatch.setattr(doctor_workers, "gpu_memories", no_driver)
    text = dyno_doctor("--workers", "fake:detection").stdout
    assert "No NVIDIA GPU can be read here" in text
    assert "for workers on the CPU" in text
    assert re.search(r"dyno worker --redis URL --slots \d+\n", text)
    result = dyno_doctor("--workers", "visiondyno:none")
    assert isinstance(result.exception, ModelError)


def test_the_memory_of_gpus_needs_no_match_with_cudas_order() -> None:
    driver = Driver(gpu(name="A", used=5), gpu(name="B", used=7))
    found = gpu_memories(driver)
    assert [(one.name, one.total_bytes - one.free_bytes) for one in found] == [("A", 5), ("B", 7)]


def test_findings_without_options() -> None:
    assert "✓ clock" in re.sub(" +", " ", dyno_doctor().stdout)
    result = dyno_doctor("--json")
    assert result.return_value == 0
    assert {"clock", "device cpu"} <= {one["topic"] for one in json.loads(result.stdout)}
