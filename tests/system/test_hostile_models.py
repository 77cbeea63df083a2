"""Uploads that mean harm or are broken: refused with a reason, while server and workers go on.

All of them, and the harmless twin of each, go through one server: everything is handed in when the
first test begins, and each test waits for its own.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from hostile_graphs import harmless
from hostile_models import HOSTILE, MALFORMED, Case
from live_api import LiveApi
from small_depth_task import IMAGES, small_task, write_hidden_data
from visiondyno.executors.base import Executor
from visiondyno.executors.workers import WorkerState
from visiondyno.wiring import make_queue_executor

pytestmark = pytest.mark.slow

CASES = (*HOSTILE, *MALFORMED)
AT_THE_DOOR = {"empty", "zip", "pickle", "web_page", "lfs_pointer", "too_large"}
"""Refused before anything is kept."""
TIME_S = 60.0
BRIEF_S = 3.0
"""Of what would go on for ever."""
WORKERS = 2


class WorkingServer(LiveApi):
    """With worker processes of its own, as `dyno up` has."""

    def _make_executor(self) -> Executor:
        return make_queue_executor(self.settings)


class HandedIn:
    """Everything handed in at once: each case's file, and each twin once, by its digest."""

    def __init__(self, server: WorkingServer) -> None:
        self._server = server
        with server.client() as client:
            self.workers_before = workers_of(client, are_idle)
        self._pool = ThreadPoolExecutor(4)
        self._twins: dict[str, Future[dict[str, Any]]] = {}
        self._hostile: dict[str, Future[dict[str, Any]]] = {}
        # What only its time ends, first: the rest runs beside it.
        for case in sorted(CASES, key=lambda case: not case.is_endless):
            task = "brief" if case.is_endless else "small"
            self._hostile[case.name] = self._pool.submit(self.outcome, case.hostile(), task)
            twin = case.twin()
            digest = hashlib.sha256(twin).hexdigest()
            if digest not in self._twins:
                self._twins[digest] = self._pool.submit(self.outcome, twin)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def outcome(self, data: bytes, task: str = "small") -> dict[str, Any]:
        """What a participant is told in the end: the refusal, or the submission; and its `job`."""
        with self._server.client() as client:
            answer = client.post(f"/submit/{task}", files={"file": ("theirs.onnx", data)})
            found: dict[str, Any] = answer.json()
            if answer.status_code != 202:
                return {"http_status": answer.status_code, **found}
            submission_id = found["submission_id"]
            while found["status"] not in ("completed", "failed"):
                time.sleep(0.05)
                found = client.get(f"/submit/{task}/status/{submission_id}").json()
            submissions = self._server.service.submissions
            job_id = self._server.call(submissions.get(task, submission_id)).job_id
            return {**found, "job": client.get(f"/api/jobs/{job_id}").json()}

    def of(self, case: Case) -> dict[str, Any]:
        return self._hostile[case.name].result()

    def of_twin(self, case: Case) -> dict[str, Any]:
        return self._twins[hashlib.sha256(case.twin()).hexdigest()].result()

    def all(self) -> list[dict[str, Any]]:
        return [future.result() for future in (*self._hostile.values(), *self._twins.values())]


def workers_of(client: httpx.Client, until: Any) -> list[dict[str, Any]]:
    """The workers once they are as told of."""
    while not until(found := client.get("/api/workers").json()["workers"]):
        time.sleep(0.05)
    return list(found)


def are_idle(workers: list[dict[str, Any]]) -> bool:
    return len(workers) == WORKERS and all(
        worker["state"] == WorkerState.IDLE for worker in workers
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `home`, `hidden` (the data), `tasks`, and `tmp`, of the workers' temporary files."""
    place = tmp_path_factory.mktemp("place")
    for name in ("tasks", "tmp"):
        (place / name).mkdir()
    write_hidden_data(place / "hidden")
    for name, time_s in (("small", TIME_S), ("brief", BRIEF_S)):
        task = small_task(place / "hidden", name=name, images=IMAGES)
        task["limits"]["time_s"] = time_s
        (place / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return place


@pytest.fixture(scope="module")
def handed_in(place: Path) -> Iterator[HandedIn]:
    scale = {"workers_min": WORKERS, "workers_max": WORKERS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(place / "tmp"))
        settings = {"tasks_dir": place / "tasks", "rate_limit_per_minute": 0, **scale}
        with WorkingServer(place / "home", **settings) as server:
            handed_in = HandedIn(server)
            yield handed_in
            handed_in.close()
    left = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [line for line in left if "visiondyno.sandbox" in " ".join(line)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_with_a_clear_reason(case: Case, handed_in: HandedIn, place: Path) -> None:
    found = handed_in.of(case)
    if case.name in AT_THE_DOOR:
        assert found["http_status"] in (413, 422)
        said = found["detail"]
    else:
        assert (found["status"], found["score"], found["rank"]) == ("failed", None, None)
        error = found["job"]["answer"]["error"]
        assert error["code"] != "internal", "a defect of ours"
        said = found["error"]
        assert said == error["message"]
    assert re.search(case.says, said, re.IGNORECASE), said
    assert len(said) < 900
    for ours in (str(place), "Traceback", "hidden", "/site-packages/"):
        assert ours not in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_its_harmless_twin_completes(case: Case, handed_in: HandedIn) -> None:
    found = handed_in.of_twin(case)
    assert (found["status"], found["error"]) == ("completed", None)
    assert 0 <= found["score"] <= 1
    protections = found["metrics"]["protections"]
    assert all(protections[name]["held"] for name in ("memory", "cpu_time"))


def test_server_and_workers_go_on_as_if_nothing_had_been(handed_in: HandedIn, place: Path) -> None:
    before = handed_in.all()
    again = handed_in.outcome(harmless())
    scores = {found["score"] for found in before if "job" in found and found["score"] is not None}
    assert again["score"] in scores
    ran = 1 + sum("job" in found for found in before)
    with handed_in._server.client() as client:
        assert client.get("/health").status_code == 200
        rows = client.get("/submit/small/leaderboard").json()["rows"]
        assert [row["score"] for row in rows] == [max(scores)]
        after = workers_of(client, lambda all_: sum(one["jobs_done"] for one in all_) >= ran)
    assert {one["pid"] for one in after} == {one["pid"] for one in handed_in.workers_before}
    assert [one["restarts"] for one in after] == [0] * WORKERS
    assert all(found["job"]["attempts"] == 1 for found in before if "job" in found)
    assert not list((place / "tmp").iterdir())
