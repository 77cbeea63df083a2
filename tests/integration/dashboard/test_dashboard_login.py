"""A dashboard that needs a key."""

import pytest

from live_site import LiveSite, run_page_operation, text_of
from visiondyno.store.records import KeyScope

PAGES = ("/", "/jobs", "/workers", "/comparisons", "/tasks", "/tasks/task2")


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    with LiveSite(folder, run_page_operation, require_keys=True) as started:
        yield started


def test_without_a_key_there_is_only_the_login(locked):
    with locked.browse() as client:
        for path in (*PAGES, "/jobs/x"):
            answer = client.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"] == f"/login?next={path}"
        assert client.get("/dashboard/live", headers={"Accept": "*/*"}).status_code == 401
        assert client.post("/jobs/x/cancel").headers["location"] == "/login?next=/"
        odd = {"Referer": "http://["}
        assert client.post("/jobs/x/cancel", headers=odd).headers["location"] == "/login?next=/"
        assert client.get("/jobs", headers=odd).headers["location"] == "/login?next=/jobs"
        assert 'name="next" value="/"' in client.get("/login?next=http://[").text
        page = client.get("/login?next=/jobs").text
        assert 'name="next" value="/jobs"' in page
        assert "<nav" not in page


def test_a_wrong_key_is_told_at_the_form(locked):
    with locked.browse() as client:
        answer = client.post("/login", data={"key": "vd_wrong", "next": "/jobs"})
        assert answer.status_code == 401
        assert "unknown or was revoked" in text_of(answer.text)
        assert "set-cookie" not in answer.headers
        assert client.post("/login", data={}).status_code == 401


def test_a_key_opens_everything_until_the_logout(locked):
    key = locked.make_key("Ada <&>")
    with locked.browse() as client:
        answer = client.post("/login", data={"key": f" {key} ", "next": "//evil.example/"})
        assert answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "secure" not in cookie  # plain http here
        page = client.get("/").text
        assert "Ada &lt;&amp;&gt;" in page
        assert "Authorization: Bearer" in text_of(page)
        foreign = client.post("/logout", headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert client.post("/logout").headers["location"] == "/login"
        assert client.get("/").status_code == 303


def test_the_cookie_is_secure_over_https(locked):
    key = locked.make_key("secure")
    proxied = {"X-Forwarded-Proto": "https"}  # as uvicorn takes it from this machine's proxy
    with locked.browse() as client:
        answer = client.post("/login", data={"key": key, "next": "/"}, headers=proxied)
        assert "secure" in answer.headers["set-cookie"].lower()


def test_a_key_for_submissions_opens_these_only(locked):
    record, key = locked.call(locked.service.keys.create("student", KeyScope.SUBMIT))
    other = locked.call(locked.service.submissions.find("task2"))
    assert other == []
    _hand_in(locked, "theirs", owner="key_other")
    _hand_in(locked, "mine", owner=record.id)
    with locked.browse() as client:
        answer = client.post("/login", data={"key": key, "next": "/jobs"})
        assert answer.headers["location"] == "/tasks"
        page = client.get("/tasks/task2").text
        assert "mine" in page
        assert "theirs" not in page
        refused = client.get("/jobs")
        assert refused.status_code == 403
        assert "student" in text_of(refused.text)
        assert 'href="/jobs"' not in refused.text
        assert client.get("/dashboard/live", headers={"Accept": "*/*"}).status_code == 403


def _hand_in(site, name, owner):
    async def chunks():
        yield b"\x08\x07"

    task = site.service.submissions
    site.call(task.submit("task2", chunks(), "m.onnx", name=name, owner=owner))


def test_a_revoked_key_closes_the_door(locked):
    record, key = locked.call(locked.service.keys.create("short", KeyScope.ALL))
    with locked.browse() as client:
        client.post("/login", data={"key": key, "next": "/"})
        assert client.get("/").status_code == 200
        locked.call(locked.service.keys.revoke(record.id))
        assert client.get("/").status_code == 303


def test_a_server_without_keys_has_no_login(browser):
    assert browser.get("/login").headers["location"] == "/"
