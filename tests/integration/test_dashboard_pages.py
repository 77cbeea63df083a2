"""The dashboard over a real service and store, asked as a browser without JavaScript asks."""

import html
import re
import resource
import subprocess

import pytest

from comparison_factory import detector_comparison
from contracts.executor_contract import run_test_operation
from live_site import LiveSite, sse_events, text_of
from visiondyno.errors import TransportDown
from visiondyno.store.records import KeyScope

PAGES = ("/", "/jobs", "/workers", "/comparisons", "/tasks", "/tasks/task2")


def run_operation(job_input, context):
    """The contract's operations, and a comparison that was measured before."""
    if job_input.get("operation") == "benchmark":
        if "fake:fails" in job_input["models"]:
            return run_test_operation({"operation": "refuse"}, context)
        comparison = detector_comparison().model_dump(mode="json", by_alias=True)
        return {"operation": "benchmark", "comparison": comparison}
    return run_test_operation(job_input, context)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LiveSite(tmp_path_factory.mktemp("site"), run_operation) as started:
        yield started


@pytest.fixture
def browser(site):
    with site.browse() as client:
        yield client


@pytest.fixture
def new_site(tmp_path):
    with LiveSite(tmp_path, run_operation) as started:
        yield started


@pytest.mark.parametrize("path", [*PAGES, "/jobs/unknown"])
def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(browser, path):
    answer = browser.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", answer.text)
    loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', answer.text)
    assert len(loaded) >= 4
    for address in loaded:
        asset = browser.get(address)
        assert asset.status_code == 200
        assert "immutable" in asset.headers["cache-control"]
    assert '<a class="skip" href="#main">' in answer.text
    assert answer.text.count("<h1>") == 1


def test_an_asset_of_another_version_is_not_kept_for_ever(browser):
    assert browser.get("/dashboard/static/000/dashboard.js").headers["cache-control"] == "no-cache"
    assert browser.get("/dashboard/static/000/other.js").status_code == 404


def test_the_first_page_tells_a_command_that_works(new_site):
    with new_site.browse() as client:
        page = client.get("/").text
        command = re.search(r"<pre[^>]*>(curl.*?)</pre>", page, re.DOTALL)
        assert command is not None
        done = subprocess.run(
            ["/bin/sh", "-c", html.unescape(command[1])],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert '"IN_QUEUE"' in done.stdout
        assert "No job yet" not in client.get("/").text


def test_the_overview_tells_figures_with_their_units(new_site):
    new_site.run_to_end(operation="echo", say="hello")
    new_site.run_to_end(operation="refuse")
    with new_site.browse() as client:
        text = text_of(client.get("/").text)
    assert "Waiting 0 jobs nothing waits" in text
    assert "Ended in the last 10 minutes 2 jobs" in text
    assert "completed 1" in text
    assert "failed 1" in text
    assert "All 2 jobs" in text


def test_the_overview_says_what_is_not_ready(new_site):
    new_site.service.executor.workers = _queue_is_away
    with new_site.browse() as client:
        answer = client.get("/")
    assert answer.status_code == 200
    assert "Queue: The queue is away." in text_of(answer.text)
    assert "workers unknown" in text_of(answer.text)


async def _queue_is_away():
    raise TransportDown("The queue is away.")


def test_a_page_that_needs_what_is_away_says_so(new_site):
    new_site.service.executor.workers = _queue_is_away
    with new_site.browse() as client:
        answer = client.get("/workers")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "The queue is away." in text_of(answer.text)


def test_pages_are_counted_apart_from_what_is_not_there(new_site):
    with new_site.browse() as client:
        assert client.get("/jobs").status_code == 200
        assert client.get("/no/such/page").status_code == 404
        told = client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="page",status="200"} 1.0' in told
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in told


def test_a_defect_is_no_traceback(new_site, caplog):
    async def broken():
        raise RuntimeError("secret detail")

    new_site.service.executor.workers = broken
    with new_site.browse() as client:
        answer = client.get("/workers")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text


def test_text_from_outside_is_text(site, browser):
    bad = "<script>alert(1)</script>\"'<b>"
    job = site.run_to_end(operation=bad, say=bad)
    for path in (
        "/",
        "/jobs",
        f"/jobs/{job.id}",
        f"/jobs?state={bad}",
        "/jobs/%3Cb%3E",
        "/tasks/%3Cb%3E",
    ):
        page = browser.get(path).text
        assert "<script>alert" not in page
        assert "<b>" not in page


def test_a_job_is_told_whole(site, browser):
    job = site.run_to_end(operation="echo", say="A" * 5000, steps=3)
    page = browser.get(f"/jobs/{job.id}").text
    text = text_of(page)
    assert "completed" in text
    assert "step · 2" in text
    assert "… (4,800 more characters)" in text
    assert "runs 10 min at most, waits 24 h at most" in text
    assert page.count('data-key="event-') == 6
    assert "data-live" not in page  # nothing more will come


def test_a_failed_job_tells_its_error_and_folds_its_traceback(site, browser):
    job = site.run_to_end(operation="refuse")
    page = browser.get(f"/jobs/{job.id}").text
    assert "images/7.jpg is empty; replace it." in text_of(page)
    assert "<summary>Traceback</summary>" in page
    assert f'action="/jobs/{job.id}/retry"' in page


def test_many_events_are_shown_from_the_end(site, browser):
    job = site.run_to_end(operation="echo", say="", steps=400)
    page = browser.get(f"/jobs/{job.id}").text
    assert page.count('data-key="event-') == 300
    assert "show 103 earlier ones too" in text_of(page)
    assert browser.get(f"/jobs/{job.id}?events=all").text.count('data-key="event-') == 403


def test_a_job_is_cancelled_and_retried_by_plain_forms(site, browser):
    job = site.submit(operation="until stopped")
    answer = browser.post(f"/jobs/{job.id}/cancel")
    assert answer.status_code == 303
    after = browser.get(answer.headers["location"])
    assert "Cancelling was asked for." in after.text
    site.call(site.service.jobs.wait(job.id, 30))
    assert "cancelled" in text_of(browser.get(f"/jobs/{job.id}").text)
    refused = browser.post(f"/jobs/{job.id}/retry")
    assert refused.status_code == 409
    assert "only a FAILED or TIMED_OUT one is retried" in text_of(refused.text)
    failed = site.run_to_end(operation="refuse")
    again = browser.post(f"/jobs/{failed.id}/retry")
    assert again.status_code == 303
    assert site.call(site.service.jobs.wait(failed.id, 30)).attempts == 2


def test_all_that_waits_is_cancelled_at_once(new_site):
    running = new_site.submit(operation="until stopped")
    waiting = [new_site.submit(operation="echo", say="") for _ in range(3)]
    with new_site.browse(follow_redirects=True) as client:
        assert "The waiting jobs were cancelled." in client.post("/jobs/purge").text
        for job in waiting:
            assert new_site.call(new_site.service.jobs.get(job.id)).state == "CANCELLED"
        assert new_site.call(new_site.service.jobs.get(running.id)).state == "IN_PROGRESS"
        client.post(f"/jobs/{running.id}/cancel")


def test_what_is_not_there_and_what_is_wrong_is_a_page(browser):
    for path, status, said in [
        ("/jobs/unknown", 404, "unknown"),
        ("/comparisons/unknown", 404, "unknown"),
        ("/tasks/unknown", 404, "no evaluation task 'unknown'"),
        ("/jobs?state=LOST", 422, "No state is called 'LOST'"),
        ("/jobs?kind=odd", 422, "No kind is called 'odd'"),
        ("/jobs?before=now", 422, "not 'now'"),
    ]:
        answer = browser.get(path)
        assert answer.status_code == status
        assert said in text_of(answer.text)
        assert "<nav" in answer.text


def test_jobs_are_filtered_and_paged(new_site):
    for _ in range(52):
        new_site.run_to_end(operation="echo", say="")
    failed = new_site.run_to_end(operation="refuse")
    with new_site.browse() as client:
        first = client.get("/jobs").text
        assert first.count('<tr data-key="') == 50
        older = re.search(r'rel="next" href="([^"]+)"', first)
        assert older is not None
        second = client.get(older[1].replace("&amp;", "&")).text
        assert second.count('<tr data-key="') == 3
        assert "data-live" not in second
        assert not set(re.findall('data-key="([^"]+)"', first)) & set(
            re.findall('data-key="([^"]+)"', second)
        )
        only = client.get("/jobs?state=FAILED&kind=run").text
        assert re.findall(r'<tr data-key="([^"]+)"', only) == [failed.id]
        assert "No such job." in client.get("/jobs?state=TIMED_OUT").text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://["},
        {"Origin": "SELF", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "SELF", "Sec-Fetch-Site": "same-site"},
    ],
    ids=["none", "null", "foreign", "no address", "cross-site", "same-site"],
)
def test_a_form_of_another_site_does_nothing(site, headers):
    job = site.submit(operation="until stopped")
    sent = {name: site.url if text == "SELF" else text for name, text in headers.items()}
    with site.client() as client:
        answer = client.post(f"/jobs/{job.id}/cancel", headers=sent)
        assert answer.status_code == 403
        assert "nothing was done" in text_of(answer.text)
        assert not site.call(site.service.jobs.get(job.id)).cancel_requested
        own = {"Sec-Fetch-Site": "same-origin"}
        assert client.post(f"/jobs/{job.id}/cancel", headers=own).status_code == 303


def test_a_worker_that_is_not_there_is_told_at_the_page(browser):
    answer = browser.post("/workers/nobody/drain")
    assert answer.status_code == 422
    assert "takes no 'drain' command" in text_of(answer.text)
    assert browser.post("/workers/nobody/dance").status_code == 404


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nodd\r\n\r\n--b--"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"&".join([b"a=1"] * 200)),
        ({"Content-Type": "text/plain"}, b"\xff\xfe"),
    ],
    ids=["no boundary", "broken", "too many fields", "text"],
)
def test_a_broken_form_is_refused_in_a_sentence(browser, headers, body):
    answer = browser.post("/comparisons", content=body, headers=headers)
    assert answer.status_code == 422
    assert "<h1>" in answer.text


def test_a_form_too_large_is_not_read(browser):
    answer = browser.post("/comparisons", data={"others": "x" * 300_000})
    assert answer.status_code == 413
    chunks = (b"others=" + b"x" * 50_000 for _ in range(6))
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.post("/comparisons", content=chunks, headers=kind).status_code == 413


# -- comparisons ------------------------------------------------------------------------------


def test_a_wrong_comparison_is_shown_again_with_its_errors(browser):
    answer = browser.post(
        "/comparisons",
        data={"others": "my.onnx", "data": "", "scenarios": "offline", "duration_s": "-1"},
    )
    assert answer.status_code == 422
    assert "my.onnx</textarea>" in answer.text
    assert "Name the data" in text_of(answer.text)
    assert re.search(r'<input id="data"[^>]*aria-invalid="true"', answer.text)
    answer = browser.post("/comparisons", data={"others": "a", "data": "d", "device": "cpu"})
    assert "Tick at least one scenario." in answer.text


def test_a_comparison_goes_from_form_to_report(new_site):
    form = {
        "others": "fake:detection",
        "data": "street:demo:4",
        "scenarios": ["single-stream"],
        "duration_s": "1",
    }
    with new_site.browse() as client:
        assert "No comparison yet" in client.get("/comparisons").text
        started = client.post("/comparisons", data=form)
        assert started.status_code == 303
        path = started.headers["location"]
        record_id = path.rpartition("/")[2]
        new_site.call(new_site.service.jobs.wait(record_id, 30))
        with client.stream("GET", f"/dashboard/live{path}") as answer:
            names = [event["name"] for event in sse_events(answer.iter_lines())]
        assert names[-1] == "end"
        page = client.get(path)
        assert "Winners" in page.text
        assert "data-live" not in page.text
        report = client.get(f"{path}/report")
        assert report.headers["content-security-policy"] == "frame-ancestors 'self'"
        assert "<h2" in report.text
        listed = client.get("/comparisons").text
        assert f'data-key="{record_id}"' in listed
        deleted = client.post(f"{path}/delete")
        assert deleted.headers["location"] == "/comparisons?did=deleted"
        assert client.get(path).status_code == 404


def test_a_comparison_that_is_refused_is_told_at_the_form(site, browser, monkeypatch):
    async def full(*_, **__):
        raise TransportDown("The database is away.")

    monkeypatch.setattr(site.service.comparisons, "submit", full)
    form = {"others": "fake:detection", "data": "street:demo", "scenarios": "offline"}
    answer = browser.post("/comparisons", data={**form, "duration_s": "1"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "The database is away." in text_of(answer.text)
    assert "fake:detection</textarea>" in answer.text


def test_a_failed_comparison_says_why(site, browser):
    form = {"others": "fake:fails", "data": "street:demo:4", "scenarios": "offline"}
    path = browser.post("/comparisons", data={**form, "duration_s": "1"}).headers["location"]
    site.call(site.service.jobs.wait(path.rpartition("/")[2], 30))
    page = browser.get(path)
    assert "images/7.jpg is empty" in text_of(page.text)
    assert "data-live" not in page.text
    assert browser.get(f"{path}/report").status_code == 409


# -- submissions ------------------------------------------------------------------------------

TASK = """
name: hidden
title: "Hidden <depth>"
description: What it asks for.
vision_task: depth
data: depth-scenes:demo:8
metric: {name: delta1, better: higher, formula: the share of right pixels}
depth: {output: depth, alignment: none}
input: {height: 448, width: 448}
limits: {time_s: 60, memory_bytes: 4000000000, upload_bytes: 1000000}
submissions_per_day: 5
split: {public: 0.25, seed: 1}
deadline: %s
"""


@pytest.fixture
def challenge(tmp_path):
    """A server with the tasks `hidden`, which is open, and `past`, which is over."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "hidden.yaml").write_text(TASK % "2999-01-01T00:00:00Z")
    past = TASK.replace("name: hidden", "name: past") % "2020-01-01T00:00:00Z"
    (folder / "past.yaml").write_text(past)
    with LiveSite(tmp_path / "home", score_operation, tasks_dir=folder) as started:
        yield started


def score_operation(job_input, context):
    """Stands for a task's data and scoring: refuses what its file's name says."""
    if "refused" in job_input["file_name"]:
        return run_test_operation({"operation": "refuse"}, context)
    return run_test_operation({"operation": "until stopped"}, context)


MODEL = {"file": ("my.onnx", b"\x08\x07" + bytes(100))}


def test_a_task_tells_its_rules(challenge):
    with challenge.browse() as client:
        assert "Hidden &lt;depth&gt;" in client.get("/tasks").text
        text = text_of(client.get("/tasks/hidden").text)
        assert "public 25 % of the images until the deadline, then the private rest" in text
        assert "higher is better, on the public part of the images" in text
        assert "a file of at most 1.00 MB" in text
        assert "2999-01-01" in text
        past = client.get("/tasks/past").text
        assert "This task is over." in past
        assert "<form" not in past
        assert client.post("/tasks/past", files=MODEL).status_code == 409


def test_a_model_is_handed_in_by_a_plain_form(challenge):
    with challenge.browse() as client:
        answer = client.post("/tasks/hidden", data={"name": "mine"}, files=MODEL)
        assert answer.status_code == 303
        page = client.get(answer.headers["location"]).text
        assert "The model was taken in" in page
        sent = challenge.call(challenge.service.submissions.find("hidden"))
        assert [(one.name, one.file_name) for one in sent] == [("mine", "my.onnx")]
        assert sent[0].id in text_of(page).replace(" ", "")
        client.post("/jobs/purge")
        client.post(f"/jobs/{sent[0].job_id}/cancel")
        unnamed = {"file": ("refused.onnx", MODEL["file"][1])}
        client.post("/tasks/hidden", data={"name": ""}, files=unnamed)
        named = challenge.call(challenge.service.submissions.find("hidden"))[0]
        assert named.name == "refused"
        challenge.call(challenge.service.jobs.wait(named.job_id, 30))
        assert "images/7.jpg is empty" in text_of(client.get("/tasks/hidden").text)


def test_a_full_disk_takes_no_model_and_loses_nothing(challenge):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with challenge.browse() as client:
        page = "/tasks/task2"
        upload = {"file": ("large.onnx", b"\x08\x07" + bytes(3_000_000))}
        # The kernel refuses to write on, as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
        try:
            answer = client.post(page, data={"name": "large"}, files=upload)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert answer.status_code == 507
        assert "Nothing was taken in" in text_of(answer.text)
        assert "large" not in text_of(client.get(page).text)


def test_the_days_last_model_was_taken_in_already(challenge):
    with challenge.browse() as client:
        statuses = [client.post("/tasks/hidden", files=MODEL).status_code for _ in range(5)]
        assert statuses == [303] * 5
        answer = client.post("/tasks/hidden", files=MODEL)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert "takes 5 submissions a day" in text_of(answer.text)
        client.post("/jobs/purge")
        for one in challenge.call(challenge.service.submissions.find("hidden")):
            client.post(f"/jobs/{one.job_id}/cancel")


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ({"other": ("", b"")}, 422, "choose an .onnx file"),
        ({"file": ("my.txt", b"\x08\x07")}, 422, "doesn't end with .onnx"),
        ({"file": ("my.onnx", b"")}, 422, "is empty"),
        ({"file": ("my.onnx", bytes(1_050_000))}, 413, "1.00 MB"),
        ({"file": ("my.onnx", bytes(1_500_000))}, 413, "larger than"),
    ],
    ids=["none", "other kind", "empty", "too large", "much too large"],
)
def test_a_model_that_is_not_taken_in_says_why_at_the_form(challenge, files, status, said):
    with challenge.browse() as client:
        answer = client.post("/tasks/hidden", data={"name": "my <name>"}, files=files)
        assert answer.status_code == status
        assert said in text_of(answer.text)
        assert re.search(r'<input id="file"[^>]*aria-describedby="upload-error"', answer.text)
        assert challenge.call(challenge.service.submissions.find("hidden")) == []


# -- live -------------------------------------------------------------------------------------


def test_the_overview_says_what_changes(new_site):
    with (
        new_site.browse() as client,
        client.stream("GET", "/dashboard/live") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = sse_events(answer.iter_lines())
        first = next(events)["data"]["regions"]
        assert set(first) == {"troubles", "figures", "workers", "latest"}
        job = new_site.submit(operation="echo", say="hello")
        for event in events:
            if job.id in event["data"]["regions"].get("latest", ""):
                assert event["data"]["at"] > 0
                break


@pytest.mark.parametrize("path", ["/jobs?state=FAILED", "/workers", "/comparisons", "/tasks/task2"])
def test_every_list_has_a_live_part_that_its_page_has(site, browser, path):
    page = browser.get(path).text
    live = re.search(r'data-live="([^"]+)"', page)
    assert live is not None
    with browser.stream("GET", live[1].replace("&amp;", "&")) as answer:
        first = next(sse_events(answer.iter_lines()))
    assert first["name"] == "regions"
    for name in first["data"]["regions"]:
        assert f'data-region="{name}"' in page


def test_a_jobs_stream_tells_each_event_once_and_ends(site, browser):
    job = site.submit(operation="echo", say="", steps=20)
    numbers, states = [], []
    with browser.stream("GET", f"/dashboard/live/jobs/{job.id}") as answer:
        for event in sse_events(answer.iter_lines()):
            if event["name"] == "end":
                break
            numbers += re.findall(r'data-key="event-(\d+)"', event["data"].get("rows", ""))
            states.append(text_of(event["data"]["regions"]["state"]).split()[0])
    assert numbers == [str(number) for number in range(1, 24)]
    assert states[-1] == "completed"
    resumed = {"Last-Event-ID": "20"}
    with browser.stream("GET", f"/dashboard/live/jobs/{job.id}", headers=resumed) as answer:
        rows = "".join(e["data"].get("rows", "") for e in sse_events(answer.iter_lines()))
    assert re.findall(r'data-key="event-(\d+)"', rows) == ["21", "22", "23"]


def test_a_stream_of_nothing_is_refused(browser):
    assert browser.get("/dashboard/live/jobs/unknown").status_code == 404


# -- keys -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    with LiveSite(folder, run_operation, require_keys=True) as started:
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
