"""Handing in models over HTTP: streamed, checked, scored, ranked."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_api import LiveApi
from visiondyno import worker
from visiondyno.operations.context import OperationContext
from visiondyno.store.records import JobFilter, JobKind, KeyScope

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "visiondyno" / "shipped" / "depth-n-b8.onnx"
LIMIT = 5_000_000


def refuse(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    """What a worker without a sandbox would say; only the way there is tested."""
    raise ValueError(job_input["operation"])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with LiveApi(home, run=refuse, rate_limit_per_minute=0, max_upload_bytes=LIMIT) as live:
        yield live


@pytest.fixture(scope="module")
def client(api: LiveApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def blobs_of(api: LiveApi) -> int:
    folder = api.settings.folder / "blobs"
    return sum(file.is_file() and len(file.name) == 64 for file in folder.rglob("*"))


def multipart(*parts: tuple[str, str | None, bytes], boundary: str = "B") -> bytes:
    """A body of (field, file name, content) in this order."""
    body = b""
    for name, file_name, content in parts:
        disposition = f'form-data; name="{name}"'
        if file_name is not None:
            disposition += f'; filename="{file_name}"'
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def hand_in(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    kind = {"Content-Type": "multipart/form-data; boundary=B"}
    return client.post("/submit/task2", content=body, headers={**kind, **headers})


@pytest.mark.slow
def test_a_model_is_scored_and_ranked(tmp_path: Path) -> None:
    with (
        LiveApi(tmp_path, run=worker.run, require_keys=True) as api,
        api.client(api.make_key("team", KeyScope.SUBMIT)) as client,
        api.client(api.make_key("another team", KeyScope.SUBMIT)) as other,
        api.client(api.make_key("host")) as host,
    ):
        with MODEL.open("rb") as file:
            answer = client.post(
                "/submit/task2", data={"name": "our best"}, files={"file": (MODEL.name, file)}
            )
        assert answer.status_code == 202
        submission = answer.json()
        assert re.fullmatch(r"sub_\d{10}_[0-9a-f]{8}", submission["submission_id"])
        assert submission["status"] in ("queued", "processing")
        (job,) = api.call(api.service.jobs.find(JobFilter(kind=JobKind.SUBMISSION)))
        host.get(f"/api/jobs/{job.id}/events")
        status = f"/submit/task2/status/{submission['submission_id']}"
        found = client.get(status).json()
        assert (found["status"], found["error"], found["rank"]) == ("completed", None, 1)
        board = other.get("/submit/task2/leaderboard").json()
        (row,) = board["rows"]
        assert (row["rank"], row["name"]) == (1, "our best")
        assert row["low"] <= row["score"] == found["score"] <= row["high"]
        assert other.get(status).status_code == 404
        assert host.get(status).status_code == 200


def test_a_submission_answers_with_what_spec_says(client: httpx.Client) -> None:
    with MODEL.open("rb") as file:
        answer = client.post("/submit/task2", files={"file": ("model.onnx", file)})
    assert answer.status_code == 202
    keys = {"submission_id", "status", "score", "metrics", "error", "rank"}
    assert set(answer.json()) == keys
    status = client.get(f"/submit/task2/status/{answer.json()['submission_id']}")
    assert set(status.json()) == keys
    queue = client.get("/submit/queue/status").json()
    assert set(queue) == {"queue_length", "workers", "oldest_age_s"}
    health = client.get("/submit/health").json()
    assert health == {"status": "ok", "tasks": ["task2"]}


def test_a_failed_submission_says_why(api: LiveApi, client: httpx.Client) -> None:
    body = multipart(("name", None, b"doomed"), ("file", "m.onnx", MODEL.read_bytes()))
    submission_id = hand_in(client, body).json()["submission_id"]
    job = api.call(api.service.jobs.find(JobFilter(kind=JobKind.SUBMISSION)))[0]
    client.get(f"/api/jobs/{job.id}/events")
    found = client.get(f"/submit/task2/status/{submission_id}").json()
    assert found["status"] == "failed"
    assert found["error"]
    assert found["score"] is None
    assert found["rank"] is None


def test_the_same_idempotency_key_makes_one_submission(client: httpx.Client) -> None:
    body = multipart(("file", "m.onnx", MODEL.read_bytes()))
    ids = {hand_in(client, body, **{"Idempotency-Key": "k"}).json()["submission_id"] for _ in "ab"}
    assert len(ids) == 1


def test_names_with_other_letters_arrive(api: LiveApi, client: httpx.Client) -> None:
    name, file_name = "Tiefe – größer 深度", "C:\\Modelle\\größe.onnx"
    body = multipart(("name", None, name.encode()), ("file", file_name, MODEL.read_bytes()))
    submission_id = hand_in(client, body).json()["submission_id"]
    record = api.call(api.service.submissions.get("task2", submission_id))
    assert (record.name, record.file_name) == (name, "größe.onnx")


def test_without_a_name_the_file_gives_it(api: LiveApi, client: httpx.Client) -> None:
    body = multipart(("file", "team7.v2.onnx", MODEL.read_bytes()))
    submission_id = hand_in(client, body).json()["submission_id"]
    assert api.call(api.service.submissions.get("task2", submission_id)).name == "team7.v2"


GOOD = multipart(("file", "m.onnx", b"\x08\x08" + b"x" * 1000))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "before its last boundary"),
        (b"no multipart at all", 400, "isn't multipart"),
        (GOOD[:60], 400, "before its last boundary"),
        (GOOD[:500], 400, "before its last boundary"),
        (GOOD.replace(b'name="file"; ', b""), 400, "no name"),
        (GOOD.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"), 422, "as it"),
        (multipart(), 422, "no file in its field 'file'"),
        (multipart(("name", None, b"x")), 422, "no file in its field 'file'"),
        (multipart(("file", None, b"x")), 422, "takes name, file only"),
        (multipart(("other", "m.onnx", b"x")), 422, "'other'"),
        (multipart(("name", "m.onnx", b"x"), ("file", "m.onnx", b"x")), 422, "a file 'name'"),
        (multipart(("name", None, b"x" * 10_001), ("file", "m.onnx", b"x")), 422, "longer than"),
        (multipart(("name", None, b"x"), ("name", None, b"y")), 422, "twice"),
        (multipart(*[("other", None, b"x")] * 40), 422, "more than 16 parts"),
        (multipart(("file", "m.onnx", b"\x08\x08xx"), ("name", None, b"x")), 422, "before"),
        (multipart(("file", "m.onnx", b"\x08\x08xx"), ("file", "n.onnx", b"x")), 422, "follows"),
        (multipart(("file", "model.pt", b"x")), 422, ".onnx"),
        (multipart(("file", "", b"\x08\x08xx")), 422, "1 to 100"),
        (multipart(("file", "m.onnx", b"")), 422, ""),
        (multipart(("name", None, b"a\x00b"), ("file", "m.onnx", b"x")), 422, ""),
        (multipart(("name", None, b"\xff"), ("file", "m.pt", b"x")), 422, ""),
    ],
    ids=range(21),
)
def test_a_wrong_form_is_refused_and_nothing_is_kept(
    api: LiveApi, client: httpx.Client, body: bytes, status: int, says: str
) -> None:
    before = blobs_of(api)
    answer = hand_in(client, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert blobs_of(api) == before


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 415),
        ("", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "x" * 300, 400),
        ("multipart/mixed; boundary=B", 415),
    ],
    ids=range(6),
)
def test_a_body_of_another_type_is_refused(client: httpx.Client, kind: str, status: int) -> None:
    answer = hand_in(client, GOOD, **{"Content-Type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("extra", [1, 2_000_000])
def test_a_file_above_the_limit_is_refused_while_it_comes(
    api: LiveApi, client: httpx.Client, extra: int
) -> None:
    before = blobs_of(api)
    whole = multipart(("file", "m.onnx", b"\x08\x08" + b"x" * (LIMIT - 2 + extra)))

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(whole), 65_536):
            yield whole[start : start + 65_536]

    for body in (whole, pieces()):
        answer = hand_in(client, body)  # type: ignore[arg-type]
        assert answer.status_code == 413
        assert answer.json()["code"] == "too_large"
    assert blobs_of(api) == before


def test_a_client_that_hangs_up_leaves_nothing(api: LiveApi, client: httpx.Client) -> None:
    before = blobs_of(api)
    jobs = len(client.get("/api/jobs", params={"kind": "submission"}).json()["jobs"])
    body = multipart(("file", "m.onnx", MODEL.read_bytes()))
    host, port = api.url.removeprefix("http://").split(":")
    head = (
        f"POST /submit/task2 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    )
    for part in (0, 50, 1000, len(body) // 2, len(body) - 1):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body[:part])
    assert hand_in(client, GOOD[:-30]).status_code == 400  # the server goes on
    assert blobs_of(api) == before
    after = client.get("/api/jobs", params={"kind": "submission"}).json()["jobs"]
    assert len(after) == jobs


@pytest.mark.parametrize("task", ["none", "queue", "health", "task%00", "x" * 65])
def test_an_unknown_task_is_not_found(client: httpx.Client, task: str) -> None:
    files = {"file": ("m.onnx", b"\x08\x08xx")}
    assert client.post(f"/submit/{task}", files=files).status_code in (404, 422)
    assert client.get(f"/submit/{task}/leaderboard").status_code in (404, 422)


def test_a_submission_is_deleted_by_who_runs_the_server(tmp_path: Path) -> None:
    with LiveApi(tmp_path, run=refuse, require_keys=True) as api:
        with api.client(api.make_key("team", KeyScope.SUBMIT)) as team:
            made = hand_in(team, multipart(("file", "m.onnx", b"\x08\x07"))).json()
            path = f"/submit/task2/status/{made['submission_id']}"
            refused = team.delete(path)
            assert refused.status_code == 403
            assert "can't delete" in refused.json()["detail"]
            assert team.get(path).status_code == 200
        with api.client(api.make_key("host")) as host:
            assert host.delete(path).status_code == 204
            assert host.get(path).status_code == 404
            assert host.delete(path).status_code == 404
            assert host.delete(path.replace("task2", "task3")).status_code == 404


def test_an_unknown_submission_is_not_found(client: httpx.Client) -> None:
    answer = client.get("/submit/task2/status/sub_1770321145_69dc972f")
    assert answer.status_code == 404
    assert client.get("/submit/task2/status/other").status_code == 422
