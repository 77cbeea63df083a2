"""Pages of a real service and store: safe, true, and a sentence where something is wrong."""

import html
import re
import subprocess
import time

import pytest

from live_site import text_of
from visiondyno.errors import TransportDown

PAGES = ("/", "/jobs", "/workers", "/comparisons", "/studies", "/tasks", "/tasks/task2")


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
    while new_site.call(new_site.service.jobs.get(running.id)).state != "IN_PROGRESS":
        time.sleep(0.01)
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
