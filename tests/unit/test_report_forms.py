"""JSON, Markdown, CSV, YAML and the console: each form whole, readable and safe."""

import csv
import io
import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from comparison_factory import (
    classifier_comparison,
    detector_comparison,
    failing_comparison,
    many_detectors_comparison,
    merged_comparison,
)
from visiondyno.errors import SpecError
from visiondyno.measurements.measure import MEASURES
from visiondyno.report.csv import COLUMNS, to_csv
from visiondyno.report.format import unit_label
from visiondyno.report.markdown import to_markdown
from visiondyno.report.terminal import print_comparison, render_comparison
from visiondyno.report.write import read_report, write_report
from visiondyno.report.yaml_spec import dump_spec, load_spec
from visiondyno.specs.operations import BenchmarkInput

EVIL = "models/<script>alert(1)</script>|`x`\n=1+1.onnx"


def evil_comparison():
    return detector_comparison(((EVIL, 0.5, 9.0, 90.0, 0.4), ("plain", 0.4, 8.0, 80.0, 0.3)))


def printed(comparison, width=100):
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=width))
    return out.getvalue()


def test_all_forms_are_written_and_json_reads_back(tmp_path):
    comparison = detector_comparison()
    files = write_report(comparison, tmp_path / "new" / "folder")
    assert set(files) == {"html", "json", "md", "csv", "yaml"}
    assert sorted(f.name for f in (tmp_path / "new" / "folder").iterdir()) == [
        "comparison.yaml",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert read_report(files["json"]) == comparison
    assert read_report(files["json"].parent) == comparison
    assert load_spec(files["yaml"]) == comparison.spec
    assert json.loads(files["json"].read_text())["schema"] == "visiondyno.comparison/1"


def test_an_older_report_is_replaced_whole(tmp_path):
    write_report(detector_comparison(), tmp_path)
    files = write_report(classifier_comparison(), tmp_path)
    assert read_report(files["json"]).dataset.task == "classification"
    assert stat.S_IMODE(files["html"].stat().st_mode) == 0o644
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpecError, match="choose another folder with --out"):
        write_report(detector_comparison(), tmp_path / "file")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(SpecError, match="can't be written"):
        write_report(detector_comparison(), tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "isn't JSON"),
        ("[]", "names no schema"),
        ('{"schema": "visiondyno.comparison/0"}', "its schema is 'visiondyno.comparison/0'"),
        ('{"schema": "visiondyno.comparison/1"}', "'visiondyno'"),
    ],
)
def test_a_wrong_report_is_refused_by_name(tmp_path, text, match):
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(SpecError, match=match) as caught:
        read_report(file)
    assert str(file) in caught.value.message


def test_a_missing_report_is_refused(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        read_report(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="isn't JSON"):
        read_report(tmp_path / "binary.json")


specs = st.builds(
    BenchmarkInput,
    models=st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True).map(tuple),
    data=st.text(min_size=1),
    classes=st.none() | st.lists(st.text(), max_size=3).map(tuple),
    region=st.none() | st.sampled_from(["NO", "FRA", "on", "y", "null", "~"]),
    price=st.none() | st.sampled_from(["0.40", "A4000", "1e3"]),
    threads=st.none() | st.integers(1, 9),
    duration_s=st.floats(0.5, 3600),
)


@given(specs)
def test_yaml_reads_back_to_the_same_request(tmp_path_factory, spec):
    file = tmp_path_factory.getbasetemp() / "comparison.yaml"
    file.write_text(dump_spec(spec), encoding="utf-8")
    assert load_spec(file) == spec


def test_yaml_written_by_hand_means_what_it_says(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("models: [a.onnx]\ndata: d\nregion: NO\nprice: 0.4\nskip_bad: true\n")
    spec = load_spec(file)
    assert spec.region == "NO"
    assert spec.price == "0.4"
    assert spec.skip_bad is True


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("models: [a]\n", "'data': Field required"),
        ("models: []\ndata: d\n", "'models'"),
        ("models: [a]\ndata: d\nduration: 3\n", "'duration': Extra inputs"),
        ("models: [a]\ndata: d\ndata: e\n", "line 3: the key 'data' stands twice"),
        ("models: [a\n", "isn't valid YAML at line"),
        ("- a\n", "holds no 'key: value' lines"),
        ("", "holds no 'key: value' lines"),
        ("models: !!python/object:os.system [a]\n", "isn't valid YAML"),
        ("? [1, 2]\n: x\n", "'"),
    ],
)
def test_bad_yaml_names_file_and_place(tmp_path, text, match):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=match) as caught:
        load_spec(file)
    assert "c.yaml" in caught.value.message


def test_unreadable_yaml_is_refused(tmp_path):
    with pytest.raises(SpecError, match="No such file"):
        load_spec(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_spec(tmp_path / "binary.yaml")


def test_csv_has_every_measure_in_full_precision():
    comparison = detector_comparison()
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert tuple(rows[0]) == COLUMNS
    for model in comparison.models:
        found = {
            row["measure"]: row
            for row in rows
            if row["model"] == model.reference and row["scope"] == "all"
        }
        assert set(found) == set(model.measures)
        for name, measure in model.measures.items():
            text = found[name]["value"]
            assert (float(text) if text else None) == measure.value
            assert found[name]["estimated"] == str(measure.estimated).lower()
    scopes = {row["scope"] for row in rows}
    assert {"class car", "scenario single-stream", "early stopping single-stream"} <= scopes
    gap = next(row for row in rows if row["measure"] == "peak_vram_bytes")
    assert gap["value"] == ""
    assert gap["reason"] == "no NVIDIA GPU"


def test_a_spreadsheet_runs_no_formula_from_a_name():
    comparison = detector_comparison((("=HYPERLINK(1)", 0.5, 9.0, 90.0, 0.4),))
    model = comparison.models[0].model_copy(update={"reference": "=HYPERLINK(1)"})
    rows = csv.reader(io.StringIO(to_csv(comparison.model_copy(update={"models": (model,)}))))
    assert all(cell[:1] not in "=+@" or not cell for row in rows for cell in row[:4])


def test_markdown_tells_the_whole_story():
    text = to_markdown(detector_comparison())
    for part in ("## Winners", "## Results", "## Differences", "## Every measure", "## Reproduce"):
        assert part in text
    assert "| Best overall | **street-n** |" in text
    assert "≈ 0.910" in text
    assert "no winner" in text
    assert "80 unnamed classes: assumed COCO" in text
    noisy = to_markdown(failing_comparison())
    assert "not quiet" in noisy
    assert "| llama2\\_70b | task | a text model, not a vision model |" in noisy
    assert "2 bad images were skipped" in noisy
    assert "## Winners" not in noisy


def test_markdown_tables_have_one_shape_whatever_a_model_is_called():
    text = to_markdown(evil_comparison())
    assert "<script>" not in text.split("## Reproduce")[0]
    for block in text.split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("| "):
            columns = {line.replace("\\|", "").count("|") for line in lines}
            assert len(columns) == 1, block


def test_nothing_measured_still_makes_a_report(tmp_path):
    empty = failing_comparison().model_copy(
        update={"models": (), "pareto": (), "green_reference": None}
    )
    assert "No model could be measured" in to_markdown(empty)
    assert "Left out" in printed(empty)
    assert "No model could be measured" in write_report(empty, tmp_path)["html"].read_text()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize(
    "make",
    [detector_comparison, many_detectors_comparison, classifier_comparison, merged_comparison],
)
def test_the_console_table_fits(make, width):
    text = printed(make(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "mAP" in text or "Top-1" in text
    assert "Best overall" in text
    # The last heading's unit, or the title of one without: a column cut off would lose it.
    heading = text[: text.index("──")].split("\n")[-2].split()
    assert set(heading) <= {"Model", *" ".join(map(unit_label, MEASURES)).split()}
    assert "…" not in text.split("Best overall")[0] or make in (
        many_detectors_comparison,
        merged_comparison,
    )


def test_the_console_says_ties_gaps_and_noise():
    assert "(tie)" in printed(classifier_comparison())
    assert "No winner: energy is only estimated" in printed(detector_comparison())
    noisy = printed(failing_comparison())
    assert "broken.onnx (load)" in noisy
    assert "other processes used 34 % of a core" in noisy
    assert "2 bad images were skipped" in noisy


def test_markup_in_a_name_is_not_styled():
    name = "[red]x.onnx"
    out = io.StringIO()
    Console(file=out, width=120).print(
        render_comparison(detector_comparison(((name, 0.5, 9.0, 90.0, 0.4),)))
    )
    assert name in out.getvalue()


def test_every_named_measure_is_in_a_group():
    from visiondyno.report.layout import GROUPS, MAIN_MEASURES

    grouped = [name for _, names in GROUPS for name in names]
    assert sorted(grouped) == sorted(MEASURES)
    assert set(MAIN_MEASURES) <= set(MEASURES)
