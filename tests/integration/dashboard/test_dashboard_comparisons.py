"""Comparisons from the form to the report."""

import re

from live_site import sse_events, text_of
from visiondyno.errors import TransportDown


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
