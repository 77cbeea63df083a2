"""RunPod's job API: what their clients are promised."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from live_api import Clock, LiveApi


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[LiveApi]:
    with LiveApi(
        tmp_path_factory.mktemp("home"),
        clocks={"clock": clock.over(time.time)},
        max_run_bytes=20_000,
        max_runsync_bytes=40_000,
        rate_limit_per_minute=0,
    ) as live:
        yield live


@pytest.fixture(scope="module")
def client(api: LiveApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


@pytest.fixture(autouse=True)
def now(clock: Clock) -> None:
    clock.offset_s = 0.0


def run(client: httpx.Client, operation: str, **rest: Any) -> str:
    answer = client.post("/v2/default/run", json={"input": {"operation": operation, **rest}})
    assert answer.status_code == 200
    assert answer.json()["status"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED")
    job_id: str = answer.json()["id"]
    return job_id


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Its answer, once its events have ended."""
    client.get(f"/api/jobs/{job_id}/events")
    answer: dict[str, Any] = client.get(f"/v2/default/status/{job_id}").json()
    return answer


def state(client: httpx.Client, job_id: str) -> str:
    found: str = client.get(f"/v2/default/status/{job_id}").json()["status"]
    return found


def running(client: httpx.Client) -> str:
    """A job that has begun and runs until it is stopped."""
    job_id = run(client, "until stopped")
    with client.stream("GET", f"/api/jobs/{job_id}/events") as events:
        assert any('"started"' in line for line in events.iter_lines())
    return job_id


def test_a_job_is_accepted_at_once_and_completes_with_its_output(client: httpx.Client) -> None:
    answer = ended(client, run(client, "echo", say="hello"))
    assert answer["status"] == "COMPLETED"
    assert answer["output"] == {"said": "hello"}
    assert answer["delayTime"] >= 0
    assert answer["executionTime"] >= 0
    assert answer["workerId"] == "inline"
    assert "error" not in answer


def test_a_failed_job_says_why(client: httpx.Client) -> None:
    answer = ended(client, run(client, "refuse"))
    assert answer["status"] == "FAILED"
    assert answer["error"]["code"] == "bad_dataset"
    assert "images/7.jpg is empty" in answer["error"]["message"]
    assert "output" not in answer


def test_a_running_job_has_its_times_and_a_cancel_stops_it(client: httpx.Client) -> None:
    job_id = running(client)
    answer = client.get(f"/v2/default/status/{job_id}").json()
    assert answer["status"] == "IN_PROGRESS"
    assert answer["delayTime"] >= 0
    assert "output" not in answer
    cancelled = client.post(f"/v2/default/cancel/{job_id}")
    assert cancelled.json() == {"id": job_id, "status": "CANCELLED"}
    again = client.post(f"/v2/default/cancel/{job_id}")
    assert again.json() == {"id": job_id, "status": "CANCELLED"}


def test_runsync_answers_with_the_output(client: httpx.Client) -> None:
    body = {"input": {"operation": "echo", "say": "now"}}
    answer = client.post("/v2/default/runsync", json=body).json()
    assert answer["status"] == "COMPLETED"
    assert answer["output"] == {"said": "now"}


def test_runsync_answers_as_it_stands_when_its_wait_is_over(client: httpx.Client) -> None:
    body = {"input": {"operation": "until stopped"}}
    answer = client.post("/v2/default/runsync?wait=1000", json=body).json()
    assert answer["status"] == "IN_PROGRESS"
    assert "output" not in answer
    client.post(f"/v2/default/cancel/{answer['id']}")


@pytest.mark.parametrize("wait", ["999", "300001", "soon", "-1", "1e4"])
def test_runsync_waits_between_a_second_and_five_minutes(client: httpx.Client, wait: str) -> None:
    body = {"input": {"operation": "echo", "say": "x"}}
    answer = client.post(f"/v2/default/runsync?wait={wait}", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "query.wait"


def test_stream_gives_each_thing_once_and_the_output_last(client: httpx.Client) -> None:
    job_id = run(client, "echo", say="end", steps=3)
    ended(client, job_id)
    first = client.get(f"/v2/default/stream/{job_id}").json()
    told = [item["output"] for item in first["stream"]]
    assert told == [{"stage": "step", "done": n} for n in range(3)] + [{"said": "end"}]
    assert first["status"] == "COMPLETED"
    assert client.get(f"/v2/default/stream/{job_id}").json() == {
        "status": "COMPLETED",
        "stream": [],
    }


def test_a_long_stream_comes_in_pieces_and_whole(client: httpx.Client) -> None:
    job_id = run(client, "echo", say="end", steps=1500)
    ended(client, job_id)
    pieces = [client.get(f"/v2/default/stream/{job_id}").json() for _ in range(3)]
    assert [len(piece["stream"]) for piece in pieces] == [1000, 501, 0]
    done = [item["output"].get("done") for piece in pieces for item in piece["stream"]]
    assert done == [*range(1500), None]


def test_a_head_takes_nothing_from_a_stream(client: httpx.Client) -> None:
    job_id = run(client, "echo", say="end")
    ended(client, job_id)
    assert client.head(f"/v2/default/stream/{job_id}").status_code == 405
    assert len(client.get(f"/v2/default/stream/{job_id}").json()["stream"]) == 1


def test_a_failed_job_can_be_retried_and_a_completed_one_not(client: httpx.Client) -> None:
    failed = run(client, "refuse")
    ended(client, failed)
    client.get(f"/v2/default/stream/{failed}")
    before = client.get("/v2/default/health").json()["jobs"]["retried"]
    again = client.post(f"/v2/default/retry/{failed}")
    assert again.json() == {"id": failed, "status": "IN_QUEUE"}
    assert ended(client, failed)["status"] == "FAILED"
    assert client.get("/v2/default/health").json()["jobs"]["retried"] == before + 1
    completed = run(client, "echo", say="x")
    ended(client, completed)
    refusal = client.post(f"/v2/default/retry/{completed}")
    assert refusal.status_code == 409
    assert refusal.json()["code"] == "conflict"


def test_purge_cancels_what_waits_and_leaves_what_runs(client: httpx.Client) -> None:
    busy = running(client)
    waiting = [run(client, "echo", say="x") for _ in range(3)]
    assert client.get("/v2/default/health").json()["jobs"]["inQueue"] == 3
    purged = client.post("/v2/default/purge-queue")
    assert purged.json() == {"removed": 3, "status": "completed"}
    assert {state(client, job_id) for job_id in waiting} == {"CANCELLED"}
    assert state(client, busy) == "IN_PROGRESS"
    client.post(f"/v2/default/cancel/{busy}")


def test_health_counts_jobs_and_workers(client: httpx.Client) -> None:
    before = client.get("/v2/default/health").json()
    assert before["workers"] == {
        "idle": 1,
        "initializing": 0,
        "ready": 1,
        "running": 0,
        "throttled": 0,
        "unhealthy": 0,
    }
    ended(client, run(client, "echo", say="x"))
    ended(client, run(client, "refuse"))
    busy = running(client)
    health = client.get("/v2/default/health").json()
    assert health["jobs"]["completed"] == before["jobs"]["completed"] + 1
    assert health["jobs"]["failed"] == before["jobs"]["failed"] + 1
    assert health["jobs"]["inProgress"] == 1
    assert health["workers"]["running"] == 1
    client.post(f"/v2/default/cancel/{busy}")


@pytest.mark.parametrize(("route", "kept_s"), [("run", 30 * 60), ("runsync", 60)])
def test_results_can_be_had_for_as_long_as_runpod_keeps_them(
    client: httpx.Client, clock: Clock, route: str, kept_s: int
) -> None:
    body = {"input": {"operation": "echo", "say": "x"}}
    job_id = client.post(f"/v2/default/{route}", json=body).json()["id"]
    ended(client, job_id)
    clock.offset_s = kept_s - 20
    assert client.get(f"/v2/default/status/{job_id}").status_code == 200
    clock.offset_s = kept_s + 1
    for method, operation in [("GET", "status"), ("GET", "stream"), ("POST", "retry")]:
        gone = client.request(method, f"/v2/default/{operation}/{job_id}")
        assert gone.status_code == 404
        assert "/api/jobs has them for longer" in gone.json()["detail"]
    kept = client.get(f"/api/jobs/{job_id}")
    assert kept.json()["answer"]["output"] == {"said": "x"}


def test_a_job_that_runs_for_long_does_not_expire(client: httpx.Client, clock: Clock) -> None:
    job_id = running(client)
    clock.offset_s = 86400
    assert state(client, job_id) == "IN_PROGRESS"
    client.post(f"/v2/default/cancel/{job_id}")


def test_unknown_endpoints_and_jobs_are_not_found(client: httpx.Client) -> None:
    job_id = run(client, "echo", say="x")
    for method, path in [
        ("POST", "/v2/other/run"),
        ("POST", "/v2/other/purge-queue"),
        ("GET", f"/v2/other/status/{job_id}"),
        ("GET", "/v2/other/health"),
        ("GET", "/v2/default/status/00000000-0000-0000-0000-000000000000"),
        ("POST", "/v2/default/cancel/00000000-0000-0000-0000-000000000000"),
    ]:
        body = {"json": {"input": {}}} if path.endswith("run") else {}
        answer = client.request(method, path, **body)
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "not_found"


def test_jobs_of_other_kinds_are_not_shown_here(client: httpx.Client, api: LiveApi) -> None:
    body = {"models": ["no-such.onnx"], "data": "street:demo"}
    comparison = client.post("/api/benchmark", json=body).json()["id"]
    assert client.get(f"/api/jobs/{comparison}").status_code == 200
    assert client.get(f"/v2/default/status/{comparison}").status_code == 404


def test_the_policy_holds(client: httpx.Client) -> None:
    body = {"input": {"operation": "until stopped"}, "policy": {"executionTimeout": 50}}
    answer = client.post("/v2/default/runsync", json=body).json()
    assert answer["status"] == "TIMED_OUT"
    assert answer["error"]["code"] == "time_limit"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.input"),
        ({"input": []}, "body.input"),
        ({"input": {}, "policy": {"executionTimeout": 0}}, "body.policy.executionTimeout"),
        ({"input": {}, "polic": {}}, "body.polic"),
        ({"input": {}, "s3Config": {}}, "body.s3Config"),
        ([], "body"),
    ],
    ids=range(6),
)
def test_a_wrong_request_names_its_field(client: httpx.Client, body: Any, field: str) -> None:
    answer = client.post("/v2/default/run", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["errors"][0]["field"] == field
    assert field in problem["detail"]


def test_a_webhook_must_be_an_address(client: httpx.Client) -> None:
    answer = client.post("/v2/default/run", json={"input": {}, "webhook": "file:///etc/passwd"})
    assert answer.status_code == 422


@pytest.mark.parametrize(("route", "limit"), [("run", 20_000), ("runsync", 40_000)])
def test_bodies_are_taken_up_to_their_limit(client: httpx.Client, route: str, limit: int) -> None:
    empty = '{"input":{"operation":"echo","say":""}}'
    fits = empty[:-3] + "x" * (limit - len(empty)) + empty[-3:]
    assert len(fits) == limit
    headers = {"content-type": "application/json"}
    assert client.post(f"/v2/default/{route}", content=fits, headers=headers).status_code == 200

    def in_pieces() -> Iterator[bytes]:
        yield fits[:-3].encode()
        yield b"x"
        yield fits[-3:].encode()

    larger: list[Any] = [fits[:-3] + "x" + fits[-3:], in_pieces()]
    for content in larger:
        refusal = client.post(f"/v2/default/{route}", content=content, headers=headers)
        assert refusal.status_code == 413
        assert refusal.json()["code"] == "too_large"


def test_the_same_idempotency_key_makes_one_job(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "order-17"}
    body = {"input": {"operation": "echo", "say": "once"}}
    ids = {
        client.post("/v2/default/run", json=body, headers=headers).json()["id"] for _ in range(3)
    }
    assert len(ids) == 1
    other = {"input": {"operation": "echo", "say": "twice"}}
    refusal = client.post("/v2/default/run", json=other, headers=headers)
    assert refusal.status_code == 409
    assert refusal.json()["code"] == "conflict"
    bad = client.post("/v2/default/run", json=body, headers={"Idempotency-Key": "x" * 256})
    assert bad.status_code == 422


def test_a_number_that_json_has_not_comes_as_null(client: httpx.Client) -> None:
    job_id = run(client, "measure nothing")
    assert ended(client, job_id)["output"] == {"loss": None, "best": None}
    assert client.get(f"/api/jobs/{job_id}").json()["answer"]["output"]["loss"] is None


def test_many_callers_at_once_all_get_their_own_answer(client: httpx.Client) -> None:
    said: dict[int, Any] = {}

    def ask(number: int) -> None:
        body = {"input": {"operation": "echo", "say": number}}
        said[number] = client.post("/v2/default/runsync", json=body).json()["output"]["said"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: number for number in range(32)}
