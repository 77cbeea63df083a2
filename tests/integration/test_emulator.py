"""An emulated endpoint with real workers under the `runpod` package, and its official client."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner

from contracts.executor_contract import ExecutorContract, events_of, request
from visiondyno.cli.emulate import command as emulate
from visiondyno.emulator.config import EndpointConfig, Quota
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.job_board import JobBoard
from visiondyno.emulator.serve import RunningEmulator, listen
from visiondyno.errors import OperationFailed, SpecError, TimeLimitExceeded
from visiondyno.executors.base import JobLost
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.job import JobState, Policy

HANDLER = Path(__file__).parents[1] / "emulated_handler.py"
KEY = "a-key"
QUIET_WORKER = [sys.executable, "-c", "import time; time.sleep(600)"]
Start = Callable[..., RunningEmulator]


@pytest.fixture(scope="session")
def runpod_package() -> ModuleType:
    if os.environ.get("CI"):
        return __import__("runpod")
    return pytest.importorskip("runpod", reason="the extra 'runpod' isn't installed")


def an_emulator(folder: Path, command: list[str], **options: Any) -> RunningEmulator:
    known = ("speed", "environ", "api_key")
    of_emulator = {name: options.pop(name) for name in known if name in options}
    of_emulator.setdefault("api_key", KEY)
    config = EndpointConfig(**options)
    return RunningEmulator(lambda: Emulator(config, command, log_folder=folder, **of_emulator))


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


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[RunningEmulator]:
    """Its workers never ask for a job."""
    with an_emulator(tmp_path, QUIET_WORKER) as running:
        yield running


def client(running: RunningEmulator, key: str | None = KEY) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=running.url, headers=headers, timeout=60)


def result(http: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found: dict[str, Any] = http.get(f"/status/{job_id}").json()
        if JobState(found["status"]).is_terminal:
            return found
        time.sleep(0.05)
    raise AssertionError(f"the job goes on: {found}")


def run_job(http: httpx.Client, **given: Any) -> str:
    policy = given.pop("policy", {})
    job_id: str = http.post("/run", json={"input": given, "policy": policy}).json()["id"]
    return job_id


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came to be")


# ---- real workers


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


def test_progress_shows_while_the_job_runs_and_not_after(plain: RunningEmulator) -> None:
    with client(plain) as http:
        job_id = run_job(http, do="tell", say="x")
        shown = until(lambda: http.get(f"/status/{job_id}").json().get("output"))
        assert shown == {"done": 1}
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


# ---- without the package: workers that never come


def test_it_refuses_as_runpod_does(quiet: RunningEmulator) -> None:
    with client(quiet) as http, client(quiet, "wrong") as wrong, client(quiet, None) as none:
        assert wrong.get("/health").status_code == none.get("/health").status_code == 401
        bare = httpx.get(f"{quiet.url}/health", headers={"Authorization": KEY})
        assert bare.status_code == 200, "RunPod takes the bare key too"
        other = httpx.get(f"{quiet.base_url}/v2/other/health", headers=dict(http.headers))
        assert other.status_code == 404
        assert http.get("/status/nope").status_code == 404
        assert http.get("/nothing").status_code == 404
        for body in (b"no json", b"[]", b"{}", b'{"input": {"x": 1e999}}', b'{"input": NaN}'):
            assert http.post("/run", content=body).status_code == 400
        for policy in ({"executionTimeout": 4999}, {"ttl": 9999}, {"lowPriority": 1}, 7):
            body = {"input": {}, "policy": policy}
            assert http.post("/run", json=body).status_code == 400
        assert http.post("/run", json={"input": {}, "webhook": "ftp://x"}).status_code == 400
        assert http.post("/runsync?wait=999", json={"input": {}}).status_code == 400
        large = b'{"input": "%s"}' % (b"x" * 10_000_000)
        refused = http.post("/run", content=large)
        assert refused.status_code == 400
        assert "10 MB" in refused.json()["error"]
        job_id = http.post("/runsync?wait=1000", content=large).json()["id"]
        assert job_id.startswith("sync-")
        retried = http.post(f"/retry/{job_id}")
        assert retried.status_code == 400
        assert "IN_QUEUE" in retried.json()["error"]
        assert http.post("/purge-queue").json() == {"removed": 1, "status": "completed"}
        assert http.get(f"/status/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
        assert http.post("/purge-queue").json()["removed"] == 0
        assert http.post("/purge-queue").status_code == 429


def test_workers_need_the_worker_key_and_an_id_of_theirs(quiet: RunningEmulator) -> None:
    key = quiet.emulator.worker_key
    with client(quiet) as http:
        assert http.get("/job-take/x?gpu=A4000").status_code == 401
        assert http.get(f"/job-take/x?key={key}").status_code == 204
        assert http.get(f"/job-take-batch/x?key={key}&batch_size=0").status_code == 400
        assert http.get(f"/job-stop/x?key={key}").status_code == 204
        assert http.get(f"/ping/x?key={key}").status_code == 404
        job_id = run_job(http)
        done = http.post(f"/job-done/x/{job_id}?key={key}", content=b'{"output": 1}')
        assert done.status_code == 200
        assert http.get(f"/status/{job_id}").json()["status"] == "IN_QUEUE", "nobody gave it that"
        assert http.post(f"/job-done/x/{job_id}?key={key}", content=b"[]").status_code == 400


def test_a_worker_played_by_hand_takes_in_batches_and_yields(quiet: RunningEmulator) -> None:
    key = quiet.emulator.worker_key
    with client(quiet) as http:
        jobs = [run_job(http, n=n) for n in range(3)]
        alive = quiet.emulator.endpoint.fleet.alive
        worker = until(alive)[0].id
        taken = http.get(f"/job-take-batch/{worker}?key={key}&batch_size=2").json()
        assert taken == [{"id": job, "input": {"n": n}} for n, job in enumerate(jobs[:2])]
        tell = f"/job-stream/{worker}/{jobs[0]}?key={key}&isStream=false"
        assert http.post(tell, json={"output": "x" * 1_500_000}).status_code == 200
        assert http.post(tell, json={"output": ["x" * 1_500_000]}).status_code == 400
        stream = http.get(f"/stream/{jobs[0]}").json()["stream"]
        assert "".join(item["output"] for item in stream) == "x" * 1_500_000
        assert http.get(f"/ping/{worker}?key={key}&job_id={','.join(jobs[:2])}").status_code == 200
        http.post(f"/cancel/{jobs[0]}")
        told = http.get(f"/job-stop/{worker}?key={key}").json()
        assert told == {"jobsToStop": [jobs[0]]}
        done = f"/job-done/{worker}/{jobs[1]}?key={key}"
        progress = {"status": "IN_PROGRESS", "output": 0.5}
        http.post(done, json=progress)
        assert http.get(f"/status/{jobs[1]}").json()["output"] == 0.5
        http.post(done, json={"output": 1, "stopPod": True})
        http.post(done, json={"output": 2})
        http.post(done, json=progress)
        assert result(http, jobs[1])["output"] == 1, "the first answer stands"
        until(lambda: worker not in [w.id for w in alive()])


def test_faults_on_the_wire_come_as_asked_for(quiet: RunningEmulator) -> None:
    faults = f"{quiet.base_url}/emulator/faults"
    with client(quiet) as http:
        status = {"kind": "status", "status": 429, "operation": "run", "retry_after_s": 0.5}
        assert http.post(faults, json={**status, "count": 2}).status_code == 200
        assert len(http.get(faults).json()["faults"]) == 1
        assert http.get("/health").status_code == 200
        refused = [http.post("/run", json={"input": {}}) for _ in range(3)]
        assert [answer.status_code for answer in refused] == [429, 429, 200]
        assert refused[0].headers["retry-after"] == "0.5"

        http.post(faults, json={"kind": "reset", "operation": "run"})
        before = http.get("/health").json()["jobs"]["inQueue"]
        with pytest.raises(httpx.RemoteProtocolError):
            http.post("/run", json={"input": {}})
        assert http.get("/health").json()["jobs"]["inQueue"] == before + 1, "it was done"

        http.post(faults, json={"kind": "stall", "seconds": 30})
        with pytest.raises(httpx.ReadTimeout):
            http.get("/health", timeout=0.3)
        http.post(faults, json=status)
        assert http.delete(faults).json() == {"faults": []}
        assert http.post("/run", json={"input": {}}).status_code == 200
        for wrong in ({"kind": "status"}, {"kind": "kill_worker"}, [], {"kind": "fire"}):
            answer = http.post(faults, json=wrong)
            assert answer.status_code == 400
        assert httpx.get(faults).status_code == 401


def test_requests_above_the_quota_are_refused(tmp_path: Path) -> None:
    quotas = {"status": Quota(2), "runsync": Quota(10, 1)}
    with (
        an_emulator(tmp_path, QUIET_WORKER, quotas=quotas) as running,
        client(running) as http,
    ):
        job_id = run_job(http)
        answers = [http.get(f"/status/{job_id}").status_code for _ in range(3)]
        assert answers == [200, 200, 429]
        waiting = threading.Thread(
            target=lambda: httpx.post(
                f"{running.url}/runsync", json={"input": {}}, headers=dict(http.headers), timeout=60
            )
        )
        waiting.start()
        until(lambda: http.get("/health").json()["jobs"]["inQueue"] == 2)
        assert http.post("/runsync", json={"input": {}}).status_code == 429
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_a_fast_clock_forgets_results_and_bills_its_own_seconds(tmp_path: Path) -> None:
    with (
        an_emulator(tmp_path, QUIET_WORKER, speed=1000.0, init_timeout_s=10_000.0) as running,
        client(running) as http,
    ):
        job_id = run_job(http)
        http.post(f"/cancel/{job_id}")
        assert http.get(f"/status/{job_id}").json()["status"] == "CANCELLED"
        until(lambda: http.get(f"/status/{job_id}").status_code == 404)
        bill = httpx.get(f"{running.base_url}/emulator/billing", headers=dict(http.headers)).json()
        assert bill["workers"][0]["is_running"]
        assert bill["billed_s"] >= 30 * 60


def test_webhooks_are_tried_three_times(tmp_path: Path) -> None:
    calls: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if len(calls) > 3 else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=receiver.serve_forever)
    thread.start()
    hook = f"http://127.0.0.1:{receiver.server_port}/"
    try:
        with (
            an_emulator(tmp_path, QUIET_WORKER, speed=200.0) as running,
            client(running) as http,
        ):
            for expected in (3, 4):
                job = http.post("/run", json={"input": {}, "webhook": hook}).json()["id"]
                http.post(f"/cancel/{job}")
                until(lambda expected=expected: len(calls) == expected)
            gone = http.post("/run", json={"input": {}, "webhook": "http://127.0.0.1:1/"}).json()
            http.post(f"/cancel/{gone['id']}")
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()
    assert len(set(calls[:3])) == 1
    assert b'"status":"CANCELLED"' in calls[3]
    assert len(calls) == 4


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


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    program = "from visiondyno.cli.emulate import command; command()"
    worker = f"{sys.executable} -c 'import time; time.sleep(600)'"
    options = ["--port", "0", "--api-key", KEY, "--worker-command", worker, "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "runpod", *options, "--logs", str(tmp_path / "logs")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        answer = httpx.get(f"{url}/health", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json()["workers"]["initializing"] == 1
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Stopped. 1 workers for" in rest


def test_a_taken_port_is_a_sentence() -> None:
    taken = listen("127.0.0.1", 0)
    try:
        with pytest.raises(SpecError, match="is taken"):
            listen("127.0.0.1", taken.getsockname()[1])
    finally:
        taken.close()
    with pytest.raises(SpecError, match="can't be had"):
        listen("192.0.2.1", 0)
    with pytest.raises(SpecError, match="isn't a port"):
        listen("127.0.0.1", 70_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpu", "Z80"], "isn't in the table"),
        (["--speed", "0"], "above 0"),
        (["--endpoint", "a/b"], "letters"),
        (["--idle-timeout", "-1"], "above 0"),
        (["--worker-command", "'"], "quotes"),
        (["--worker-command", " "], "empty"),
        (["--logs", "/dev/null/x"], "can't be made"),
    ],
    ids=["gpu", "speed", "endpoint", "idle-timeout", "quotes", "empty", "logs"],
)
def test_the_command_refuses_with_a_sentence(options: list[str], says: str) -> None:
    outcome = CliRunner().invoke(emulate, ["runpod", "--port", "0", *options])
    assert isinstance(outcome.exception, SpecError)
    assert says in str(outcome.exception)
