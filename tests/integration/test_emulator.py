"""An emulated endpoint and its workers: real ones under the `runpod` package, and broken ones."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psutil
import pytest

from contracts.executor_contract import ExecutorContract, events_of, request
from emulated_endpoint import HANDLER, KEY, an_emulator, client, result, run_job, until
from visiondyno.emulator.job_board import JobBoard
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.errors import OperationFailed, TimeLimitExceeded
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.job import Policy


@pytest.fixture(scope="session")
def runpod_package() -> ModuleType:
    if os.environ.get("CI"):
        return __import__("runpod")
    return pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, runpod_package: ModuleType
) -> Iterator[RunningEmulator]:
    folder = tmp_path_factory.mktemp("logs")
    command = [sys.executable, str(HANDLER), "plain"]
    with an_emulator(
        folder,
        command,
        workers_max=1,
        idle_timeout_s=600.0,
        shortest_execution_timeout_ms=1,
        shortest_ttl_ms=1,
    ) as running:
        yield running


def test_the_official_client_gets_what_a_worker_answers(
    plain: RunningEmulator, runpod_package: ModuleType
) -> None:
    kept = runpod_package.endpoint_url_base
    runpod_package.endpoint_url_base = f"{plain.base_url}/v2"
    try:
        endpoint = runpod_package.Endpoint("emulator", api_key=KEY)
        assert endpoint.run_sync({"say": "hello"}, timeout=60)["said"] == "hello"
        job = endpoint.run({"input": {"say": "again"}})
        assert job.output(timeout=60)["said"] == "again"
        assert job.status() == "COMPLETED"
        assert endpoint.health()["jobs"]["completed"] >= 2
        assert endpoint.purge_queue() == {"removed": 0, "status": "completed"}
        assert job.cancel() == {"id": job.job_id, "status": "COMPLETED"}
        endpoint.rp_client.rp_session.close()
    finally:
        runpod_package.endpoint_url_base = kept


@pytest.fixture(scope="module")
def steady(
    tmp_path_factory: pytest.TempPathFactory, runpod_package: ModuleType
) -> Iterator[RunningEmulator]:
    """Its worker holds two jobs and yields what they ask for."""
    with an_emulator(
        tmp_path_factory.mktemp("logs"),
        [sys.executable, str(HANDLER), "steps"],
        workers_max=1,
        idle_timeout_s=600.0,
        ping_interval_s=1.0,
        missed_pings=60,
    ) as running:
        yield running


@pytest.fixture
def official(
    steady: RunningEmulator, runpod_package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The package's client of that endpoint."""
    monkeypatch.setattr(runpod_package, "endpoint_url_base", f"{steady.base_url}/v2")
    endpoint = runpod_package.Endpoint("emulator", api_key=KEY)
    yield endpoint
    endpoint.rp_client.rp_session.close()


def test_the_official_client_streams(official: Any) -> None:
    job = official.run({"input": {"steps": 3}})
    assert list(job.stream()) == [{"step": step} for step in range(3)]
    assert job.status() == "COMPLETED"


def test_the_official_client_cancels_what_runs_and_purges_what_waits(official: Any) -> None:
    running = [official.run({"input": {"steps": 1, "sleep_s": 300}}) for _ in range(2)]
    until(lambda: [job.status() for job in running] == ["IN_PROGRESS"] * 2)
    waiting = official.run({"input": {"steps": 1}})
    health = official.health()
    assert health["jobs"]["inProgress"] == 2
    assert health["jobs"]["inQueue"] == 1
    assert health["workers"]["running"] == 1
    assert official.purge_queue() == {"removed": 1, "status": "completed"}
    assert waiting.status() == "CANCELLED"
    for job in running:
        assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
        assert job.status() == "CANCELLED"


def test_the_official_asynchronous_client_works_too(
    official: Any, runpod_package: ModuleType
) -> None:
    from runpod.http_client import AsyncClientSession

    async def main() -> None:
        runpod_package.api_key = KEY  # the only place where this client looks for it
        async with AsyncClientSession() as session:
            endpoint = runpod_package.AsyncioEndpoint("emulator", session)
            job = await endpoint.run({"steps": 1})
            assert await job.output(timeout=60) == [{"step": 0}]
            stopped = await endpoint.run({"steps": 1, "sleep_s": 300})
            assert (await stopped.cancel())["status"] == "CANCELLED"
            assert await stopped.status() == "CANCELLED"

    kept = runpod_package.api_key
    try:
        asyncio.run(main())
    finally:
        runpod_package.api_key = kept


def test_errors_come_as_the_package_tells_of_them(plain: RunningEmulator) -> None:
    with client(plain) as http:
        refused, crashed = run_job(http, do="fail"), run_job(http, do="raise")
        assert result(http, refused)["error"] == "images/7.jpg is empty"
        found = result(http, crashed)
        assert found["status"] == "FAILED"
        assert "a defect" in found["error"]
        assert found["workerId"]
        assert found["delayTime"] >= 0
        assert found["executionTime"] >= 0
        again = http.post(f"/retry/{refused}").json()
        assert again == {"id": refused, "status": "IN_QUEUE"}
        assert result(http, refused)["status"] == "FAILED"


def test_progress_shows_while_the_job_runs_and_not_after(
    plain: RunningEmulator, tmp_path: Path
) -> None:
    goes_on = tmp_path / "goes-on"
    with client(plain) as http:
        job_id = run_job(http, do="tell", say="x", until_file=str(goes_on))
        shown = until(lambda: http.get(f"/status/{job_id}").json().get("output"))
        assert shown == {"done": 1}
        goes_on.touch()
        assert result(http, job_id)["output"]["said"] == "x"


def test_a_result_that_is_too_large_never_arrives(plain: RunningEmulator) -> None:
    with client(plain) as http:
        job_id = run_job(http, do="many", bytes=10_000_001, policy={"executionTimeout": 3000})
        found = result(http, job_id)
        assert found["status"] == "TIMED_OUT"
        assert found["error"] == "executionTimeout exceeded"


def test_a_killed_worker_is_replaced_and_its_job_put_back_once(plain: RunningEmulator) -> None:
    with client(plain) as http:
        found = result(http, run_job(http, do="die"))
        assert found["status"] == "FAILED"
        assert found["error"] == "job timed out after 1 retries"
        assert found["retries"] == 1


def test_our_executor_runs_jobs_and_tells_how_they_ended(plain: RunningEmulator) -> None:
    async def main() -> None:
        async with RunPodExecutor(plain.url, KEY) as executor:
            jobs = [
                await executor.submit(request("any", say="x")),
                await executor.submit(request("any", do="fail")),
                await executor.submit(
                    request("any", Policy(execution_timeout_ms=200), sleep_s=2, say="late")
                ),
                await executor.submit(request("any", Policy(ttl_ms=1), say="too late")),
            ]
            assert await executor.known([jobs[0], "nope"]) == {jobs[0]}
            answers = [(await events_of(executor, job))[-1].answer for job in jobs]
            assert answers[0].result()["said"] == "x"  # type: ignore[union-attr]
            with pytest.raises(OperationFailed, match=r"images/7\.jpg is empty"):
                answers[1].result()  # type: ignore[union-attr]
            assert [answer.status for answer in answers[2:]] == ["TIMED_OUT"] * 2  # type: ignore[union-attr]
            with pytest.raises((TimeLimitExceeded, OperationFailed), match="executionTimeout"):
                answers[2].result()  # type: ignore[union-attr]
            with pytest.raises(JobLost):
                await events_of(executor, "nope")

    asyncio.run(main())


@pytest.fixture(scope="class")
def contract_worker(
    tmp_path_factory: pytest.TempPathFactory, runpod_package: ModuleType
) -> Iterator[RunningEmulator]:
    folder = tmp_path_factory.mktemp("logs")
    code = (
        "import sys; from visiondyno.runpod_handler.__main__ import main;"
        " sys.exit(main('contracts.executor_contract:run_test_operation'))"
    )
    with an_emulator(
        folder,
        [sys.executable, "-c", code],
        environ={
            "PYTHONPATH": str(HANDLER.parent),
            "VISIONDYNO_HOME": str(folder / "home"),
            "VISIONDYNO_CONCURRENCY": "1",
            "VISIONDYNO_PREFETCH": "0",  # a job of low priority may have been fetched already
        },
        workers_max=1,
        # The package drops a stop for a job that it has just taken; the worker is killed then.
        ping_interval_s=1.0,
        missed_pings=60,
        idle_timeout_s=600.0,
        shortest_execution_timeout_ms=1,
        shortest_ttl_ms=1,
    ) as running:
        yield running


class TestRunPodExecutorOnTheEmulator(ExecutorContract):
    place_is_by_arrival = "RunPod's job API has no time of submission"

    @pytest.fixture(autouse=True)
    def an_endpoint(self, contract_worker: RunningEmulator) -> None:
        """One worker serves all tests: starting one takes seconds. Each has a board of its own."""
        endpoint = contract_worker.emulator.endpoint
        endpoint.jobs = JobBoard(endpoint.config)

        def make() -> RunPodExecutor:
            return RunPodExecutor(contract_worker.url, KEY)

        type(self).make_executor = staticmethod(make)


@pytest.mark.slow
def test_a_worker_with_two_jobs_stops_the_cancelled_one_and_goes_on_with_the_other(
    tmp_path: Path, runpod_package: ModuleType
) -> None:
    command = [sys.executable, str(HANDLER), "async"]
    with an_emulator(tmp_path, command, workers_max=1, idle_timeout_s=1.0) as running:
        with client(running) as http:
            stopped = run_job(http, sleep_s=300)
            other = run_job(http, sleep_s=3, say="goes on")
            until(lambda: http.get("/health").json()["jobs"]["inProgress"] == 2)
            assert http.post(f"/cancel/{stopped}").json()["status"] == "CANCELLED"
            found = result(http, other)
            assert found["output"]["said"] == "goes on"
            until(lambda: http.get("/health").json()["workers"]["ready"] == 0)
            assert http.get(f"/status/{stopped}").json()["status"] == "CANCELLED"
            billing = {"headers": http.headers}
            until(
                lambda: (
                    not httpx.get(f"{running.base_url}/emulator/billing", **billing).json()[
                        "workers"
                    ][0]["is_running"]
                )
            )
            bill = httpx.get(f"{running.base_url}/emulator/billing", **billing).json()
        worker = bill["workers"][0]
        assert [worker["worker_id"], worker["jobs_done"]] == [found["workerId"], 1]
        assert 0 <= worker["billed_s"] - (worker["stopped_s"] - worker["started_s"]) < 1
        assert bill["usd"] == pytest.approx(worker["billed_s"] * 0.00016)


@pytest.mark.slow
def test_a_stream_is_read_once_and_faults_on_the_way_of_jobs_lose_none(
    tmp_path: Path, runpod_package: ModuleType
) -> None:
    command = [sys.executable, str(HANDLER), "stream"]
    with an_emulator(tmp_path, command, workers_max=1, idle_timeout_s=2.0) as running:
        faults = f"{running.base_url}/emulator/faults"
        with client(running) as http:
            job_id = run_job(http, steps=3)
            found = result(http, job_id)
            assert found["output"] == [{"step": step} for step in range(3)]
            stream = http.get(f"/stream/{job_id}").json()
            assert stream == {
                "status": "COMPLETED",
                "stream": [{"output": {"step": step}} for step in range(3)],
            }
            assert http.get(f"/stream/{job_id}").json()["stream"] == []

            http.post(faults, json={"kind": "deliver_twice"})
            twice = run_job(http, steps=1)
            assert result(http, twice)["output"] == [{"step": 0}]
            until(lambda: http.get("/health").json()["workers"]["idle"] == 1)
            assert http.get("/health").json()["jobs"]["completed"] == 2

            http.post(faults, json={"kind": "drop_result"})
            dropped = result(http, run_job(http, steps=2))
            assert dropped["output"] == [{"step": 0}, {"step": 1}]
            assert dropped["retries"] == 1, "its worker ended, so the job went to another one"


# ---- without the package: other programs as workers


def test_no_worker_outlives_the_emulator(tmp_path: Path) -> None:
    script = "import subprocess, time; subprocess.Popen(['sleep', '611']); time.sleep(611)"
    with an_emulator(tmp_path, [sys.executable, "-c", script], workers_min=1) as running:

        def family() -> list[psutil.Process]:
            """Guard, worker, and what the worker started."""
            found = psutil.Process().children(recursive=True)
            ours = [p for p in found if any("611" in part for part in p.cmdline())]
            return ours if len(ours) == 3 else []

        left = until(family)
        assert running.emulator.endpoint.fleet.alive()
    gone, alive = psutil.wait_procs(left, timeout=10)
    assert not alive
    assert len(gone) == 3


def test_a_worker_that_cannot_start_is_tried_less_and_less_often(tmp_path: Path) -> None:
    with (
        an_emulator(tmp_path, ["/no/such/program"], speed=20.0) as running,
        client(running) as http,
    ):
        run_job(http)
        until(lambda: running.emulator.endpoint.fleet.crashes_at_start >= 3)
        assert http.get("/health").json()["workers"]["unhealthy"] == 1
        starts = [worker.started_s for worker in running.emulator.endpoint.fleet._workers.values()]
        assert starts[2] - starts[1] > 2.0
    assert "check the command" in next(tmp_path.iterdir()).read_text()
