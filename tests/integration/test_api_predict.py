"""Images uploaded to the job API: one job for all of them, run by the real worker."""

import base64
import dataclasses
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from archives import zipped
from live_api import LiveApi
from visiondyno import worker
from visiondyno.api import predict as api_predict
from visiondyno.operations import predict_archive
from visiondyno.operations.context import OperationContext

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
PNG, JPEG = (cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".png", ".jpg"))
MIXED = zipped(
    {"__MACOSX/._a.png": b"x", "a.png": PNG, "notes.txt": b"hello", "b/c.jpg": JPEG, "d.png": b""}
)
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONDYNO_HOME", str(home))
        patch.delenv("VISIONDYNO_BLOBS_URL", raising=False)
        with LiveApi(home, run=worker.run, rate_limit_per_minute=0, max_upload_bytes=LIMIT) as live:
            yield live


def ask(client: httpx.Client, *files: tuple[str, bytes], **fields: str) -> httpx.Response:
    headers = {"Idempotency-Key": fields.pop("key")} if "key" in fields else {}
    return client.post(
        "/api/predict",
        data={"model": "fake:detection", **fields},
        files=[("file", file) for file in files] or [("color", (None, "red"))],
        headers=headers,
    )


def result(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    """What came of it."""
    assert answer.status_code == 202, answer.text
    links = answer.json()["links"]
    client.get(links["events"])
    found: dict[str, Any] = client.get(links["self"]).json()
    assert found["id"] == answer.json()["id"]
    assert found["links"] == links
    return found


def output(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    found = result(client, answer)
    assert (found["status"], found["error"]) == ("COMPLETED", None)
    told: dict[str, Any] = found["output"]
    return told


def predicted(*images: bytes, confidence: float = 0.25) -> list[dict[str, Any]]:
    """What `predict` answers of them elsewhere."""
    job = {
        "operation": "predict",
        "model": "fake:detection",
        "images": [base64.b64encode(one).decode() for one in images],
        "confidence": confidence,
    }
    found: list[dict[str, Any]] = worker.run(job, OperationContext())["predictions"]
    return found


def test_a_zip_file_is_predicted_file_by_file(client: httpx.Client) -> None:
    found = output(client, ask(client, ("images.zip", MIXED)))
    first, second = predicted(PNG, JPEG)
    assert (found["images"], found["errors"]) == (2, 2)
    assert found["skipped"] == ["__MACOSX/._a.png"]
    assert found["predictions_file"] is None
    a, notes, c, d = found["predictions"]
    assert a == {"name": "a.png", **first}
    assert c == {"name": "b/c.jpg", **second}
    for one, name in ((notes, "notes.txt"), (d, "d.png")):
        assert one["name"] == name
        assert one["error"]["code"] == "bad_dataset"
        assert name in one["error"]["message"]


def test_images_may_come_one_by_one_with_options(client: httpx.Client) -> None:
    files = [("a.png", PNG), ("a.png", JPEG), (".b:c.png", PNG)]
    found = output(client, ask(client, *files, confidence="0", classes="car, 1"))
    names = [one["name"] for one in found["predictions"]]
    assert names == ["a.png", "2-a.png", "b_c.png"]
    everything = predicted(PNG, confidence=0)[0]
    kept = [index for index in everything["classes"] if index in (0, 1)]
    assert found["predictions"][0]["classes"] == kept
    assert len(kept) < len(everything["classes"])


def test_long_predictions_are_a_blob(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    short = output(client, ask(client, ("images.zip", MIXED)))["predictions"]
    monkeypatch.setattr(predict_archive, "INLINE_BYTES", 100)
    found = output(client, ask(client, ("images.zip", MIXED)))
    assert found["predictions"] is None
    blob = client.get(f"/blobs/{found['predictions_file'].removeprefix('sha256:')}").text
    assert [json.loads(line) for line in blob.splitlines()] == short


def test_the_same_request_with_its_key_is_one_prediction(client: httpx.Client) -> None:
    first = ask(client, ("a.png", PNG), ("b.png", JPEG), key="k").json()
    assert ask(client, ("a.png", PNG), ("b.png", JPEG), key="k").json()["id"] == first["id"]
    assert ask(client, ("a.png", PNG), ("b.png", JPEG)).json()["id"] != first["id"]
    assert ask(client, ("a.png", PNG), key="k").status_code == 409


def with_link() -> bytes:
    return zipped({"a.png": b"/etc/passwd"}, **{"a.png": 0o120777})


REFUSED = {
    "no file": ([], {}, 422, "'color'"),
    "no images": ([("a.zip", zipped({}))], {}, 422, "holds no file"),
    "leads out": ([("a.zip", zipped({"../a.png": PNG}))], {}, 422, "outside its folder"),
    "link": ([("a.zip", with_link())], {}, 422, "a link or a device"),
    "cut": ([("a.zip", MIXED[:-40])], {}, 422, "damaged or none"),
    "text": ([("a.txt", b"hello")], {}, 415, "'a.txt' is neither a zip file nor"),
    "text later": ([("a.png", PNG), ("a.txt", b"hello")], {}, 415, "'a.txt' is neither"),
    "zip and image": ([("a.zip", MIXED), ("a.png", PNG)], {}, 422, "comes alone"),
    "image and zip": ([("a.png", PNG), ("a.zip", MIXED)], {}, 415, "'a.zip' is neither"),
    "empty": ([("a.png", b"")], {}, 415, "'a.png' is neither"),
    "too many": ([("a.png", PNG[:30])] * 1001, {}, 422, "more than 1,000 files"),
    "confidence": ([("a.png", PNG)], {"confidence": "2"}, 422, "'confidence'"),
    "no model": ([("a.png", PNG)], {"model": ""}, 422, "'model'"),
    "unknown field": ([("a.png", PNG)], {"color": "red"}, 422, "it takes model, confidence"),
    "too large": ([("a.png", PNG + bytes(LIMIT + 1_000_000))], {}, 413, "2 MB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_predicted_is_refused_at_once(
    api: LiveApi, client: httpx.Client, case: str
) -> None:
    files, fields, status, says = REFUSED[case]
    jobs = len(client.get("/api/jobs?limit=500").json()["jobs"])
    blobs = sum(path.is_file() for path in (api.settings.folder / "blobs").rglob("*"))
    answer = ask(client, *files, **fields)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert len(client.get("/api/jobs?limit=500").json()["jobs"]) == jobs
    assert sum(path.is_file() for path in (api.settings.folder / "blobs").rglob("*")) == blobs


def test_a_field_after_the_file_is_refused(client: httpx.Client) -> None:
    files = [("file", ("a.png", PNG)), ("classes", (None, "car"))]
    answer = client.post("/api/predict", data={"model": "fake:detection"}, files=files)
    assert answer.status_code == 422
    assert "'classes' follows the file" in answer.json()["detail"]


def test_one_image_has_a_size(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dataclasses.replace(api_predict.JOB_LIMITS, most_image_bytes=300_000)
    monkeypatch.setattr(api_predict, "JOB_LIMITS", limits)
    answer = ask(client, ("a.png", PNG), ("large.png", PNG + bytes(400_000)))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "'large.png' has more than the 0.3 MB" in answer.json()["detail"]


def test_no_room_for_an_upload_is_said(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    answer = ask(client, ("a.png", PNG))
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert "make room" in answer.json()["detail"]


def test_what_fails_says_why(client: httpx.Client) -> None:
    found = result(client, ask(client, ("a.png", PNG), model="no-such.onnx"))
    assert (found["status"], found["output"]) == ("FAILED", None)
    assert "no-such.onnx" in found["error"]["message"]


def test_only_its_own_jobs_are_found(client: httpx.Client) -> None:
    other = client.post("/v2/default/run", json={"input": {"operation": "predict"}}).json()["id"]
    for unknown, says in ((other, "predicts no uploaded images"), ("nothing", "nothing")):
        answer = client.get(f"/api/predict/{unknown}")
        assert answer.status_code == 404
        assert says in answer.json()["detail"]


def test_a_zip_file_is_data_of_a_job_by_its_blob(client: httpx.Client) -> None:
    """What the page of the API shows: an evaluation of uploaded images."""
    target = io.BytesIO()
    labels = "0 0.5 0.5 0.4 0.4\n"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("set/images/a.png", PNG)
        archive.writestr("set/labels/a.txt", labels)
        archive.writestr("set/data.yaml", "val: images\nnames: [car, truck, pedestrian, sign]\n")
    sha256 = hashlib.sha256(target.getvalue()).hexdigest()
    assert client.put(f"/blobs/{sha256}", content=target.getvalue()).status_code == 201
    job = {
        "operation": "evaluate",
        "model": "fake:detection",
        "data": "images.zip",
        "attachments": {"images.zip": {"archive": f"sha256:{sha256}", "path": "set/data.yaml"}},
    }
    told = client.post("/v2/default/runsync?wait=60000", json={"input": job}).json()
    assert told["status"] == "COMPLETED", told
    assert told["output"]["images"] == 1
