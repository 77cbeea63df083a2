"""What each model is, and what was won and lost against the reference, in every form."""

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from comparison_factory import DETECTORS, detector_comparison
from visiondyno.report.against import against_reference
from visiondyno.report.csv import to_csv
from visiondyno.report.html import to_html
from visiondyno.report.markdown import to_markdown
from visiondyno.report.model_facts import count_text, model_facts
from visiondyno.report.terminal import print_comparison


def told(comparison, **facts):
    """The comparison with other facts of its models, by index."""
    models = list(comparison.models)
    for index, changed in facts.items():
        number = int(index.removeprefix("m"))
        description = {**models[number].description, **changed}
        models[number] = models[number].model_copy(update={"description": description})
    return comparison.model_copy(update={"models": tuple(models)})


def quantized_comparison():
    """A detector in fp32 of 4 MiB, and two smaller ones."""
    return told(
        detector_comparison(energy="measured"),
        m0={"precision": "fp32", "file_bytes": 4 * 2**20, "parameters": 1_000_000},
        m1={"precision": "int8", "file_bytes": 2**20, "parameters": 1_004_000},
        m2={"precision": "fp16", "file_bytes": 2 * 2**20, "parameters": 1_000_000},
    )


def cells_of(comparison, index):
    found = against_reference(comparison)
    return dict(zip(found.columns, found.rows[index][1], strict=True))


def test_every_form_says_size_precision_and_parameters():
    comparison = quantized_comparison()
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=100))
    for text in (out.getvalue(), to_html(comparison)):
        assert "int8 · 1.00 MiB" in text
        assert "1.00M parameters" in text
    assert "| street-n | int8 | 1.00 | 1.00M |" in to_markdown(comparison)
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    sizes = {row["name"]: row["value"] for row in rows if row["measure"] == "file_bytes"}
    assert sizes == {"street-s": "4194304", "street-n": "1048576", "nano-416": "2097152"}
    assert {row["model_precision"] for row in rows if row["name"] == "nano-416"} == {"fp16"}


def test_each_model_stands_against_the_reference_with_intervals():
    comparison = quantized_comparison()
    found = against_reference(comparison)
    assert found.reference == comparison.spec.reference
    assert [reference for reference, _ in found.rows] == [
        model.reference for model in comparison.models[1:]
    ]
    cells = cells_of(comparison, 0)
    assert cells["Size ×"].text == "0.250"
    before, after = (model.measures["latency_p50_ms"].value for model in comparison.models[:2])
    assert float(cells["Speed ×"].text) == pytest.approx(before / after, rel=0.01)
    low, high = (float(one) for one in cells["Speed ×"].interval[1:-1].split(", "))
    assert low < before / after < high
    assert not cells["Speed ×"].tie
    value = comparison.models[1].measures["map_50_95"].value
    lost = value - comparison.models[0].measures["map_50_95"].value
    assert float(cells["mAP 50–95"].text.replace("−", "-")) == pytest.approx(lost, abs=1e-3)


def test_a_difference_is_turned_with_its_interval():
    # The reference is the last model: the report's pairs hold it in second place.
    last = DETECTORS[2][0]
    comparison = detector_comparison(reference=detector_comparison().models[2].reference)
    cells = cells_of(comparison, 0)
    assert against_reference(comparison).reference.find(last) >= 0
    low, high = (
        float(one.replace("−", "-")) for one in cells["mAP 50–95"].interval[1:-1].split(", ")
    )
    assert low < float(cells["mAP 50–95"].text.replace("−", "-")) < high


def test_no_difference_has_no_sign():
    comparison = detector_comparison()
    same = tuple(
        one.model_copy(update={"value": 0.0, "interval": (0.0, 0.0), "tie": True})
        for one in comparison.differences
    )
    cell = cells_of(comparison.model_copy(update={"differences": same}), 0)["mAP 50–95"]
    assert (cell.text, cell.interval, cell.tie) == ("0", "[0, 0]", True)


def test_estimated_energy_is_marked_and_has_no_interval():
    cell = cells_of(detector_comparison(energy="estimated"), 0)["Energy ×"]
    assert cell.text.startswith("≈ ")
    assert cell.interval == ""
    assert cell.tie


def test_what_nobody_measured_has_no_column():
    found = against_reference(detector_comparison(energy="absent"))
    assert "Energy ×" not in found.columns


def test_without_a_reference_or_company_there_is_no_table():
    comparison = detector_comparison()
    asked = comparison.spec.model_copy(update={"reference": None})
    assert against_reference(comparison.model_copy(update={"spec": asked})) is None
    assert against_reference(detector_comparison(DETECTORS[:1])) is None


def test_unknown_facts_are_left_out_and_never_0():
    comparison = told(
        detector_comparison(), m1={"file_bytes": 0, "parameters": None, "precision": None}
    )
    assert model_facts(comparison.models[1]).lines() == []
    assert cells_of(comparison, 0)["Size ×"].text == ""
    assert "| street-n | – | – | – |" in to_markdown(comparison)


@given(st.integers(min_value=1, max_value=10**12))
def test_a_count_keeps_three_digits(count):
    text = count_text(count)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1.0)
    value = float(text.rstrip("kMG")) * scale
    assert math.isclose(value, count, rel_tol=0.0051)
    assert len(text) <= 5
