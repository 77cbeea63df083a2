"""Merged reports: what may be put side by side, what is compared, and whether runs agree."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from comparison_factory import again, classifier_comparison, detector_comparison
from visiondyno.cli import dyno
from visiondyno.errors import SpecError
from visiondyno.measurements.measure import measured
from visiondyno.report.comparison import LeftOut, Verdict
from visiondyno.report.csv import to_csv
from visiondyno.report.history import NO_REASON, histories
from visiondyno.report.html import to_html
from visiondyno.report.layout import best_references, headline, subtitle
from visiondyno.report.markdown import to_markdown
from visiondyno.report.merge import merge_reports
from visiondyno.report.origins import newest
from visiondyno.report.terminal import print_comparison
from visiondyno.report.write import read_report, write_report

LATER = "2026-11-22T10:30:00+00:00"
LATEST = "2026-11-22T11:30:00+00:00"
NOISY = Verdict(quiet=False, reasons=("p50 drifted by 12 %",))


@pytest.fixture(scope="module")
def base():
    return detector_comparison(energy="measured")


def with_measure(comparison, name, value, interval):
    measure = measured(name, value, "by hand", interval=interval, n=100)
    models = tuple(
        m.model_copy(update={"measures": {**m.measures, name: measure}}) for m in comparison.models
    )
    return comparison.model_copy(update={"models": models})


def agreements(merged):
    return {found.measure: found for found in histories(merged.models)[0].agreements}


def test_one_report_stays_as_it_is(base):
    assert merge_reports([base]) is base


def test_none_is_refused():
    with pytest.raises(SpecError, match="No report to merge"):
        merge_reports([])


def test_models_of_several_reports_stand_side_by_side(base):
    first = base.model_copy(update={"models": base.models[:1]})
    second = again(base, LATER).model_copy(update={"models": base.models[1:]})
    merged = merge_reports([first, second])
    assert [m.reference for m in merged.models] == [m.reference for m in base.models]
    assert merged.spec.models == base.spec.models
    assert histories(merged.models) == ()
    assert {w.category for w in merged.winners} == {w.category for w in base.winners}
    accuracy = next(d for d in merged.differences if d.measure == "accuracy")
    assert accuracy.method.startswith("MOVER")
    assert any("not paired" in note for note in merged.notes)
    assert merged.pareto


def test_unpaired_differences_are_wider_than_paired(base):
    first = base.model_copy(update={"models": base.models[:1]})
    second = again(base, LATER).model_copy(update={"models": base.models[1:]})
    merged = merge_reports([first, second])

    def width(comparison):
        low, high = next(d for d in comparison.differences if d.measure == "map_50_95").interval
        return high - low

    assert width(merged) > width(base)


def test_runs_of_one_model_are_told_apart_by_date_and_the_newest_is_ranked(base):
    merged = merge_reports([again(base, LATER), base])
    references = [m.reference for m in merged.models]
    assert len(set(references)) == 6
    assert references[0] == "visiondyno:street-s @ 2026-11-22 10:30"
    assert references[3] == "visiondyno:street-s @ 2026-11-22 09:30"
    ranked = {model.reference for model in newest(merged.models)}
    assert ranked == set(references[:3])
    assert {ref for d in merged.differences for ref in (d.a, d.b)} <= ranked
    assert {ref for w in merged.winners for ref in w.references} <= ranked
    assert {ref for front in merged.pareto for ref in front.references} <= ranked
    assert best_references(merged, "map_50_95") <= ranked
    assert merged.spec.models == base.spec.models
    assert headline(merged) == "3 detectors on street:demo"
    assert "2 runs from 2026-11-22 09:30 to 2026-11-22 10:30" in subtitle(merged)


def test_runs_of_one_minute_are_still_told_apart(base):
    merged = merge_reports([base, again(base, "2026-11-22T09:30:20+00:00")])
    assert merged.models[0].reference.endswith("@ 2026-11-22 09:30:20")
    assert "from 2026-11-22 09:30:00 to 2026-11-22 09:30:20" in merged.verdict.notes[0]
    other_device = again(base, base.created_at, spec={"device": "cuda"})
    merged = merge_reports([base, other_device])
    assert len({m.reference for m in merged.models}) == 6
    assert any(m.reference.endswith("cuda") for m in merged.models)


def test_the_order_of_the_reports_does_not_matter(base):
    reports = [base, again(base, LATER, slower=1.1), again(base, LATEST)]
    assert merge_reports(reports) == merge_reports(reports[::-1])


def test_merging_again_gives_the_same_as_merging_all_at_once(base):
    left = LeftOut(reference="bad.onnx", stage="load", reason="no ONNX file")
    base = base.model_copy(update={"left_out": (left,), "verdict": NOISY})
    second, third = again(base, LATER, slower=1.2), again(base, LATEST)
    at_once = merge_reports([base, second, third])
    in_turns = merge_reports([merge_reports([base, second]), third])
    assert in_turns.models == at_once.models
    assert in_turns.differences == at_once.differences
    assert in_turns.winners == at_once.winners
    assert in_turns.verdict == at_once.verdict
    assert in_turns.notes == at_once.notes
    assert in_turns.green_reference == at_once.green_reference
    assert in_turns.left_out == at_once.left_out


def test_a_report_given_twice_is_refused(base):
    with pytest.raises(SpecError, match="given twice"):
        merge_reports([base, base])
    second = again(base, LATER)
    with pytest.raises(SpecError, match="no merged report beside one"):
        merge_reports([merge_reports([base, second]), second])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"digest": "sha256:" + "cd" * 32}, "other data"),
        ({"images": 64}, r"another number of images \(128; 64\)"),
        ({"classes": {"car": 412, "bus": 3}}, "other classes.*bus"),
    ],
)
def test_what_was_scored_on_other_data_is_refused_by_name(base, change, match):
    other = again(base, LATER)
    other = other.model_copy(update={"dataset": other.dataset.model_copy(update=change)})
    with pytest.raises(SpecError, match=match):
        merge_reports([base, other])


def test_a_date_that_is_none_is_refused(base):
    with pytest.raises(SpecError, match="is no date"):
        merge_reports([base, again(base, "yesterday")])


def test_reports_without_models_are_refused(base):
    empty = base.model_copy(update={"models": ()})
    with pytest.raises(SpecError, match="None of these reports"):
        merge_reports([empty, again(empty, LATER)])


def test_times_of_two_machines_are_not_compared(base):
    merged = merge_reports([base, again(base, LATER, slower=3, machine_id="m-other")])
    machine = {m.reference: m.origin.environment.machine_id for m in merged.models}
    for found in merged.differences:
        if found.measure not in {
            "accuracy",
            "map_50_95",
            "map_50",
            "map_75",
            "precision",
            "recall",
            "f1",
        }:
            assert machine[found.a] == machine[found.b]
    assert any(machine[d.a] != machine[d.b] for d in merged.differences)
    winners = {w.category: w for w in merged.winners}
    assert winners["accuracy"].references
    for category in ("overall", "balance", "memory", "greenest"):
        assert winners[category].references == ()
        assert "on different machines" in winners[category].explanation
    assert merged.pareto == ()
    assert best_references(merged, "latency_p90_ms") == frozenset()
    assert histories(merged.models) == ()
    assert "2 machines" in merged.verdict.notes[0]
    assert "not compared between machines" in merged.verdict.notes[0]
    rated = {machine[m.reference]: m.measures["green_score"] for m in merged.models}
    assert rated["m-other"].value is not None
    assert rated["m-1f0c9a"].value is None
    assert "different machines" in rated["m-1f0c9a"].reason
    for model in merged.models:
        assert any(machine[model.reference] in note for note in model.notes)


def test_devices_of_one_machine_are_compared_in_time_but_not_in_energy(base):
    merged = merge_reports([base, again(base, LATER, slower=0.5, spec={"device": "cuda"})])
    pairs = {(d.measure, d.a.endswith("cuda"), d.b.endswith("cuda")) for d in merged.differences}
    assert ("latency_p90_ms", False, True) in pairs or ("latency_p90_ms", True, False) in pairs
    assert not any(
        a != b
        for measure, a, b in pairs
        if measure in {"energy_joules_per_image", "peak_rss_bytes"}
    )
    winners = {w.category: w for w in merged.winners}
    assert winners["overall"].references
    assert "Energy" not in winners["overall"].measure
    assert winners["memory"].references == ()
    assert any("memory and energy" in note for note in merged.verdict.notes)


def test_settings_that_differ_are_said(base):
    merged = merge_reports([base, again(base, LATER, spec={"threads": 1, "duration_s": 3.0})])
    notes = " ".join(merged.verdict.notes)
    assert "other numbers of threads: default and 1" in notes
    assert "differ in duration_s: 10.0 (2026-11-22 09:30); 3.0 (2026-11-22 10:30)" in notes


def test_quiet_means_all_of_them(base):
    merged = merge_reports([base, again(base, LATER, verdict=NOISY)])
    assert merged.verdict.quiet is False
    assert merged.verdict.reasons == ("2026-11-22 10:30: p50 drifted by 12 %",)


def test_models_left_out_are_kept_with_their_run(base):
    left = LeftOut(reference="bad.onnx", stage="load", reason="no ONNX file")
    merged = merge_reports([base.model_copy(update={"left_out": (left,)}), again(base, LATER)])
    assert merged.left_out[0].reason == "no ONNX file. (Run of 2026-11-22 09:30.)"


def test_equal_runs_agree_on_every_measure(base):
    merged = merge_reports([base, again(base, LATER)])
    found = agreements(merged)
    assert {a.verdict for a in found.values()} == {"overlap", "unknown"}
    assert found["peak_rss_bytes"].verdict == "overlap"
    assert found["f1_threshold"].verdict == "unknown"
    assert all("overlap on all" in note for note in merged.verdict.notes)
    unknown = sum(a.verdict == "unknown" for a in found.values())
    assert f" {unknown} others have no measured interval" in merged.verdict.notes[0]


def test_runs_that_disagree_name_what_was_seen(base):
    merged = merge_reports([base, again(base, LATER, slower=1.5, verdict=NOISY)])
    found = agreements(merged)["latency_p50_ms"]
    assert found.verdict == "apart"
    reason = "the machine was not quiet on 2026-11-22 10:30 (p50 drifted by 12 %)"
    assert found.reasons == (reason,)
    assert any("Latency p50" in note and reason in note for note in merged.verdict.notes)
    assert agreements(merged)["map_50_95"].verdict == "overlap"


def test_runs_that_disagree_for_no_known_reason_say_so(base):
    merged = merge_reports([base, again(base, LATER, slower=1.5)])
    assert agreements(merged)["latency_p90_ms"].reasons == (NO_REASON,)
    assert NO_REASON in merged.verdict.notes[0]


def test_changes_between_runs_are_named(base):
    other = again(base, LATER, slower=1.5, spec={"scenarios": ("single-stream",), "repeat": 3})
    environment = other.environment.model_copy(
        update={"packages": {"numpy": "2.3.1", "onnxruntime": "1.32.0"}, "hostname_hash": "h-2"}
    )
    models = tuple(
        m.model_copy(update={"description": {**m.description, "digest": "sha256:0", "card": {}}})
        for m in other.models
    )
    other = other.model_copy(
        update={"environment": environment, "models": models, "visiondyno": "0.2.0"}
    )
    merged = merge_reports([base, with_measure(other, "map_50", 0.1, (0.05, 0.15))])
    assert agreements(merged)["map_50"].reasons == (
        "another model file",
        "another model card",
        "VisionDyno 0.1.0 → 0.2.0",
        "onnxruntime 1.31.1 → 1.32.0",
        "opencv-python-headless 4.12.0 → absent",
    )
    reasons = agreements(merged)["latency_p50_ms"].reasons
    assert "another host of the same kind" in reasons
    assert "repeat 1 → 3" in reasons
    assert "scenarios single-stream, offline → single-stream" in reasons


def test_only_the_runs_that_differ_are_blamed(base):
    reports = [base, again(base, LATER, verdict=NOISY), again(base, LATEST, slower=1.5)]
    found = agreements(merge_reports(reports))["latency_p50_ms"]
    assert found.verdict == "apart"
    assert found.reasons == (NO_REASON,)


bounds = st.tuples(st.floats(0.01, 1e3), st.floats(0, 1e3)).map(lambda p: (p[0], p[0] + p[1]))


ONE_MODEL = detector_comparison(rows=(("street-n", 0.431, 8.7, 96.0, 0.38),))


@given(st.lists(bounds, min_size=2, max_size=4))
def test_runs_agree_where_every_two_intervals_overlap(intervals):
    reports = [
        with_measure(
            again(ONE_MODEL, f"2026-11-22T1{place}:00:00+00:00"),
            "latency_p50_ms",
            interval[0],
            interval,
        )
        for place, interval in enumerate(intervals)
    ]
    expected = all(a[0] <= b[1] and b[0] <= a[1] for a in intervals for b in intervals)
    found = agreements(merge_reports(reports))["latency_p50_ms"]
    assert (found.verdict == "overlap") is expected
    assert bool(found.reasons) is not expected


def test_a_side_that_is_not_bounded_is_open(base):
    first = with_measure(base, "latency_p99_ms", 30.0, (25.0, None))
    second = with_measure(again(base, LATER), "latency_p99_ms", 90.0, (80.0, 95.0))
    assert agreements(merge_reports([first, second]))["latency_p99_ms"].verdict == "overlap"
    unbounded = with_measure(again(base, LATER), "latency_p99_ms", 90.0, (None, None))
    found = agreements(merge_reports([first, unbounded]))["latency_p99_ms"]
    assert found.verdict == "unknown"


def test_estimates_are_not_judged():
    base = detector_comparison(energy="estimated")
    merged = merge_reports([base, again(base, LATER)])
    assert agreements(merged)["energy_joules_per_image"].verdict == "unknown"


def test_every_form_tells_the_history(base, tmp_path):
    merged = merge_reports([base, again(base, LATER, slower=1.5, verdict=NOISY)])
    out = io.StringIO()
    print_comparison(merged, Console(file=out, width=400))
    for text in (to_html(merged), to_markdown(merged), out.getvalue()):
        assert "overlap on" in text
        assert "p50 drifted by 12 %" in text
    page = to_html(merged)
    assert 'id="history"' in page
    assert page.count('class="history"') == 3
    assert 'id="history"' not in to_html(base)
    assert "## History" in to_markdown(merged)
    assert "street-s @ 2026-11-22 09:30" in to_csv(merged)
    files = write_report(merged, tmp_path)
    assert read_report(files["json"]) == merged


def test_a_long_history_shows_the_newest_runs(base):
    reports = [base] + [again(base, f"2026-11-22T{hour}:00:00+00:00") for hour in range(10, 20)]
    merged = merge_reports(reports)
    assert len(histories(merged.models)[0].runs) == 11
    page = to_html(merged)
    assert "The newest 8 runs; 3 earlier ones are in report.csv." in page
    assert "11 runs from 2026-11-22 09:30 to 2026-11-22 19:00" in page


def test_the_command_merges_folders(base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_report(base, tmp_path / "a")
    write_report(again(base, LATER, slower=1.5), tmp_path / "b")
    dyno.main(["report", "a", "b/report.json"], standalone_mode=False)
    assert "street-s @ 2026-11-22 10:30" in capsys.readouterr().out
    merged = read_report(tmp_path / "dyno-merged")
    assert len(merged.models) == 6
    assert json.loads((tmp_path / "dyno-merged" / "report.json").read_text())["verdict"]["notes"]
    dyno.main(["report", "a", "--out", "a"], standalone_mode=False)
    assert read_report(tmp_path / "a") == base


def test_the_command_never_replaces_what_it_merges(base, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    write_report(base, first)
    write_report(again(base, LATER), second)
    with pytest.raises(SpecError, match="choose another folder"):
        dyno.main(["report", str(first), str(second), "--out", str(second)], standalone_mode=False)
    assert len(read_report(second).models) == 3


def test_the_command_refuses_other_data(base, tmp_path):
    write_report(base, tmp_path / "a")
    write_report(classifier_comparison(), tmp_path / "b")
    with pytest.raises(SpecError, match="can't be merged"):
        dyno.main(
            ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")],
            standalone_mode=False,
        )
    assert not (tmp_path / "c").exists()
