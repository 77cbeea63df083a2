"""The emulator's answers have the keys and types of the examples in RunPod's reference.

https://docs.runpod.io/serverless/endpoints/operation-reference, read in November 2026. Beyond its
examples RunPod tells `workerId` and more states of workers; its reference shows the items of a
stream without the object around them, which its own package reads.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulated_endpoint import QUIET_WORKER, an_emulator, client, run_job, until
from visiondyno.emulator.serve import RunningEmulator

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
SUBMITTED = {"id": str, "status": str}
ENDED = {"delayTime": int, "executionTime": int, "id": str, "output": dict, "status": str}
JOBS = ["completed", "failed", "inProgress", "inQueue", "retried"]
HEALTH = {"jobs": dict.fromkeys(JOBS, int), "workers": {"idle": int, "running": int}}


def differences(found: Any, example: Any, may_have: set[str], place: str = "") -> list[str]:
    """Where an answer has other keys or types than the example."""
    if isinstance(example, type):
        return [] if type(found) is example else [f"{place}: {found!r} is no {example.__name__}"]
    told = [f"{place}.{key} is missing" for key in example.keys() - found.keys()]
    told += [f"{place}.{key} is new" for key in found.keys() - example.keys() - may_have]
    for key in example.keys() & found.keys():
        told += differences(found[key], example[key], may_have, f"{place}.{key}")
    return told


class Worker:
    """A worker of the endpoint, played by hand."""

    def __init__(self, running: RunningEmulator, http: httpx.Client) -> None:
        self._http = http
        self._key = running.emulator.worker_key
        self._id = until(running.emulator.endpoint.fleet.alive)[0].id

    def take(self) -> str:
        job_id: str = self._http.get(f"/job-take/{self._id}?key={self._key}").json()["id"]
        return job_id

    def say(self, route: str, job_id: str, said: dict[str, Any]) -> None:
        path = f"/{route}/{self._id}/{job_id}?key={self._key}"
        assert self._http.post(path, json=said).status_code == 200


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[RunningEmulator]:
    with an_emulator(tmp_path, QUIET_WORKER, workers_min=1) as running:
        yield running


def test_run_status_stream_and_health(documented: RunningEmulator) -> None:
    with client(documented) as http:
        submitted = http.post("/run", json={"input": {"prompt": "Hello, world!"}}).json()
        assert differences(submitted, SUBMITTED, set()) == []
        assert submitted["status"] == "IN_QUEUE"
        assert re.fullmatch(rf"{UUID}-\w+", submitted["id"])
        worker = Worker(documented, http)
        job_id = worker.take()
        worker.say("job-stream", job_id, {"output": {"text": [" How"]}})
        told = http.get(f"/stream/{job_id}").json()
        assert told["stream"] == [{"output": {"text": [" How"]}}]
        assert told["status"] == "IN_PROGRESS"
        worker.say("job-done", job_id, {"output": {"text": ["Hello!"]}})
        found = http.get(f"/status/{job_id}").json()
        assert differences(found, ENDED, {"workerId"}) == []
        assert found["status"] == "COMPLETED"
        states = {"initializing", "ready", "throttled", "unhealthy"}
        assert differences(http.get("/health").json(), HEALTH, states) == []


def test_runsync_that_ends_and_one_that_takes_longer(documented: RunningEmulator) -> None:
    with client(documented) as http:
        late = http.post("/runsync?wait=1000", json={"input": {"prompt": "Hello!"}}).json()
        assert differences(late, SUBMITTED, set()) == []
        assert re.fullmatch(rf"sync-{UUID}\S*", late["id"])
        worker = Worker(documented, http)
        job_id = worker.take()
        worker.say("job-done", job_id, {"output": [{"image": "https://image.url", "seed": 46578}]})
        found = http.get(f"/status/{job_id}").json()
        assert differences(found, {**ENDED, "output": list}, {"workerId"}) == []


def test_cancel_retry_and_purge_queue(documented: RunningEmulator) -> None:
    with client(documented) as http:
        job_id = run_job(http)
        assert http.post(f"/cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
        failed = run_job(http)
        worker = Worker(documented, http)
        worker.say("job-done", worker.take(), {"error": "out of memory"})
        found = http.get(f"/status/{failed}").json()
        example = {key: kind for key, kind in ENDED.items() if key != "output"} | {"error": str}
        assert differences(found, example, {"workerId"}) == []
        assert found["status"] == "FAILED"
        assert http.post(f"/retry/{failed}").json() == {"id": failed, "status": "IN_QUEUE"}
        assert http.get(f"/status/{failed}").json() == {"id": failed, "status": "IN_QUEUE"}
        assert http.post("/purge-queue").json() == {"removed": 1, "status": "completed"}
