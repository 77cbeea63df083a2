"""The forms of a load test's record: JSON and back, Markdown, the terminal, the page's text."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from load_test_factory import a_cold_start, a_result, a_search, a_target, some_strategies
from visiondyno.cli.loadtest_summary import print_load_test
from visiondyno.errors import SpecError, StorageFull
from visiondyno.loadtest.differences import target_differences
from visiondyno.loadtest.rounds import MOST_SINGLES
from visiondyno.loadtest.strategies import StrategyPlan
from visiondyno.measurements.measure import Measure
from visiondyno.report.charts.load_course import MOST_BUCKETS, bucket_s, buckets
from visiondyno.report.charts.load_percentiles import tail_points
from visiondyno.report.load_test import RateSearch
from visiondyno.report.load_test_facts import cards, load_words
from visiondyno.report.load_test_files import read_load_test, write_load_test
from visiondyno.report.load_test_html import load_test_html
from visiondyno.report.load_test_markdown import load_test_markdown
from visiondyno.report.load_test_measures import load_measure, measure_interval, measure_value
from visiondyno.specs.load_test import LoadTestSpec

HOSTILE = "<script>alert(1)</script>|`*x*`"


def everything():
    return a_result(
        a_target("old", latencies_ms=[20.0, 23.0, 21.0], search=a_search()),
        a_target(
            "new", latencies_ms=[60.0, 62.0, 61.0], timeouts=[9], bad=3,
            cold_starts=(a_cold_start(), a_cold_start(told=False)), notes=("it was warm",),
        ),
        strategies=some_strategies(), quiet=False, quiet_reasons=("others ran",),
        was_stopped=True, notes=("the network was slow",),
    )  # fmt: skip


def printed(result, width=120) -> str:
    out = io.StringIO()
    print_load_test(result, Console(file=out, width=width))
    return out.getvalue()


def test_all_forms_are_written_and_the_record_reads_back(tmp_path):
    result = everything()
    files = write_load_test(result, tmp_path)
    assert sorted(file.name for file in files.values()) == [
        "loadtest.html", "loadtest.json", "loadtest.md", "spec.yaml",
    ]  # fmt: skip
    assert read_load_test(tmp_path) == result
    assert read_load_test(files["json"]) == result
    from visiondyno.cli.loadtest_options import spec_of

    assert spec_of((), files["yaml"], {}) == LoadTestSpec.model_validate(result.spec)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "isn't JSON"),
        ("[]", "names no schema"),
        ('{"schema_name": "other/2"}', "its schema is 'other/2'"),
        ('{"schema_name": "visiondyno.loadtest/1"}', "version"),
    ],
)
def test_what_is_no_record_is_said(tmp_path, content, said):
    (tmp_path / "loadtest.json").write_text(content)
    with pytest.raises(SpecError, match=said):
        read_load_test(tmp_path)


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SpecError, match="can't be read"):
        read_load_test(tmp_path / "none")
    with pytest.raises(StorageFull, match="--out"):
        write_load_test(a_result(), tmp_path / "none")


def test_markdown_tells_results_differences_and_warnings():
    text = load_test_markdown(everything())
    assert "# Load test of 2 targets" in text
    assert "| p99, ms |" in text
    assert "was stopped" in text
    assert "| new | p50 |" in text
    assert "## Highest rate of old: 45.0 requests/s, p99 within 50.0 ms" in text
    assert "ran into the time limit: it is at least 2000 ms" in text
    assert "## Scaling strategies" in text
    assert "| old | 900 |" in text
    assert "others ran" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_closed_loop_says_what_it_leaves_out():
    result = a_result()
    closed = {"kind": "closed", "concurrency": 2, "think_time_s": 0.5, "duration_s": 30.0,
              "requests": None}  # fmt: skip
    result = result.model_copy(update={"spec": {**result.spec, "load": closed}})
    for text in (load_test_markdown(result), printed(result), load_test_html(result)):
        assert "coordinated omission" in text


def test_the_terminal_tells_all_that_matters():
    text = printed(everything())
    for part in (
        "open loop, 10.0 requests/s for 30.0 s",
        "old", "new", "p99.9, ms", "Offered, requests/s", "CPU, cores", "Peak memory, MiB",
        "new against old, p50: +", "higher",
        "old: 2xx 900",
        "new: 2xx 882, 5xx 9, timeouts 9",
        "highest rate with p99 within 50.0 ms: 45.0 requests/s",
        "cold start 2,400 ms (process 1,200, model 600",
        "nobody told its parts",
        "always-warm 2", "scale-to-zero 0-2",
        "The generator kept its schedule.", "wasn't quiet: others ran.", "It was stopped",
        "Note on new: it was warm.",
    ):  # fmt: skip
        assert part in text


def test_the_terminal_says_how_many_requests_have_no_latency():
    text = printed(a_result(a_target("a", bad=30)))
    assert "Latencies of a are of 270 requests; 10.0 % were refused or failed otherwise" in text
    assert "have none" not in printed(a_result(a_target("a", timeouts=[30])))


def test_the_terminal_names_the_generator_and_the_messages():
    one = a_target("a", latencies_ms=[20.0, 21.0])
    facts = one.rounds[0].generator.model_copy(
        update={"was_bottleneck": True, "why": "It was busy."}
    )
    errors = {f"message {number}": 9 - number for number in range(8)}
    rounds = (
        one.rounds[0].model_copy(update={"generator": facts, "errors": errors}), one.rounds[1]
    )  # fmt: skip
    text = printed(a_result(one.model_copy(update={"rounds": rounds})))
    assert "The generator was the limit (a): It was busy. (1 of 2 rounds)" in text
    assert "9 times: message 0" in text
    assert "and 3 other messages" in text


def test_a_test_that_measured_nothing_has_all_forms():
    result = a_result(
        a_target("a").model_copy(
            update={"rounds": (), "measures": {}, "resources_measures": {},
                    "cost_usd_per_1000_requests": None}
        ),
        was_stopped=True,
    )  # fmt: skip
    assert "It was stopped" in printed(result)
    assert "<title>" in load_test_html(result)
    assert "# Cold start of a" in load_test_markdown(result)


def test_a_search_without_a_rate_says_so():
    search = RateSearch(limit_ms=5.0, best_rate_per_s=None, tries=a_search().tries[3:4])
    result = a_result(a_target("a", search=search))
    assert "no rate that was tried" in printed(result)
    assert "no rate held" in load_test_markdown(result)
    assert "No rate held." in load_test_html(result)


def test_strategies_alone_have_all_forms():
    result = a_result().model_copy(
        update={"targets": (), "differences": (), "strategies": some_strategies(),
                "spec": dataclasses.asdict(StrategyPlan("m"))}
    )  # fmt: skip
    assert "always-warm 2" in printed(result)
    assert "Scaling strategies" in load_test_markdown(result)
    page = load_test_html(result)
    assert "First answer, cold, ms" in page
    assert "it never is at zero" in page


def test_names_from_outside_are_text_everywhere():
    target = a_target(HOSTILE, notes=(HOSTILE,))
    errors = {HOSTILE: 3}
    rounds = (target.rounds[0].model_copy(update={"errors": errors}),)
    result = a_result(target.model_copy(update={"rounds": rounds}), a_target("b"))
    page = load_test_html(result)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<script>" not in load_test_markdown(result)
    assert "\\|\\`\\*x\\*\\`" in load_test_markdown(result)


def test_the_curve_ends_where_the_time_limit_cuts_it():
    target = a_target("a", timeouts=[30])
    points, total, late = tail_points(target)
    assert (total, late) == (300, 30)
    assert points[-1][0] == pytest.approx(10)  # 1 / (1 - 0.9)
    assert points == sorted(points)
    whole, total, late = tail_points(a_target("b", latencies_ms=[20.0, 21.0]))
    assert (total, late) == (600, 0)
    assert whole[-1][0] == pytest.approx(1200)
    assert tail_points(a_target("c").model_copy(update={"rounds": ()})) == ([], 0, 0)


def test_long_courses_are_put_into_steps_that_lose_nothing():
    target = a_target("a", latencies_ms=[20.0] * 9)  # 270 s
    step = bucket_s([target])
    found = buckets(target, step)
    assert len(found) <= MOST_BUCKETS
    assert sum(one.scheduled for one in found) == 2700
    assert max(one.p99_ms for one in found) == max(
        second.p99_ms for one in target.rounds for second in one.seconds
    )


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"kind": "constant", "rate_per_s": 10, "duration_s": 30}, "open loop, 10.0 requests/s"),
        ({"kind": "poisson", "rate_per_s": 10, "duration_s": 30}, "Poisson"),
        (
            {"kind": "ramp", "from_rate_per_s": 1, "to_rate_per_s": 50, "duration_s": 30},
            "ramp from 1.00 to 50.0",
        ),
        (
            {"kind": "spike", "rate_per_s": 1, "duration_s": 30, "spike_rate_per_s": 50,
             "spike_start_s": 10, "spike_duration_s": 5},
            "with 50.0 from 10.0 s for 5.00 s",
        ),
        (
            {"kind": "closed", "concurrency": 1, "think_time_s": 0, "duration_s": 30,
             "requests": 40},
            "closed loop, 1 user, 40 requests",
        ),
    ],
    ids=["constant", "poisson", "ramp", "spike", "closed"],
)  # fmt: skip
def test_loads_in_words(load, said):
    assert said in load_words(load)


def test_measures_as_text():
    shown = load_measure("error_fraction", 0.0125, "m", interval=(0.01, None))
    assert measure_value(shown) == "1.25 %"
    assert measure_interval(shown) == "[1.00, ?]"
    memory = load_measure("peak_memory_bytes", 2**20 * 300, "m")
    assert measure_value(memory) == "300 MiB"
    assert measure_value(memory.model_copy(update={"estimated": True})) == "≈ 300 MiB"
    assert measure_value(None) == "not measured"
    assert measure_interval(None) == ""
    assert measure_interval(load_measure("latency_p50_ms", 1, "m", interval=(None, None))) == ""
    assert measure_value(load_measure("new_connections", 1234, "m")) == "1,234"
    close = load_measure("latency_p50_ms", 1000, "m", interval=(999.99, 1000.01))
    assert measure_interval(close) == "[999.99, 1,000.01]"


def test_a_target_alone_shows_its_cold_starts_and_search_on_cards():
    starts = tuple(a_cold_start(total_ms=ms) for ms in (900, 2000, 3100, 2400))
    found = {
        name: (value, more)
        for name, value, more in cards(
            a_result(a_target("a", cold_starts=starts, search=a_search(), bad=2))
        )
    }
    assert found["Cold start"] == ("2,200 ms", "900 to 3,100 ms")
    assert found["Highest rate"] == ("45.0 requests/s", "with p99 within 50.0 ms")
    assert found["Errors"][1] == "298 2xx, 2 5xx"
    nothing = RateSearch(limit_ms=5.0, best_rate_per_s=None, tries=())
    (card,) = [one for one in cards(a_result(a_target("a", search=nothing))) if "rate" in one[0]]
    assert card[1] == "none"


def test_a_round_with_too_many_requests_has_a_course_without_dots():
    target = a_target("a", n=MOST_SINGLES + 100)
    assert target.rounds[0].singles is None
    page = load_test_html(a_result(target))
    assert "every good answer" not in page
    assert "A step is" in page


def test_a_step_without_good_answers_leaves_a_gap():
    target = a_target("a", n=60, timeouts=[25])  # from 3 s on nothing is answered for 2 s
    course = buckets(target, 1)
    assert course[3].p50_ms is None
    assert course[1].p50_ms is not None
    assert "Latency over time" in load_test_html(a_result(target))


def test_a_limit_is_drawn_where_it_was_given():
    result = a_result()
    result = result.model_copy(update={"spec": {**result.spec, "latency_limit_ms": 50.0}})
    assert "limit 50.0 ms" in load_test_html(result)


def test_what_else_was_told_of_a_target_is_shown():
    told = Measure(value=1850.0, unit="ms", method="Cloud Monitoring", n=3)
    one = a_target("a")
    more = {**one.resources_measures, "startup_latency_mean_ms": told}
    result = a_result(one.model_copy(update={"resources_measures": more}))
    line = "a, startup latency mean ms: 1,850 ms"
    assert line in load_test_html(result)
    assert line in load_test_markdown(result)


def test_json_has_no_surprises():
    result = everything()
    payload = json.loads(result.model_dump_json())
    assert payload["schema_name"] == "visiondyno.loadtest/1"
    assert payload["targets"][1]["measures"]["latency_p99_ms"]["value"] is None
    assert len(payload["differences"]) == len(target_differences(result.targets))
