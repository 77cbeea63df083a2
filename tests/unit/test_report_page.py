"""The HTML report and its plots: self-contained, escaped, nothing clipped."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comparison_factory import (
    classifier_comparison,
    depth_comparison,
    detector_comparison,
    failing_comparison,
    many_detectors_comparison,
    merged_comparison,
    scenario_comparison,
)
from visiondyno.report import figures
from visiondyno.report.charts.accuracy import confusion_heatmap
from visiondyno.report.charts.latency import latency_ecdf, latency_ridges
from visiondyno.report.comparison import ConfusionMatrix
from visiondyno.report.html import to_html
from visiondyno.report.layout import display_names
from visiondyno.report.plots import Canvas, fit_scale, linear_ticks, log_ticks, tick_label

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What a browser would see: tags, their attributes and ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))


def every_svg(text):
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]


COMPARISONS = {
    "scenarios": scenario_comparison,
    "depth": depth_comparison,
    "merged": merged_comparison,
    "detectors": detector_comparison,
    "many": many_detectors_comparison,
    "classifiers": classifier_comparison,
    "failing": failing_comparison,
}


@pytest.mark.parametrize("make", COMPARISONS.values(), ids=COMPARISONS)
def test_nothing_is_fetched(make):
    for tag, attributes in Page(to_html(make())).attributes:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")), (tag, value)
        assert tag not in {"link", "iframe", "object", "embed", "base"}


def test_only_our_script_may_run():
    text = to_html(detector_comparison())
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"&#39;sha256-{digest}&#39;" in text
    assert "default-src &#39;none&#39;" in text


def test_hostile_names_are_shown_not_run():
    base = detector_comparison()
    box = base.models[0].worst_images[0].true_boxes[0].model_copy(update={"label": EVIL})
    image = (
        base.models[0]
        .worst_images[0]
        .model_copy(
            update={"image": EVIL, "caption": EVIL, "jpeg_base64": '"><b>', "true_boxes": (box,)}
        )
    )
    confusion = base.models[0].confusion.model_copy(
        update={"labels": (EVIL, "b", "c", "d", "background")}
    )
    model = base.models[0].model_copy(
        update={
            "name": EVIL,
            "notes": (EVIL,),
            "description": {EVIL: EVIL, "card": {EVIL: [EVIL]}},
            "worst_images": (image,),
            "confusion": confusion,
            "per_class": {EVIL: base.models[0].per_class["car"]},
        }
    )
    hostile = base.model_copy(
        update={
            "models": (model, *base.models[1:]),
            "notes": (EVIL,),
            "dataset": base.dataset.model_copy(
                update={"reference": EVIL, "classes": {EVIL: 3, "car": 2}}
            ),
            "verdict": base.verdict.model_copy(update={"quiet": False, "reasons": (EVIL,)}),
            "spec": base.spec.model_copy(update={"data": EVIL}),
        }
    )
    text = to_html(hostile)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert not any("onerror" in attributes for _, attributes in page.attributes)
    assert text.count("&lt;script&gt;") > 10


@pytest.mark.parametrize("make", COMPARISONS.values(), ids=COMPARISONS)
def test_plots_are_well_formed_and_labelled(make):
    text = to_html(make())
    svgs = every_svg(text)
    assert len(svgs) > 10
    for svg in svgs:
        assert svg.get("aria-label") or svg.get("aria-hidden") == "true"
        for node in svg.iter():
            for value in node.attrib.values():
                assert "nan" not in value.lower().split()
                assert "inf" not in value.lower().split()


def test_the_sections_are_there():
    text = to_html(detector_comparison())
    ids = {attributes.get("id") for _, attributes in Page(text).attributes}
    expected = (
        "winners results trade-offs latency accuracy images resources differences environment "
        "method reproduce"
    )
    assert set(expected.split()) <= ids
    links = {a["href"][1:] for t, a in Page(text).attributes if t == "a" and a["href"][0] == "#"}
    assert links <= ids


def test_a_failed_comparison_says_what_is_missing():
    text = to_html(failing_comparison())
    assert "The machine was not quiet." in text
    assert "a text model, not a vision model" in text
    assert "box outside the image" in text
    assert "nothing to rank" in text
    assert "RAPL isn&#39;t readable" in text
    assert 'id="trade-offs"' not in text


def test_tables_have_headers_with_scope():
    for tag, attributes in Page(to_html(many_detectors_comparison())).attributes:
        if tag == "th":
            assert attributes.get("scope") in {"col", "row", "rowgroup"}


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=30),
    st.sampled_from([True, False, None]),
    st.booleans(),
)
def test_scales_hold_every_value(values, log, from_zero):
    scale = fit_scale(values, 10, 300, log=log, from_zero=from_zero)
    for value in values:
        assert 10 - 1e-6 <= scale(value) <= 300 + 1e-6
    ticks = scale.ticks(6)
    assert ticks == sorted(set(ticks))
    assert all(scale.low * (1 - 1e-9) - 1e-9 <= t <= scale.high * (1 + 1e-9) + 1e-9 for t in ticks)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_linear_ticks_are_few_and_even(low, width, count):
    ticks = linear_ticks(low, low + width, count)
    assert 1 <= len(ticks) <= count + 2
    gaps = np.diff(ticks)
    assert np.allclose(gaps, gaps[:1], rtol=1e-4)


@given(st.floats(1e-4, 1e4), st.floats(1.5, 1e6))
def test_log_ticks_are_readable(low, ratio):
    ticks = log_ticks(low, low * ratio, 5)
    assert 1 <= len(ticks) <= 12
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)


def test_a_range_between_two_round_values_has_ticks():
    assert linear_ticks(1.0, 400402.0, 2)


def test_tick_labels_have_the_decimals_they_need():
    assert [tick_label(v, 0.05) for v in (0.5, 0.55)] == ["0.50", "0.55"]
    assert tick_label(-5, 5) == "−5"
    assert tick_label(1500, 500) == "1,500"


def test_the_slowest_query_is_inside_the_plot():
    comparison = detector_comparison()
    model = comparison.models[0]
    scenario = model.scenarios["single-stream"]
    slow = scenario.model_copy(update={"samples_ms": (*scenario.samples_ms, 9000.0)})
    models = (model.model_copy(update={"scenarios": {"single-stream": slow}}),)
    names = display_names(models)
    for drawing in (latency_ridges(models, names, 560), latency_ecdf(models, 560)):
        svg = ET.fromstring(drawing)
        xs = [
            float(pair.split(",")[0])
            for node in svg.iter()
            for pair in node.get("points", "").split()
        ]
        assert min(xs) >= 0
        assert max(xs) <= 560
    assert "slowest 9,000 ms" in latency_ridges(models, names, 560)


def test_a_large_confusion_matrix_keeps_every_count():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (40, 40))
    labels = (*(f"c{i}" for i in range(39)), "background")
    matrix = ConfusionMatrix(labels=labels, counts=tuple(tuple(map(int, row)) for row in counts))
    svg = confusion_heatmap("m", matrix, 560)
    total = sum(
        int(n.replace(",", "")) for n in re.findall(r"predicted [^:]+: ([\d,]+) \(", str(svg))
    )
    assert total == counts.sum()
    assert "others" in svg
    assert "background" in svg


def test_an_empty_row_of_a_confusion_matrix_is_drawn():
    matrix = ConfusionMatrix(labels=("a", "b"), counts=((0, 0), (1, 2)))
    assert "true a, predicted b: 0 (0%)" in confusion_heatmap("m", matrix, 350)


def test_texts_on_a_canvas_are_escaped():
    canvas = Canvas(10, 10, EVIL)
    canvas.text(0, 0, EVIL)
    canvas.rect((0, 0, 1, 1), "x", EVIL)
    canvas.area([(0, 0)], "x", EVIL)
    canvas.marker(0, 0, 3, EVIL)
    assert [node.tag.split("}")[-1] for node in ET.fromstring(canvas.svg()).iter()].count(
        "script"
    ) == 0


def test_models_without_samples_or_curves_leave_those_plots_out():
    base = detector_comparison()
    bare = tuple(
        m.model_copy(
            update={
                "scenarios": {},
                "precision_recall": None,
                "per_class": {},
                "confusion": None,
                "measures": {"accuracy": m.measures["accuracy"]},
            }
        )
        for m in base.models
    )
    comparison = base.model_copy(update={"models": bare, "pareto": (), "differences": ()})
    assert figures.latency_figures(comparison) == []
    assert figures.accuracy_figures(comparison) == []
    assert figures.confusion_figures(comparison) == []
    assert figures.bar_figures(comparison) == []
    text = to_html(comparison)
    assert 'id="latency"' not in text
    assert 'id="results"' in text
