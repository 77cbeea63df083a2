"""Scenarios in the report: ours beside LoadGen's, nothing where the main table has it all."""

import csv
import io
import re
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from comparison_factory import depth_comparison, detector_comparison, scenario_comparison
from visiondyno.report.charts.latency import scenario_ecdf
from visiondyno.report.csv import to_csv
from visiondyno.report.html import to_html
from visiondyno.report.layout import data_name, display_names, headline, main_measures, subtitle
from visiondyno.report.markdown import to_markdown
from visiondyno.report.scenarios import scenario_tables
from visiondyno.report.terminal import print_comparison


@pytest.fixture(scope="module")
def comparison():
    return scenario_comparison()


def tables(comparison):
    found = scenario_tables(comparison.models, display_names(comparison.models))
    return {table.scenario: table for table in found}


def printed(comparison, width):
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=width))
    return out.getvalue()


def test_single_stream_and_offline_alone_are_in_the_main_table_already():
    plain = detector_comparison()
    assert tables(plain) == {}
    assert 'id="scenarios"' not in to_html(plain)
    assert "## Scenarios" not in to_markdown(plain)
    assert "Scenario" not in printed(plain, 100)


def test_loadgen_beside_a_main_scenario_is_shown():
    plain, loaded = detector_comparison(), scenario_comparison()
    kept = ("single-stream", "single-stream by LoadGen")
    models = tuple(
        model.model_copy(update={"scenarios": {name: full.scenarios[name] for name in kept}})
        for model, full in zip(plain.models, loaded.models, strict=True)
    )
    assert list(tables(plain.model_copy(update={"models": models}))) == ["single-stream"]


def test_scenarios_stand_in_mlperfs_order(comparison):
    assert list(tables(comparison)) == ["single-stream", "multi-stream", "server", "offline"]


def test_each_model_has_its_figures_bound_loadgens_and_the_ratio(comparison):
    server = tables(comparison)["server"]
    kinds = [(row.reference.split(":")[1], row.kind) for row in server.rows]
    assert kinds == [
        *(("street-s", kind) for kind in ("ours", "bound", "loadgen", "ratio")),
        *(("street-n", kind) for kind in ("ours", "bound", "loadgen", "ratio")),
        ("nano-416", "ours"),
    ]
    verdicts = [row.verdict for row in server.rows if row.kind == "loadgen"]
    assert verdicts == ["VALID", "INVALID"]


def test_the_ratio_is_ours_over_theirs(comparison):
    model = comparison.models[0]
    ours = model.scenarios["server"].measures["latency_p99_ms"].value
    theirs = model.scenarios["server by LoadGen"].measures["latency_p99_ms"].value
    table = tables(comparison)["server"]
    ratio = next(row for row in table.rows if row.kind == "ratio")
    shown = float(ratio.cells[table.columns.index("latency_p99_ms")][0])
    assert shown == pytest.approx(ours / theirs, abs=5e-4)


def test_queries_are_counted_not_images(comparison):
    model = comparison.models[0]
    count = len(model.scenarios["multi-stream"].samples_ms)
    ours = next(row for row in tables(comparison)["multi-stream"].rows if row.kind == "ours")
    assert ours.n == f"{count:,}"


def test_a_rate_that_was_not_found_has_its_reason_and_no_zero(comparison):
    server = tables(comparison)["server"]
    row = next(row for row in server.rows if row.reference == "visiondyno:nano-416")
    assert set(row.cells) == {("", "")}
    assert any("nano-416: no rate: no rate keeps p99 within 60 ms" in note for note in server.notes)
    assert any(note.startswith("street-s and street-n: rate:") for note in server.notes)


def test_every_form_shows_the_scenarios(comparison):
    page, text = to_html(comparison), to_markdown(comparison)
    assert 'id="scenarios"' in page
    assert page.count('class="scenario"') == 4
    assert "INVALID" in page
    assert "no rate keeps p99 within 60 ms" in page
    for heading in ("### single-stream", "### multi-stream", "### server", "### offline"):
        assert heading in text
    scopes = {row["scope"] for row in csv.DictReader(io.StringIO(to_csv(comparison)))}
    assert {"scenario server", "scenario server by LoadGen", "early stopping server"} <= scopes


def test_markdown_tables_keep_their_shape(comparison):
    for block in to_markdown(comparison).split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("| "):
            assert len({line.replace("\\|", "").count("|") for line in lines}) == 1, block


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_console_table_fits(comparison, width):
    text = printed(comparison, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "LoadGen: INVALID" in text
    assert "ours ÷ LoadGen" in text


def test_early_stopping_of_other_scenarios_is_not_called_single_stream(comparison):
    latency = to_html(comparison).split('id="latency"')[1].split("<section")[0]
    assert latency.count("Latency p90</td>") == 3
    assert "Latency p99</td>" not in latency


def test_the_scenario_plots_share_an_axis_and_show_the_limit(comparison):
    limited = str(scenario_ecdf(comparison.models, "server", 60.0, 560))
    assert "limit 60.0 ms" in limited
    ticks = [
        re.findall(r'class="tick"[^>]*middle">([^<]+)<', str(drawing))
        for drawing in (
            limited,
            scenario_ecdf(comparison.models, "single-stream", None, 560),
        )
    ]
    assert ticks[0] == ticks[1]
    assert limited.count('class="curve') == 2


def test_a_latency_of_zero_can_be_drawn(comparison):
    model = comparison.models[0]
    server = model.scenarios["server"].model_copy(update={"samples_ms": (0.0, 1.0, 5.0)})
    model = model.model_copy(update={"scenarios": {"server": server}})
    svg = ET.fromstring(scenario_ecdf((model,), "server", None, 350))
    xs = [float(p.split(",")[0]) for n in svg.iter() for p in n.get("points", "").split()]
    assert min(xs) >= 44 - 1e-6
    assert max(xs) <= 350


def test_depth_models_show_their_own_accuracies():
    depth = depth_comparison()
    assert main_measures(depth)[:3] == ["abs_rel", "rmse", "delta1"]
    assert "accuracy" not in main_measures(depth)
    assert headline(depth) == "2 depth models on rooms:demo"
    assert subtitle(depth).startswith("128 images · ")
    page = to_html(depth)
    assert "From left to right: image, predicted depth, true depth." in page
    assert "AbsRel 0.30" in page
    assert "gallery broad" in page
    assert 'id="show-missed"' not in page
    assert {d.measure for d in depth.differences} >= {"abs_rel", "rmse", "delta1"}
    accuracy = next(d for d in depth.differences if d.measure == "accuracy")
    assert accuracy.method.startswith("paired")


def test_main_accuracies_follow_the_task(comparison):
    assert main_measures(comparison)[:3] == ["map_50_95", "map_50", "f1"]
    other = comparison.model_copy(
        update={"dataset": comparison.dataset.model_copy(update={"task": "other"})}
    )
    assert main_measures(other)[0] == "accuracy"


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("/data/sets/coco128", "coco128"),
        ("sets/coco128/", "coco128"),
        ("C:\\sets\\coco128", "coco128"),
        ("street:demo", "street:demo"),
        ("digits", "digits"),
        ("..", ".."),
        ("/", "/"),
    ],
)
def test_a_headline_shows_the_last_part_of_a_path(reference, shown):
    assert data_name(reference) == shown


def test_the_whole_path_stays_where_it_is_needed(comparison):
    path = "/data/sets/coco128"
    moved = comparison.model_copy(
        update={
            "dataset": comparison.dataset.model_copy(update={"reference": path}),
            "spec": comparison.spec.model_copy(update={"data": path}),
        }
    )
    page = to_html(moved)
    assert path not in page.split("<h1>")[1].split("</h1>")[0]
    assert f"data: {path}" in page.split('id="reproduce"')[1]
