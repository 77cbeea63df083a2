"""The streams behind the pages: what changed, each event once."""

import re

import pytest

from live_site import sse_events, text_of


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


@pytest.mark.parametrize(
    "path", ["/jobs?state=FAILED", "/workers", "/comparisons", "/studies", "/tasks/task2"]
)
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
