"""Studies on the dashboard: what their folders say, live."""

import re

import pytest

import live_site
from live_site import sse_events
from told_study import BOTH, Telling, half_done, running_study
from visiondyno.tuning.run_record import registered
from visiondyno.tuning.trial import State


def text_of(page):
    """The text as one reads it: names may break after their separators."""
    return live_site.text_of(page.replace("<wbr>", ""))


def test_without_studies_the_page_says_how_to_start_one(new_site):
    with new_site.browse() as client:
        assert "dyno tune --data digits" in text_of(client.get("/studies").text)


def test_a_running_study_shows_counts_best_lanes_and_failures(new_site, tmp_path):
    with running_study(new_site, tmp_path) as (study, name), new_site.browse() as client:
        half_done(study)
        listed = text_of(client.get("/studies").text)
        assert "mnist: val_accuracy" in listed
        assert "running" in listed
        assert "2 of 8 1 failed 0.8750" in listed
        page = client.get(f"/studies/{name}").text
        text = text_of(page)
    assert "2 of 8 ended" in text
    assert "1 completed, 0 pruned, 1 failed, 1 running, 0 queued" in text
    assert "Best 0.8750 val_accuracy trial 0: learning_rate=0.0100 kind=<b>" in text
    assert "epoch 3 of 4 0.7500" in text
    assert '<progress value="0.75" max="1" aria-label="Trial 2">' in page
    assert "x: Broken. 1" in text
    assert "closed Nobody answers." in text
    assert "left out: worker-9" in text
    assert "4 transport_down" in text
    assert "Broken. (x)" in text
    assert page.count("<svg viewBox=") - 1 == 2
    assert "<b>" not in page.replace("kind=<b>", "")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
    assert "resume" not in text


def test_what_happens_is_told_while_one_looks(new_site, tmp_path):
    with running_study(new_site, tmp_path) as (study, name), new_site.browse() as client:
        with client.stream("GET", f"/dashboard/live/studies/{name}") as answer:
            events = sse_events(answer.iter_lines())
            assert "No trial has begun yet" in next(events)["data"]["regions"]["study"]
            half_done(study)
            for event in events:
                if "2 <small>of 8 ended</small>" in event["data"]["regions"].get("study", ""):
                    break
        with client.stream("GET", "/dashboard/live/studies") as answer:
            first = next(sse_events(answer.iter_lines()))
            assert "2 of 8" in first["data"]["regions"]["studies"]


def test_a_study_whose_process_died_says_so_and_how_to_go_on(new_site, tmp_path):
    with running_study(new_site, tmp_path) as (study, name):
        half_done(study)
    with new_site.browse() as client:
        page = client.get(f"/studies/{name}").text
        assert f"go on with dyno tune --resume --out {study.folder}" in text_of(page)
        assert "data-live" not in page
        assert "h-running" not in page
        assert "died" in text_of(client.get("/studies").text)
        with client.stream("GET", f"/dashboard/live/studies/{name}") as answer:
            assert [event["name"] for event in sse_events(answer.iter_lines())][-1] == "end"


@pytest.mark.parametrize("stopped", [None, "3 trials in a row failed by the same cause: Broken."])
def test_a_study_that_has_ended_says_how_and_shows_its_own_page(new_site, tmp_path, stopped):
    with running_study(new_site, tmp_path) as (study, name), new_site.browse() as client:
        study.trial(0, State.COMPLETED, ended_at=2004.0, values=(0.875,))
        study.end(stopped)
        assert "testing" in text_of(client.get(f"/studies/{name}").text)
        assert client.get(f"/studies/{name}/report").status_code == 404
    (study.folder / "study.html").write_text("<!doctype html><p>All of it</p>")
    with new_site.browse() as client:
        text = text_of(client.get(f"/studies/{name}").text)
        assert "Open the study's own page" in text
        assert "took 1 min 30 s" in text
        assert (stopped or "ended") in text
        report = client.get(f"/studies/{name}/report")
        assert "All of it" in report.text
        assert "frame-ancestors 'self'" in report.headers["content-security-policy"]


def test_of_several_objectives_each_has_its_best_and_its_history(new_site, tmp_path):
    options = {"objectives": BOTH, "title": "mnist: both"}
    with running_study(new_site, tmp_path, **options) as (study, name), new_site.browse() as client:
        study.trial(0, State.COMPLETED, ended_at=2004.0, values=(0.875, 8.0))
        study.trial(1, State.COMPLETED, ended_at=2005.0, values=(0.75, 4.0))
        study.flush()
        page = client.get(f"/studies/{name}").text
    assert "val_accuracy 0.8750 , latency_ms 4.00" in text_of(page).replace("4.000", "4.00")
    assert "2 trials on the front" in text_of(page)
    assert page.count("<svg viewBox=") - 1 == 4


def test_many_studies_are_read_in_turn(new_site, tmp_path):
    names = []
    for number in range(10):
        folder = tmp_path / f"study{number}"
        folder.mkdir()
        with registered(new_site.settings.folder, folder) as name:
            study = Telling(folder, title=f"number {number}")
            study.trial(0, State.COMPLETED, ended_at=2004.0, values=(number / 16,))
            study.end()
            names.append(name)
    with new_site.browse() as client:
        for number, name in [*enumerate(names), (0, names[0])]:
            assert f"number {number}" in client.get(f"/studies/{name}").text
        assert client.get("/studies").text.count('data-key="study') == 10


@pytest.mark.parametrize("path", ["unknown", "..%2Fsecret", "unknown/report"])
def test_an_unknown_study_is_a_page_that_says_so(new_site, path):
    with new_site.browse() as client:
        answer = client.get(f"/studies/{path}")
    assert answer.status_code == 404


def test_a_folder_without_a_run_is_no_study_yet(new_site, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    with registered(new_site.settings.folder, folder) as name, new_site.browse() as client:
        assert client.get("/studies").status_code == 200
        answer = client.get(f"/studies/{name}")
        assert answer.status_code == 404
        assert "hasn't begun yet" in text_of(answer.text)
