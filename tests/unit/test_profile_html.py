"""What a profile's page holds."""

import re

import pytest
from markupsafe import escape

from profile_factory import a_profile
from visiondyno.report.charts.operator_times import BETWEEN, icicle, kind_classes, tree_of
from visiondyno.report.profile import cards, limit_text, profile_html


def test_blocks_are_as_wide_as_they_take_long():
    profile = a_profile(inference_ms=100)
    drawn = str(icicle(profile, 1000))
    widths = {}
    for box in re.finditer(r'width="([\d.]+)" height="[\d.]+"><title>([^<]*)</title>', drawn):
        widths.setdefault(box[2].split(":")[0].split(",")[0], float(box[1]))
    by_name = {row.name: row for row in profile.operators}
    for name, row in by_name.items():
        shown = name.replace("<", "&lt;").replace(">", "&gt;")
        assert abs(widths[shown] - 998 * row.ms / 100) < 1
    assert abs(widths[BETWEEN] - 998 * profile.times_ms.between / 100) < 1
    assert abs(widths["inference"] - 998) < 1


def test_a_scope_takes_what_is_inside_it():
    tree = tree_of(a_profile())
    assert [node.name for node in tree.inside.values()] == ["model", "head"]
    model = tree.inside["model"]
    assert [node.name for node in model.inside.values()] == ["0", "1", "2"]
    assert abs(model.ms - sum(node.ms for node in model.inside.values())) < 1e-9


def test_names_without_scopes_are_grouped_by_type():
    tree = tree_of(a_profile(scoped=False))
    names = [node.name.split(".")[0] for node in tree.inside.values()]
    assert names == ["Conv", "Transpose", "Relu", "Mystery<&>"]
    assert "type by type" in profile_html(a_profile(scoped=False))
    assert "module by module" in profile_html(a_profile())


def test_operators_that_took_longer_are_not_called_the_inference():
    slower = a_profile(inference_ms=60)
    drawn = str(icicle(slower, 1000))
    assert f">operators · {slower.times_ms.operators:.1f} ms<" in drawn
    assert "inference" not in drawn


def test_the_page_escapes_names_and_says_what_to_do():
    profile = a_profile()
    page = profile_html(profile)
    assert "head/<mystery>" not in page
    assert "Mystery&lt;&amp;&gt;" in page
    for one in profile.advice:
        assert escape(one.title) in page


def test_a_page_without_peaks_draws_no_roofline():
    page = profile_html(a_profile(gflop_per_s=None, advice=()))
    assert 'id="limits"' not in page
    assert "No figure here asks for anything" in page
    assert "Speed" not in {name for name, _, _ in cards(a_profile(gflop_per_s=None))}


def test_limits_are_said_and_caches_named():
    row = a_profile().operators[0]
    assert (
        limit_text(row.model_copy(update={"limit": "memory", "limit_share": 0.5})) == "memory 50%"
    )
    assert "cache" in limit_text(row.model_copy(update={"limit": "memory", "limit_share": 1.5}))
    faster = limit_text(row.model_copy(update={"limit": "compute", "limit_share": 1.5}))
    assert faster == "compute 150%, above the peak measured"
    assert limit_text(row.model_copy(update={"limit": None, "limit_share": None})) == "–"


def test_work_that_is_not_counted_is_no_zero():
    profile = a_profile()
    told = {name: (text, more) for name, text, more in cards(profile)}
    assert "1.2% of the time aren't counted" in told["Work"][1]  # Mystery<&>
    # The speed is that of what is counted.
    counted_ms = sum(row.ms for row in profile.operators if row.gflop is not None)
    assert profile.counted_gflop_per_s == pytest.approx(1e3 * profile.gflop / counted_ms)
    rows = tuple(row.model_copy(update={"gflop": None}) for row in profile.operators)
    moves = rows[0].model_copy(update={"gflop": 0.0})
    nothing = profile.model_copy(update={"operators": (moves, *rows[1:])})
    told = {name: text for name, text, _ in cards(nothing)}
    assert told["Work"] == "not counted"
    assert "Speed" not in told
    assert nothing.counted_gflop_per_s is None


def test_only_so_many_types_have_colours_of_their_own():
    profile = a_profile()
    kinds = tuple(profile.kinds[0].model_copy(update={"kind": f"k{n}"}) for n in range(12))
    colours = kind_classes(profile.model_copy(update={"kinds": kinds}))
    assert len(set(colours.values())) == 8
    assert colours["k7"] == colours["k11"]
