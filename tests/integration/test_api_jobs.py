"""Jobs and workers over HTTP: lists, events, logs, commands."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from live_api import StaffedApi
from visiondyno.executors.workers import WorkerCommand, WorkerState


def done(client: httpx.Client, operation: str, route: str = "runsync", **rest: Any) -> str:
    body = {"input": {"operation": operation, **rest}}
    job_id: str = client.post(f"/v2/default/{route}", json=body).json()["id"]
    client.get(f"/api/jobs/{job_id}/events")
    return job_id


def events_of(client: httpx.Client, job_id: str, after: int | None = None) -> list[dict[str, Any]]:
    """The events, each checked to have its number as its id."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    answer = client.get(f"/api/jobs/{job_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        event = json.loads(fields["data"])
        assert fields["id"] == str(event["number"])
        found.append(event)
    return found


def test_jobs_are_listed_newest_first_and_page_by_page(client: httpx.Client) -> None:
    made = [done(client, "echo", say=n) for n in range(5)]
    pages, before = [], None
    for _ in range(3):
        query = {"limit": 2, **({} if before is None else {"before": before})}
        page = client.get("/api/jobs", params=query).json()
        pages.append([job["id"] for job in page["jobs"]])
        before = page["next_before"]
    assert [job_id for page in pages for job_id in page][:5] == made[::-1]
    whole = client.get("/api/jobs", params={"limit": 500}).json()
    assert whole["next_before"] is None


def test_jobs_are_filtered(client: httpx.Client) -> None:
    completed, failed = done(client, "echo", "run", say="x"), done(client, "refuse")
    for query, there, absent in [
        ({"state": "FAILED"}, failed, completed),
        ({"state": "COMPLETED"}, completed, failed),
        ({"kind": "run"}, completed, failed),
        ({"endpoint": "default"}, completed, "no job"),
    ]:
        ids = {job["id"] for job in client.get("/api/jobs", params=query).json()["jobs"]}
        assert there in ids
        assert absent not in ids
    assert client.get("/api/jobs", params={"endpoint": "other"}).json()["jobs"] == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=9" * 30, "before=nan", "before=inf", "before=-1", "state=DONE"],
)
def test_a_wrong_query_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/api/jobs?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("query.")


def test_a_job_is_shown_with_its_input_policy_and_answer(client: httpx.Client) -> None:
    body = {"input": {"operation": "echo", "say": "x", "steps": 2}, "policy": {"ttl": 60000}}
    job_id = client.post("/v2/default/runsync", json=body).json()["id"]
    job = client.get(f"/api/jobs/{job_id}").json()
    assert job["operation"] == "echo"
    assert job["input"] == body["input"]
    assert job["policy"]["ttl"] == 60000
    assert job["state"] == job["answer"]["status"] == "COMPLETED"
    assert job["created_at"] <= job["started_at"] <= job["ended_at"]
    assert job["attempts"] == 1
    assert job["progress"] == {"stage": "step", "done": 1}


def test_events_are_numbered_and_end_with_the_answer(client: httpx.Client) -> None:
    job_id = done(client, "echo", say="x", steps=3)
    events = events_of(client, job_id)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    states = [event["state"] for event in events]
    assert states == ["IN_QUEUE", *["IN_PROGRESS"] * 4, "COMPLETED"]
    assert events[-1]["answer"]["output"] == {"said": "x"}
    assert [e["progress"]["done"] for e in events if "progress" in e] == [0, 1, 2]


def test_events_go_on_where_a_client_left_off(client: httpx.Client) -> None:
    job_id = done(client, "echo", say="x", steps=3)
    whole = events_of(client, job_id)
    for seen in (0, 1, 4, len(whole) - 1):
        assert events_of(client, job_id, seen) == whole[seen:]
    nothing_more = client.get(
        f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": str(len(whole))}
    )
    assert nothing_more.status_code == 204
    for wrong in ("x", "-1", "9" * 20):
        answer = client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": wrong})
        assert answer.status_code == 422


def test_events_come_while_the_job_runs(client: httpx.Client) -> None:
    body = {"input": {"operation": "until stopped"}}
    job_id = client.post("/v2/default/run", json=body).json()["id"]
    states = []
    with client.stream("GET", f"/api/jobs/{job_id}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                states.append(event["state"])
                if event.get("progress") == {"stage": "started"}:
                    assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    assert states[-1] == "CANCELLED"
    assert states.count("CANCELLED") == 1


def test_a_reader_that_hangs_up_leaves_the_job_alone(client: httpx.Client) -> None:
    body = {"input": {"operation": "until stopped"}}
    job_id = client.post("/v2/default/run", json=body).json()["id"]
    for _ in range(3):
        with client.stream("GET", f"/api/jobs/{job_id}/events") as answer:
            next(answer.iter_lines())
    assert client.get(f"/api/jobs/{job_id}").json()["state"] in ("IN_QUEUE", "IN_PROGRESS")
    client.post(f"/api/jobs/{job_id}/cancel")


def test_logs_are_the_lines_that_the_operation_logged(client: httpx.Client) -> None:
    job_id = done(client, "log", lines=["first", "zweite Ä", ""])
    logs = client.get(f"/api/jobs/{job_id}/logs").json()
    assert [line["text"] for line in logs["lines"]] == ["first", "zweite Ä", ""]
    assert logs["state"] == "COMPLETED"
    quiet = done(client, "echo", say="x", steps=2)
    assert client.get(f"/api/jobs/{quiet}/logs").json()["lines"] == []


def test_a_failed_job_is_retried_and_its_events_begin_anew(client: httpx.Client) -> None:
    job_id = done(client, "refuse")
    first = events_of(client, job_id)
    again = client.post(f"/api/jobs/{job_id}/retry")
    assert again.status_code == 200
    second = events_of(client, job_id)
    assert second[0]["number"] == first[-1]["number"] + 1
    assert second[-1]["state"] == "FAILED"
    refusal = client.post(f"/api/jobs/{done(client, 'echo', say='x')}/retry")
    assert refusal.status_code == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("GET", "/logs"), ("POST", "/cancel"), ("POST", "/retry")],
)
def test_an_unknown_job_is_not_found(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, f"/api/jobs/no-such-job{path}")
    assert answer.status_code == 404
    assert answer.json()["instance"] == f"/api/jobs/no-such-job{path}"


def test_workers_are_listed_and_told(tmp_path: Path) -> None:
    with StaffedApi(tmp_path) as api, api.client() as client:
        workers = client.get("/api/workers").json()["workers"]
        assert [worker["state"] for worker in workers] == [str(state) for state in WorkerState]
        assert workers[0]["gpu_memory_used_bytes"] is None
        running = [worker["job_id"] for worker in workers if worker["state"] == "busy"]
        assert running == ["a-job"]  # by the id that /api/jobs knows
        listed = client.get("/submit/queue/status").json()["workers"]
        assert [worker["job"] for worker in listed if worker["state"] == "busy"] == running
        assert client.get("/v2/default/health").json()["workers"] == {
            "idle": 1,
            "initializing": 1,
            "ready": 2,
            "running": 1,
            "throttled": 2,
            "unhealthy": 1,
        }
        for command in ("drain", "resume", "restart"):
            told = client.post(f"/api/workers/host-1-0/{command}")
            assert told.status_code == 202
            assert told.json() == {"name": "host-1-0", "command": command}
        assert api.service.executor.told == [  # type: ignore[attr-defined]
            ("host-1-0", command) for command in WorkerCommand
        ]
        assert client.post("/api/workers/nobody/drain").status_code == 404
        assert client.post("/api/workers/host-1-0/explode").status_code == 422
        text = client.get("/metrics").text
        assert 'visiondyno_workers{state="backing-off"} 1.0' in text
        assert 'visiondyno_worker_gpu_memory_used_bytes{worker="host-1-1"} 1.0' in text
        assert 'gpu_memory_used_bytes{worker="host-1-0"}' not in text


def test_workers_that_take_no_commands_say_so(client: httpx.Client) -> None:
    answer = client.post("/api/workers/inline/drain")
    assert answer.status_code == 422
    assert "takes no 'drain' command" in answer.json()["detail"]
