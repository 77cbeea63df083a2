"""Numbers for people: digits, units, intervals, estimates and gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.measurements.measure import measured, not_measured
from visiondyno.report.format import (
    bytes_text,
    interval_text,
    measure_text,
    number,
    plural,
    shorten,
    signed_text,
    title,
    unit_label,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.3384, "0.338"),
        (0.5, "0.500"),
        (12.34, "12.3"),
        (9.996, "10.0"),
        (99.96, "100"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (0.00012345, "0.000123"),
        (0.00000012, "1.20e-07"),
        (-0.5, "−0.500"),
        (float("nan"), "–"),
    ],
)
def test_three_significant_digits(value, text):
    assert number(value) == text


@given(st.floats(1e-4, 1e9))
def test_what_is_shown_is_within_half_a_percent(value):
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_units_are_peoples():
    memory = measured("peak_rss_bytes", 71 * 2**20, "VmHWM")
    assert measure_text("peak_rss_bytes", memory) == "71.0 MiB"
    assert measure_text("accuracy", measured("accuracy", 0.338, "coco")) == "0.338"
    assert unit_label("latency_p90_ms") == "ms"
    assert title("map_50_95") == "mAP 50–95"
    assert title("some_other") == "some other"
    assert bytes_text(8 * 2**30) == "8.00 GiB"
    assert bytes_text(3_700_000) == "3.53 MiB"
    assert signed_text("f1", 0.25) == "+0.250"
    assert signed_text("f1", -0.25) == "−0.250"


def test_intervals_show_both_ends():
    assert interval_text("latency_p50_ms", (21.13, 21.37)) == "[21.13, 21.37]"
    assert interval_text("accuracy", (0.301, 0.372)) == "[0.301, 0.372]"
    assert interval_text("latency_p99_ms", (20.0, None)) == "[20.0, ?]"
    assert interval_text("f1", (None, None)) == ""
    assert interval_text("f1", None) == ""
    assert interval_text("peak_rss_bytes", (2**20, 2**21)) == "[1.00, 2.00]"


def test_estimates_and_gaps_are_said():
    guess = measured("energy_joules_per_image", 0.5, "assumed", estimated=True)
    assert measure_text("energy_joules_per_image", guess) == "≈ 0.500 J/image (estimated)"
    gap = not_measured("peak_vram_bytes", "no NVIDIA GPU")
    assert measure_text("peak_vram_bytes", gap) == "not measured: no NVIDIA GPU"
    assert measure_text("f1", None) == "not measured"


@given(st.text(max_size=60), st.integers(3, 20))
def test_shortening_keeps_both_ends(text, length):
    short = shorten(text, length)
    assert len(short) <= max(length, 0) or short == text
    assert short[:1] == text[:1]
    assert short[-1:] == text[-1:]


def test_plurals():
    assert [plural(1, "image"), plural(2, "class"), plural(1200, "image")] == [
        "1 image",
        "2 classes",
        "1,200 images",
    ]
