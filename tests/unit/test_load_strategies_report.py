"""What reports say of scaling strategies, and of targets that never answered well."""

import dataclasses
import re

import pytest

from load_test_factory import a_cold_start, a_result, a_target, some_strategies
from visiondyno.cli.loadtest_options import strategy_plan
from visiondyno.errors import ModelError, SpecError
from visiondyno.loadtest.strategies import StrategyPlan
from visiondyno.report.load_test_facts import cards, nothing_good_lines
from visiondyno.report.load_test_files import write_load_test
from visiondyno.report.load_test_html import load_test_html
from visiondyno.report.load_test_measures import load_measure
from visiondyno.report.load_test_strategies import (
    strategy_cards,
    strategy_figures,
    strategy_lead,
    strategy_names,
    strategy_starts,
)

MODEL = "visiondyno:street-n"


def of_strategies(**more):
    spec = dataclasses.asdict(StrategyPlan(MODEL, replicas=3))
    return a_result(**{"targets": (), "differences": (), "spec": spec,
                       "strategies": some_strategies(), **more})  # fmt: skip


def a_silent_target(codes, errors, **more):
    target = a_target("detector")
    (one,) = target.rounds
    one = one.model_copy(
        update={"outcomes": {"bad_status": 300}, "status_codes": codes, "errors": errors}
    )
    return target.model_copy(update={"rounds": (one,), **more})


def test_the_table_goes_from_waiting_to_what_it_takes():
    assert strategy_names(some_strategies()) == [
        "startup_ms", "cold_first_answer_ms", "warm_latency_p50_ms", "warm_latency_p99_ms",
        "idle_memory_bytes", "peak_memory_bytes", "idle_cpu_cores", "busy_cpu_cores",
        "error_fraction",
    ]  # fmt: skip


def test_the_answer_compares_what_both_strategies_have():
    found = {title: (text, more) for title, text, more in strategy_cards(some_strategies())}
    assert found == {
        "Scale to zero: once warm, p50": ("23.0 ms", "always-warm: 22.0 ms"),
        "Scale to zero: memory at rest": ("85.8 MiB", "always-warm: 381 MiB"),
    }
    assert strategy_cards(some_strategies()[:1]) == []


def test_starts_of_the_server_and_first_visitors_are_told_apart():
    (_, zero) = some_strategies()
    start, visitor = a_cold_start("process"), a_cold_start("idle")
    measured = load_measure("startup_ms", 900.0, "read", n=2)
    row = zero.model_copy(
        update={"cold_starts": (start, start, visitor), "measures": {"startup_ms": measured}}
    )
    assert strategy_starts(row) == [
        ("scale-to-zero, start", (start, start)),
        ("scale-to-zero, first visitor", (visitor,)),
    ]


def test_the_page_shows_the_pattern_the_profile_and_no_empty_results():
    page = load_test_html(of_strategies())
    assert "always-warm with 3 replicas all the time, scale-to-zero with 0 to 3" in page
    for title in ("Processor", "Memory", "Replicas"):
        assert f"<h3>{title}</h3>" in page
    assert 'id="results"' not in page
    assert 'href="#results"' not in page
    links = set(re.findall(r'href="#([\w-]+)"', page))
    assert links <= set(re.findall(r'id="([\w-]+)"', page))


def test_a_profile_has_gaps_where_nothing_could_be_read():
    titles = [figure.title for figure in strategy_figures(some_strategies())]
    assert titles == ["Processor", "Memory", "Replicas"]
    processor = strategy_figures(some_strategies())[0]
    # Each of the two strategies has one reading that failed in its midst.
    assert str(processor.wide).count("<polyline") == 4
    unread = [
        row.model_copy(
            update={
                "samples": tuple(
                    one.model_copy(update={"cpu_cores": None, "replicas": None})
                    for one in row.samples
                )
            }
        )
        for row in some_strategies()
    ]
    assert [figure.title for figure in strategy_figures(unread)] == ["Memory"]


def test_the_spec_of_strategies_says_how_to_repeat_it(tmp_path):
    files = write_load_test(of_strategies(), tmp_path)
    head = files["yaml"].read_text(encoding="utf-8")
    assert f"--strategies {MODEL} --replicas 3 --idle-timeout 5s --rate 10 --duration 20s" in head
    assert "no test for --config" in head
    assert "always-warm with 3 replicas" in files["md"].read_text(encoding="utf-8")
    assert strategy_lead({"targets": []}) == ""


def test_flags_become_the_plan_of_strategies():
    given = {"rate": 4.0, "duration": 2.0, "image": ("a.jpg",), "price_per_hour": (0.5,)}
    plan = strategy_plan(MODEL, {**given, "replicas": 3, "idle_timeout_s": 1.0, "cold_starts": 2})
    assert plan == StrategyPlan(
        MODEL, replicas=3, idle_timeout_s=1.0, rate_per_s=4.0, steady_s=2.0, burst_s=2.0,
        cold_starts=2, idle_s=2.0, images=("a.jpg",), usd_per_replica_hour=0.5,
    )  # fmt: skip
    assert strategy_plan(MODEL, {}) == StrategyPlan(MODEL)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 0.0}, "--rate must be above 0, got 0"),
        ({"duration": 0.0}, "--duration must be above 0"),
        ({"find_rate": True}, "--find-rate has no effect"),
        ({"header": ("a: b",)}, "--header has no effect"),
    ],
)
def test_what_strategies_cannot_heed_is_refused_before_anything_starts(given, said):
    with pytest.raises(SpecError, match=said):
        strategy_plan(MODEL, given)


def test_a_model_that_does_not_exist_is_said_before_anything_starts():
    with pytest.raises(ModelError, match=r"none\.onnx"):
        strategy_plan("none.onnx", {})


@pytest.mark.parametrize(
    ("codes", "errors", "body", "said"),
    [
        ({"405": 300}, {"HTTP 405": 300}, {}, "HTTP 405; it was asked without a body"),
        ({"422": 300}, {"HTTP 422": 300}, {"json_body": {"a": 1}}, "HTTP 422; see in the target"),
        ({"301": 300}, {"HTTP 301": 300}, {}, "redirects aren't followed"),
        ({"401": 200, "404": 100}, {"HTTP 401": 200, "HTTP 404": 100}, {}, "give its key with"),
        ({"503": 300}, {"HTTP 503": 300}, {}, "detector: HTTP 503."),
        ({}, {"connection refused": 300}, {}, "detector: connection refused."),
        ({}, {}, {}, "detector: none came in time."),
    ],
    ids=["no body", "a wrong body", "moved", "no key", "overload", "away", "silent"],
)
def test_a_target_without_a_good_answer_is_told_with_what_may_help(codes, errors, body, said):
    result = a_result(a_silent_target(codes, errors))
    spec = {**result.spec, "targets": [{**result.spec["targets"][0], **body}]}
    result = result.model_copy(update={"spec": spec})
    (line,) = nothing_good_lines(result)
    assert said in line
    assert "No good answer." in load_test_html(result)


def test_a_target_with_a_good_answer_needs_no_hint():
    assert nothing_good_lines(a_result(a_target("detector", bad=200))) == []


def test_the_answer_of_two_targets_is_their_difference():
    result = a_result(
        a_target("old", latencies_ms=[20.0, 21.0, 20.0]),
        a_target("new", latencies_ms=[60.0, 61.0, 60.0]),
    )
    (card,) = [one for one in cards(result) if "against" in one[0]]
    assert card[0] == "new against old: p99"
    assert card[1].startswith("+")
    assert card[2].startswith("higher, 95 %: [")


@pytest.mark.parametrize("notes", [(), ("the page of metrics was away",)], ids=["none", "a note"])
def test_a_page_of_cold_starts_has_no_table_of_a_load_that_wasnt(notes):
    target = a_target("detector").model_copy(
        update={"rounds": (), "measures": {}, "cold_starts": (a_cold_start(),), "notes": notes}
    )
    page = load_test_html(a_result(target, differences=()))
    assert "How requests ended" not in page
    assert ('id="results"' in page) == bool(notes)
    assert all(note in page.lower() for note in notes)
    assert 'id="cold"' in page
    links = set(re.findall(r'href="#([\w-]+)"', page))
    assert links <= set(re.findall(r'id="([\w-]+)"', page))
