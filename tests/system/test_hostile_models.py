"""Uploads that mean harm or are broken: refused with a reason, and the worker goes on."""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from hostile_models import HOSTILE, MALFORMED, Case, harmless, write_hidden_data
from live_api import LiveApi
from visiondyno import worker
from visiondyno.errors import VisionDynoError
from visiondyno.executors.base import Executor
from visiondyno.operations.context import OperationContext
from visiondyno.wiring import make_queue_executor

pytestmark = pytest.mark.slow

IMAGES = 10
TIME_S = 60.0
BRIEF_S = 3.0
"""Of what would go on for ever."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The worker's home, with the hidden data beside it."""
    folder = tmp_path_factory.mktemp("worker")
    write_hidden_data(folder / "hidden", IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONDYNO_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def completed() -> dict[str, float]:
    """Scores of twins by digest: many cases have the same one."""
    return {}


def task(folder: Path, name: str, time_s: float) -> dict[str, Any]:
    return {
        "name": name,
        "title": "Depth of small images",
        "description": "",
        "vision_task": "depth",
        "data": str(folder / "hidden"),
        "images": IMAGES,
        "metric": {"name": "delta1", "better": "higher", "formula": "share within 1.25"},
        "depth": {"output": "depth", "alignment": "median_scale"},
        "card": {
            "task": "depth",
            "head": "depth",
            "input": {"height": 32, "width": 32, "resize": "stretch"},
        },
        "input": {"height": 32, "width": 32},
        "batch_size": 8,
        "limits": {"time_s": time_s, "memory_bytes": 1_000_000_000, "upload_bytes": 5_000_000},
        "submissions_per_day": 1000,
        "resamples": 100,
    }


def score(folder: Path, data: bytes, time_s: float = TIME_S) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    blob = folder / "home" / "blobs" / digest[:2] / digest
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    job_input = {
        "operation": "score_submission",
        "task": task(folder, "small", time_s),
        "model": f"sha256:{digest}",
        "file_name": "theirs.onnx",
    }
    return worker.run(job_input, OperationContext())


@pytest.mark.parametrize("case", [*HOSTILE, *MALFORMED], ids=lambda case: case.name)
def test_it_is_refused_with_a_clear_reason(case: Case, folder: Path) -> None:
    with pytest.raises(VisionDynoError) as caught:
        score(folder, case.hostile(), BRIEF_S if case.is_endless else TIME_S)
    error = caught.value
    assert type(error) is not VisionDynoError, "a defect of ours"
    assert re.search(case.says, error.message, re.IGNORECASE), error.message
    assert len(error.message) < 900
    for ours in (str(folder), "Traceback", "hidden", "/site-packages/"):
        assert ours not in error.message


@pytest.mark.parametrize("case", [*HOSTILE, *MALFORMED], ids=lambda case: case.name)
def test_its_harmless_twin_completes(case: Case, folder: Path, completed: dict[str, float]) -> None:
    data = case.twin()
    digest = hashlib.sha256(data).hexdigest()
    if digest not in completed:
        found = score(folder, data)
        assert all(found["protections"][name]["held"] for name in ("memory", "cpu_time"))
        completed[digest] = found["splits"]["all"]["score"]
    assert 0 <= completed[digest] <= 1


def test_the_same_model_scores_the_same_after_all_of_them(
    folder: Path, completed: dict[str, float]
) -> None:
    again = score(folder, harmless())["splits"]["all"]["score"]
    assert again == completed.get(hashlib.sha256(harmless()).hexdigest(), again)
    left = [path.name for path in folder.iterdir() if path.name not in {"home", "hidden"}]
    assert not left


class WorkingServer(LiveApi):
    """With worker processes of its own, as `dyno up` has."""

    def _make_executor(self) -> Executor:
        return make_queue_executor(self.settings)


UPLOADED = (
    "path_traversal",
    "endless_loop",
    "tensor_of_48_gb",
    "folding_bomb",
    "deep_functions",
    "unknown_domain",
    "half",
)
AT_THE_DOOR = ("empty", "zip", "too_large")


def hand_in(client: httpx.Client, data: bytes, to: str = "small") -> httpx.Response:
    return client.post(f"/submit/{to}", files={"file": ("theirs.onnx", data)})


def ended(client: httpx.Client, submission_id: str, of: str = "small") -> dict[str, Any]:
    while True:
        found: dict[str, Any] = client.get(f"/submit/{of}/status/{submission_id}").json()
        if found["status"] in ("completed", "failed"):
            return found
        time.sleep(0.05)


def worker_of(client: httpx.Client) -> dict[str, Any]:
    (found,) = client.get("/api/workers").json()["workers"]
    return dict(found)


def test_a_live_server_and_its_worker_go_on(folder: Path, tmp_path: Path) -> None:
    cases = {case.name: case for case in (*HOSTILE, *MALFORMED)}
    (tmp_path / "tasks").mkdir()
    for name, time_s in (("small", TIME_S), ("brief", BRIEF_S)):
        text = yaml.safe_dump(task(folder, name, time_s))
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    of = {name: "brief" if cases[name].is_endless else "small" for name in UPLOADED}
    home = tmp_path / "home"
    with WorkingServer(home, tasks_dir=tmp_path / "tasks") as server, server.client() as client:
        for name in AT_THE_DOOR:
            answer = hand_in(client, cases[name].hostile())
            assert answer.status_code in (413, 422), answer.text
        ids = {name: hand_in(client, cases[name].hostile(), of[name]) for name in UPLOADED}
        assert {answer.status_code for answer in ids.values()} == {202}
        for name, answer in ids.items():
            found = ended(client, answer.json()["submission_id"], of[name])
            assert found["status"] == "failed"
            assert re.search(cases[name].says, found["error"], re.IGNORECASE), found["error"]
        good = ended(client, hand_in(client, harmless()).json()["submission_id"])
        assert (good["status"], good["rank"]) == ("completed", 1)
        assert client.get("/health").status_code == 200
        (row,) = client.get("/submit/small/leaderboard").json()["rows"]
        assert row["score"] == good["score"]
        while (doing := worker_of(client))["jobs_done"] < len(UPLOADED) + 1:
            time.sleep(0.05)
        assert doing["restarts"] == 0
    left = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [line for line in left if "visiondyno.sandbox" in " ".join(line)]
