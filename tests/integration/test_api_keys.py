"""Who may do what over HTTP, how often, and from which pages."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from starlette.requests import Request

from live_api import Clock, LiveApi
from visiondyno.api.auth import key_of
from visiondyno.cli.keys import command as keys_command
from visiondyno.store.records import KeyScope

ECHO = {"input": {"operation": "echo", "say": "x"}}
GUARDED = [
    ("POST", "/v2/default/run"),
    ("GET", "/v2/default/health"),
    ("GET", "/api/jobs"),
    ("GET", "/api/workers"),
    ("POST", "/api/benchmark"),
    ("POST", "/submit/task2"),
    ("GET", "/submit/queue/status"),
    ("PUT", "/blobs/" + "0" * 64),
    ("HEAD", "/blobs/" + "0" * 64),
]
OPEN = ["/health", "/ready", "/metrics", "/docs", "/docs/errors", "/openapi.json"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    home = tmp_path_factory.mktemp("home")
    with LiveApi(home, require_keys=True, rate_limit_per_minute=0) as live:
        yield live


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_key_nothing_is_done(api: LiveApi, method: str, path: str) -> None:
    with api.client() as client:
        answer = client.request(method, path, json=ECHO)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    if method != "HEAD":
        assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize("path", [path for _, path in GUARDED])
def test_no_spelling_of_a_path_gets_round_the_gate(api: LiveApi, path: str) -> None:
    first = path.split("/")[1]
    spellings = [f"{path}/", f"/{path}", path.replace(first, first.upper(), 1), f"/x/..{path}"]
    spellings += [
        path.replace("/", "%2F").replace("%2F", "/", 1),
        path.replace(first, f"%{ord(first[0]):02x}{first[1:]}", 1),
    ]
    with api.client() as client:
        for spelling in spellings:
            for method in ("GET", "POST", "PUT", "HEAD"):
                request = client.build_request(method, api.url + "/")
                request.url = httpx.URL(api.url).copy_with(raw_path=spelling.encode())
                answer = client.send(request)
                assert answer.status_code in (401, 404, 405), (method, spelling)


def test_monitoring_needs_no_key_and_is_not_counted(tmp_path: Path) -> None:
    with (
        LiveApi(tmp_path, require_keys=True, rate_limit_per_minute=1) as api,
        api.client() as client,
    ):
        for path in [*OPEN, "/submit/health"]:
            for _ in range(2):
                assert client.get(path).status_code == 200, path
                assert client.head(path).status_code == 200, path


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer  vd_", "Bearer vd_wrong", "Basic dXNlcjpwYXNz", "Bearer \xe9", "vd_x"],
    ids=range(7),
)
def test_what_is_no_valid_key_is_refused(api: LiveApi, header: str) -> None:
    with api.client() as client:
        answer = client.get("/api/jobs", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorized"


def test_a_key_opens_everything_until_it_is_revoked(api: LiveApi) -> None:
    key = api.make_key("whole")
    with api.client(key) as client:
        job = client.post("/v2/default/runsync", json=ECHO)
        assert job.json()["status"] == "COMPLETED"
        record = client.get(f"/api/jobs/{job.json()['id']}").json()
        key_id = record["owner"]
        bare = client.get("/api/jobs", headers={"Authorization": key})
        assert bare.status_code == 200
        lower = client.get("/api/jobs", headers={"Authorization": f"bearer {key}"})
        assert lower.status_code == 200
        api.call(api.service.keys.revoke(key_id))
        assert client.get("/api/jobs").status_code == 401


def test_a_key_of_scope_submit_reaches_submissions_only(api: LiveApi) -> None:
    with api.client(api.make_key("team", KeyScope.SUBMIT)) as client:
        assert client.get("/submit/queue/status").status_code == 200
        for method, path in GUARDED:
            if not path.startswith("/submit"):
                answer = client.request(method, path)
                assert answer.status_code == 403, path
                if method != "HEAD":
                    assert "scope 'submit'" in answer.json()["detail"]


def test_a_route_that_no_gate_guards_does_not_open() -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(KeyError):
        asyncio.run(key_of(Request(scope), None))


def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path) -> None:
    clock = Clock()
    stopped = time.monotonic()
    clocks = {"monotonic": clock.over(lambda: stopped)}
    with LiveApi(tmp_path, clocks=clocks, rate_limit_per_minute=6, require_keys=True) as api:
        one, other = api.client(api.make_key("one")), api.client(api.make_key("other"))
        with one, other, api.client() as nobody:
            assert [one.get("/api/jobs").status_code for _ in range(7)] == [200] * 6 + [429]
            refusal = one.get("/api/jobs")
            assert refusal.headers["retry-after"] == "10"
            assert refusal.json()["code"] == "rate_limited"
            assert other.get("/api/jobs").status_code == 200
            assert [nobody.get("/api/jobs").status_code for _ in range(7)] == [401] * 6 + [429]
            assert nobody.get("/health").status_code == 200
            clock.offset_s = 10
            assert [one.get("/api/jobs").status_code for _ in range(2)] == [200, 429]


def test_browsers_may_call_from_the_named_origins(tmp_path: Path) -> None:
    origins = ("https://team.example",)
    with (
        LiveApi(tmp_path, cors_origins=origins, require_keys=True) as api,
        api.client() as client,
    ):
        asked = {
            "Origin": origins[0],
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, idempotency-key",
        }
        preflight = client.options("/v2/default/run", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == origins[0]
        refused = client.get("/api/jobs", headers={"Origin": origins[0]})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origins[0]
        stranger = client.get("/api/jobs", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


def test_without_named_origins_no_page_may_call(api: LiveApi) -> None:
    with api.client() as client:
        answer = client.get("/health", headers={"Origin": "https://team.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_keys_are_made_listed_and_revoked_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    dyno = CliRunner()
    assert "No keys yet" in dyno.invoke(keys_command, ["list"]).output
    made = dyno.invoke(keys_command, ["create", "a [team]", "--scope", "submit"])
    key = made.stdout.strip()
    assert re.fullmatch(r"vd_[A-Za-z0-9_-]{43}", key)
    assert "can't be shown again" in made.stderr
    listed = dyno.invoke(keys_command, ["list"]).output
    assert "a [team]" in listed
    assert key not in listed
    (row,) = json.loads(dyno.invoke(keys_command, ["list", "--json"]).output)
    assert (row["name"], row["scope"], row["revoked_at"]) == ("a [team]", "submit", None)
    assert "digest" not in row
    with LiveApi(tmp_path, require_keys=True) as api, api.client(key) as client:
        assert client.get("/submit/queue/status").status_code == 200
    revoked = dyno.invoke(keys_command, ["revoke", row["id"]])
    assert revoked.exit_code == 0
    (row,) = json.loads(dyno.invoke(keys_command, ["list", "--json"]).output)
    assert row["revoked_at"] is not None
    elsewhere = ["--home", str(tmp_path / "other")]
    assert "No keys yet" in dyno.invoke(keys_command, ["list", *elsewhere]).output
    again = dyno.invoke(keys_command, ["revoke", row["id"]])
    assert type(again.exception).__name__ == "NotFound"
