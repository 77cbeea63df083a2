"""What an emulated endpoint answers while no worker takes its jobs by itself."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulated_endpoint import KEY, QUIET_WORKER, an_emulator, client, result, run_job, until
from visiondyno.emulator.config import Quota
from visiondyno.emulator.serve import RunningEmulator


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[RunningEmulator]:
    """Its workers never ask for a job."""
    with an_emulator(tmp_path, QUIET_WORKER) as running:
        yield running


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
