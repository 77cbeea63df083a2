"""What a study leaves: results that add up, in JSON and YAML, and a page made from them alone."""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from study_results_factory import a_result
from visiondyno.errors import StorageFull
from visiondyno.report.charts.study_runs import rows_of
from visiondyno.report.study_facts import duration
from visiondyno.report.study_trials import study_trials
from visiondyno.report.tuning import study_html
from visiondyno.tuning.results import JSON, PAGE, SCHEMA, YAML, study_results, write_results
from visiondyno.tuning.trial import State

TWO = ("val_accuracy", "latency_ms")
TESTED = {
    "trial": 3,
    "metrics": {"loss": 0.05, "accuracy": 0.9832},
    "samples": 10_000,
    "accuracy_interval": [0.9805, 0.9855],
    "again": {"val_accuracy": {"trial": 0.98, "again": 0.98, "difference": 0.0}},
    "is_same": True,
    "weights": "best.safetensors",
    "weights_sha256": "0" * 64,
    "where": "local",
    "worker": "w",
    "device": "cpu",
    "seconds": 3.0,
    "cost": None,
}
TEST = {"skipped": None, "trials": [TESTED], "failed": [], "left_out": [], "seconds": 3.0,
        "usd": None}  # fmt: skip
EVIL = '<script>alert("x")</script>'


@given(trials=st.integers(0, 60), seed=st.integers(0, 10_000), paid=st.booleans())
def test_results_add_up(trials, seed, paid):
    result = a_result(trials, seed=seed, paid=paid)
    found = study_results(result)
    counts = found["counts"]
    assert counts["trials"] == len(found["trials"]) == trials
    assert sum(counts[state.value] for state in State) == trials
    assert counts["attempts"] == sum(one["attempts"] for one in found["trials"])
    assert counts["failed_attempts"] == sum(
        group["count"] for group in found["failures"]["attempts"]
    )
    assert counts["failed"] == sum(group["count"] for group in found["failures"]["trials"])
    for group in found["failures"]["attempts"]:
        assert sum(group["lanes"].values()) == group["count"] >= len(group["trials"])
    assert sum(len(one["trials"]) for one in found["environments"]) == trials
    assert sum(lane["completed"] for lane in found["lanes"]) == trials
    assert found["time"]["trials_s"] == pytest.approx(
        sum(one["duration_s"] for one in found["trials"])
    )
    if paid and trials:
        least, most = found["cost"]["trials_usd"]
        assert least == pytest.approx(sum(one["cost"]["usd_at_least"] for one in found["trials"]))
        assert most == pytest.approx(2 * least)
    values = [one["values"]["val_accuracy"] for one in found["trials"] if one["values"]]
    assert (found["best"] or {}).get("value") == max(values, default=None)
    json.dumps(found, allow_nan=False)


def test_the_total_cost_is_that_of_the_study_and_of_the_test():
    result = a_result(12, paid=True, test=TEST | {"usd": [0.01, 0.02]})
    cost = study_results(result)["cost"]
    assert cost["study_usd"] == pytest.approx([0.18, 0.22])
    assert cost["total_usd"] == pytest.approx([0.19, 0.24])


def test_without_an_account_of_the_study_trials_are_the_cost():
    cost = study_results(a_result(12, paid=True, cost=None))["cost"]
    assert cost["study_usd"] is None
    assert cost["total_usd"] == cost["trials_usd"]
    assert study_results(a_result(12))["cost"] is None


def test_of_several_objectives_there_is_a_front_and_the_best_of_each():
    found = study_results(a_result(objectives=TWO))
    points = [
        (one["values"]["val_accuracy"], one["values"]["latency_ms"]) for one in found["front"]
    ]
    assert len(points) > 1
    assert found["best"] == {
        "values": {
            "val_accuracy": max(accuracy for accuracy, _ in points),
            "latency_ms": min(latency for _, latency in points),
        }
    }


def test_a_trial_says_everything_of_itself():
    result = a_result(6)
    record = result.trials[0]
    found = study_results(result)["trials"][0]
    assert found["seed"] == record.seed
    assert found["params"] == record.params
    assert found["state"] == record.state
    assert found["duration_s"] == record.duration_s
    assert found["reports"]["1"] == {"val_accuracy": record.reports[1][0]}
    assert (found["lane"], found["worker"]) == (record.lane, record.worker_id)
    assert found["measured"]["health"][0]["epoch"] == 1
    assert "torch" not in found["measured"]


def test_all_three_files_are_written_and_say_the_same(tmp_path):
    result = a_result(20, paid=True, stopped="It ended.", test=TEST)
    returned = write_results(result, tmp_path)
    read = json.loads((tmp_path / JSON).read_text())
    assert read == returned
    assert yaml.safe_load((tmp_path / YAML).read_text()) == read
    assert read["schema"] == SCHEMA
    assert read["spec"] == {"data": "mnist"}
    assert (tmp_path / PAGE).read_text() == study_html(read)
    assert sorted(path.name for path in tmp_path.iterdir()) == [JSON, YAML, PAGE]


def test_texts_that_look_like_numbers_stay_texts_in_yaml(tmp_path):
    result = a_result(1)
    odd = {"a": "1e-3", "b": "no", "c": "2026-01-01", "d": 1e-05, "e": None, "f": "0x1F"}
    record = result.trials[0].with_(params=odd)
    write_results(replace(result, trials=(record,)), tmp_path)
    text = (tmp_path / YAML).read_text()
    assert yaml.safe_load(text)["trials"][0]["params"] == odd
    assert "a: '1e-3'" in text  # for readers of YAML 1.2


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(StorageFull, match=r"results\.json"):
        write_results(a_result(1), tmp_path / "missing")


def test_numbers_that_are_not_finite_are_texts():
    result = a_result(3)
    bad = result.trials[0].with_(
        state=State.COMPLETED, values=(math.inf,), reports={1: (math.nan,), 2: (-math.inf,)}
    )
    found = study_results(replace(result, trials=(bad,), best=(bad,)))
    assert found["best"]["value"] == "Infinity"
    assert found["trials"][0]["reports"] == {
        "1": {"val_accuracy": "NaN"},
        "2": {"val_accuracy": "-Infinity"},
    }
    page = study_html(found)
    assert "Infinity" in page
    assert "nan" not in re.findall(r'points="([^"]*)"', page)


# ---- the page

STUDIES = {
    "many": lambda: a_result(test=TEST, paid=True),
    "front": lambda: a_result(objectives=TWO, test=TEST | {"trials": [TESTED, TESTED | {
        "trial": 5, "again": {"val_accuracy": {"trial": 0.9, "again": 0.8, "difference": -0.1}}}],
        "left_out": [7, 9]}),
    "stopped": lambda: a_result(9, stopped="The same cause came three times: x."),
    "skipped": lambda: a_result(5, test=TEST | {"trials": [], "skipped": "There is no test part."}),
    "test-failed": lambda: a_result(5, test=TEST | {
        "trials": [], "failed": [{"trial": 3, "code": "x", "message": "The worker died."}]}),
    "one": lambda: a_result(1),
    "none": lambda: a_result(0, stopped="No place takes trials any more."),
    "large": lambda: a_result(700),
    "earlier-runs": lambda: a_result(30, began_at=1_790_000_050.0, taken_up=9),
}  # fmt: skip


@pytest.fixture(scope="module", params=STUDIES)
def page(request):
    return study_html(study_results(STUDIES[request.param]()))


def test_every_drawing_is_whole_and_within_its_bounds(page):
    drawings = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]
    assert drawings
    for svg in drawings:
        _, _, width, height = map(float, svg.get("viewBox").split())
        for line in svg.iter("polyline"):
            for point in line.get("points").split():
                x, y = map(float, point.split(","))
                assert -1 <= x <= width + 1
                assert -1 <= y <= height + 1
        for bar in svg.iter("rect"):
            assert -1 <= float(bar.get("x")) <= width + 1
            assert float(bar.get("x")) + float(bar.get("width")) <= width + 2


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert "http-equiv" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_the_page_stays_small_with_many_trials():
    page = study_html(study_results(a_result(2000)))
    assert len(page) < 6_000_000
    assert "300 of" in page
    assert "evenly many others" in page


def test_the_page_says_what_happened():
    page = study_html(study_results(STUDIES["many"]()))
    for text in ("0.9832", "95 %: 0.9805 to 0.9855, 10,000 samples", "0.180 to 0.220 USD",
                 "the same", "PED-ANOVA", "worker-7", "data: mnist", "Out of memory"):  # fmt: skip
        assert text in page, text
    assert "Not tested" not in page
    front = study_html(study_results(STUDIES["front"]()))
    assert "Validation accuracy −0.100" in front
    assert "2 more trials weren't tested" in front
    assert "The same cause came" in study_html(study_results(STUDIES["stopped"]()))
    assert "There is no test part." in study_html(study_results(STUDIES["skipped"]()))
    assert "The test of trial 3 failed." in study_html(study_results(STUDIES["test-failed"]()))
    assert "it flatters" in study_html(study_results(STUDIES["one"]()))
    assert "No trial was completed." in study_html(study_results(STUDIES["none"]()))
    earlier = study_html(study_results(STUDIES["earlier-runs"]()))
    assert "trials of earlier runs of the study" in earlier
    assert "Time of this run" in earlier
    over = study_html(study_results(a_result(9, began_at=1_800_000_000.0, taken_up=9)))
    assert "When and where trials ran" in over
    assert "of earlier runs" not in over


def test_every_text_from_outside_is_escaped():
    result = a_result(12, stopped=EVIL, notes=(EVIL,), test=TEST | {"skipped": EVIL})
    records = tuple(
        one.with_(lane=EVIL, params={**one.params, EVIL: EVIL, "optimizer": EVIL})
        for one in result.trials
    )
    lanes = tuple(replace(lane, name=EVIL, closed=EVIL) for lane in result.lanes)
    page = study_html(study_results(replace(result, trials=records, lanes=lanes)))
    assert EVIL not in page
    assert "&lt;script&gt;" in page


def test_a_study_of_a_function_is_called_by_it():
    found = study_results(a_result(12)) | {"spec": {"function": "objective", "trials": 12}}
    assert "<h1>Study of objective</h1>" in study_html(found)
    own = {"training_data": {"data": "digits:train"}, "validation_data": "digits:val"}
    assert "digits" in study_html(study_results(a_result(3)) | {"spec": own})
    inline = {"training_data": {"features": [], "labels": []}}
    assert "<h1>Study</h1>" in study_html(study_results(a_result(3)) | {"spec": inline})


@given(st.integers(0, 60), st.integers(0, 10_000))
def test_no_two_trials_of_a_row_overlap_and_none_is_missing(count, seed):
    trials = study_trials(study_results(a_result(count, seed=seed)))
    rows = rows_of(trials)
    assert sorted(one.number for row in rows for one in row.trials) == list(range(count))
    for row in rows:
        for before, after in pairwise(row.trials):
            assert before.ended_s <= after.began_s
    assert len(rows) <= 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.500 s"), (119, "119 s"), (125, "2 min 5 s"), (7325, "2 h 2 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_costs_of_trials_are_shown():
    assert "USD at most" in study_html(study_results(a_result(4, paid=True)))
    assert "USD at most" not in study_html(study_results(a_result(4)))
