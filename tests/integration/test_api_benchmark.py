"""Comparisons over HTTP."""

import json

import httpx
import pytest

from live_api import LiveApi
from visiondyno.job import JobState
from visiondyno.store.records import ComparisonRecord

SPEC = {"models": ["no-such.onnx"], "data": "no-such-folder", "duration_s": 1}


@pytest.fixture(scope="module")
def done(client: httpx.Client) -> str:
    """A comparison that was run to its end."""
    comparison_id: str = client.post("/api/benchmark", json=SPEC).json()["id"]
    client.get(f"/api/benchmark/{comparison_id}/events")
    return comparison_id


@pytest.fixture(scope="module")
def stored(api: LiveApi, client: httpx.Client, done: str) -> str:
    """A comparison that a stored result answers."""
    earlier = api.service.store.comparisons.get(done)
    assert earlier is not None
    found = ComparisonRecord(
        "found-1", 2.0, earlier.spec, comparison=earlier.comparison, cached_from=done
    )
    api.service.store.comparisons.save(found)
    return found.id


def test_a_comparison_is_accepted_with_its_links(client: httpx.Client) -> None:
    answer = client.post("/api/benchmark", json=SPEC)
    assert answer.status_code == 202
    accepted = answer.json()
    address = f"/api/benchmark/{accepted['id']}"
    assert accepted["status"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert accepted["cached_from"] is None
    assert accepted["links"] == {
        "self": address,
        "events": f"{address}/events",
        "report": f"{address}/report.html",
    }
    for link in accepted["links"].values():
        assert client.get(link).status_code in (200, 409)


def test_its_events_end_with_the_result(client: httpx.Client, done: str) -> None:
    lines = client.get(f"/api/benchmark/{done}/events").text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line[:5] == "data:"]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    result = events[-1]["answer"]["output"]["comparison"]
    assert result["schema"] == "visiondyno.comparison/1"
    after = {"Last-Event-ID": str(len(events))}
    assert client.get(f"/api/benchmark/{done}/events", headers=after).status_code == 204


def test_a_completed_comparison_has_its_result_and_report(client: httpx.Client, done: str) -> None:
    found = client.get(f"/api/benchmark/{done}").json()
    assert found["status"] == JobState.COMPLETED
    assert found["comparison"]["schema"] == "visiondyno.comparison/1"
    assert found["spec"]["models"] == SPEC["models"]
    assert found["error"] is None
    report = client.get(f"/api/benchmark/{done}/report.html")
    assert report.headers["content-type"].startswith("text/html")
    assert "street-n" in report.text
    listed = client.get("/api/benchmark").json()["comparisons"]
    assert done in {comparison["id"] for comparison in listed}


def test_a_stored_result_says_so_and_has_one_event(client: httpx.Client, stored: str) -> None:
    found = client.get(f"/api/benchmark/{stored}").json()
    assert found["status"] == JobState.COMPLETED
    assert found["cached_from"]
    assert found["comparison"] is not None
    events = client.get(f"/api/benchmark/{stored}/events").text
    assert events.startswith("id: 1\n")
    assert events.count("id: ") == 1
    again = client.get(f"/api/benchmark/{stored}/events", headers={"Last-Event-ID": "1"})
    assert again.status_code == 204


def test_a_failed_comparison_says_why(api: LiveApi, client: httpx.Client) -> None:
    body = {"input": {"operation": "until stopped"}}
    busy = client.post("/v2/default/run", json=body).json()["id"]
    waiting = client.post("/api/benchmark", json=SPEC).json()["id"]
    report = client.get(f"/api/benchmark/{waiting}/report.html")
    assert report.status_code == 409
    assert "has no report" in report.json()["detail"]
    client.post(f"/api/jobs/{waiting}/cancel")
    client.post(f"/api/jobs/{busy}/cancel")
    found = client.get(f"/api/benchmark/{waiting}").json()
    assert found["status"] == "CANCELLED"
    assert found["error"]["code"] == "cancelled"
    assert found["comparison"] is None


def test_the_same_idempotency_key_makes_one_comparison(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    ids = {client.post("/api/benchmark", json=SPEC, headers=headers).json()["id"] for _ in "abc"}
    assert len(ids) == 1
    other = {**SPEC, "duration_s": 2}
    assert client.post("/api/benchmark", json=other, headers=headers).status_code == 409


def test_a_deleted_comparison_is_gone(client: httpx.Client) -> None:
    comparison_id = client.post("/api/benchmark", json=SPEC).json()["id"]
    client.get(f"/api/benchmark/{comparison_id}/events")
    assert client.delete(f"/api/benchmark/{comparison_id}").status_code == 204
    for method, path in [("GET", ""), ("GET", "/events"), ("GET", "/report.html"), ("DELETE", "")]:
        answer = client.request(method, f"/api/benchmark/{comparison_id}{path}")
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"models": []}, "body.models"),
        ({"duration_s": 0}, "body.duration_s"),
        ({"operation": "evaluate"}, "body.operation"),
        ({"scenarios": ["fastest"]}, "body.scenarios.0"),
        ({"model": "x"}, "body.model"),
    ],
    ids=range(5),
)
def test_a_wrong_comparison_names_its_field(
    client: httpx.Client, change: dict[str, object], field: str
) -> None:
    answer = client.post("/api/benchmark", json={**SPEC, **change})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
