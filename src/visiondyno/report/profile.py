"""A profile as a page, made from its record alone."""

from collections.abc import Callable

from markupsafe import Markup

from visiondyno.report.charts.operator_times import (
    drawn_operators,
    icicle,
    is_scoped,
    legend_of,
    roofline_plot,
)
from visiondyno.report.figures import NARROW, Figure
from visiondyno.report.format import number, plural
from visiondyno.report.page import render_page
from visiondyno.report.profile_result import OperatorRow, Profile

FULL, ROOFLINE = 1280, 720


def profile_html(profile: Profile) -> str:
    """The self-contained page of a profile."""
    slowest_first = sorted(profile.operators, key=lambda row: -row.ms)
    return render_page(
        "profile.html.j2",
        {
            "p": profile,
            "cards": cards(profile),
            "icicle": _figure(
                *_icicle_words(profile),
                lambda width: icicle(profile, width),
                FULL,
            ),
            "icicle_legend": legend_of(profile, profile.operators),
            "roofline": _roofline(profile),
            "roofline_legend": legend_of(profile, drawn_operators(profile)),
            "rows": slowest_first,
            "name": profile.model.rstrip("/").rsplit("/", 1)[-1],
            "limit_text": limit_text,
            "plural": plural,
        },
    )


def _icicle_words(profile: Profile) -> tuple[str, str]:
    """Title and caption: names without scopes are grouped by type, the longest first."""
    more = "Point at a block for its shapes."
    if is_scoped(profile):
        order = "in the order in which it runs; what is below is inside"
        return "Inference, module by module", f"As wide as it takes long, {order}. {more}"
    order = "types by their time, as the names here say nothing of modules"
    return "Inference, type by type", f"As wide as it takes long; {order}. {more}"


def cards(profile: Profile) -> list[tuple[str, str, str]]:
    """Heading, figure and explanation of what a reader looks for first."""
    times = profile.times_ms
    low, high = times.inference_quartiles
    found = [
        (
            "Inference",
            f"{number(times.inference)} ms",
            (
                f"Half of {plural(profile.runs, 'run')} between {number(low)} and {number(high)} "
                "ms, without a profiler."
            ),
        ),
        (
            "Operators",
            f"{number(times.operators)} ms",
            (
                f"{times.sum_share:.1%} of the inference. With the profiler a run took "
                f"{number(times.profiled)} ms."
            ),
        ),
        (
            "Between operators",
            between_text(profile),
            "What the inference takes beside its operators.",
        ),
        (
            "Work",
            work_text(profile),
            profile.counted_text,
        ),
    ]
    peak, rate = profile.peaks.gflop_per_s, profile.counted_gflop_per_s
    if peak is not None and rate is not None:
        share = f"{rate / peak:.0%} of" if profile.precision == "fp32" else "beside"
        found.append(
            (
                "Speed",
                f"{number(rate)} GFLOP/s",
                f"{share} the {number(peak)} GFLOP/s that this machine computes at best in fp32.",
            )
        )
    found.append(
        (
            "Around it",
            f"{number(times.preprocess)} + {number(times.postprocess)} ms",
            "Preprocessing and postprocessing.",
        )
    )
    return found


def work_text(profile: Profile) -> str:
    """All that is counted, with its unit."""
    return "not counted" if profile.gflop is None else f"{number(profile.gflop)} GFLOP"


def between_text(profile: Profile) -> str:
    """The time between operators, with its unit."""
    between = profile.times_ms.between
    return f"{number(between)} ms" if between > 0 else "nothing measurable"


def limit_text(row: OperatorRow) -> str:
    """What binds an operator, and how near it came; `–` where that is unknown."""
    if row.limit is None or row.limit_share is None:
        return "–"
    reached = f"{row.limit} {row.limit_share:.0%}"
    if row.limit_share <= 1:
        return reached
    return f"{reached}, {'from a cache' if row.limit == 'memory' else 'above the peak measured'}"


def _roofline(profile: Profile) -> Figure | None:
    roofline = profile.peaks.roofline
    if roofline is None or profile.precision != "fp32" or not drawn_operators(profile):
        return None
    return _figure(
        "Operators under this machine's limits",
        "To the left of the bend memory is the limit, to the right computing. A dot's area is its "
        "time. Dots above the slope have their data from a cache.",
        lambda width: roofline_plot(profile, roofline, width),
        ROOFLINE,
    )


def _figure(heading: str, caption: str, draw: Callable[[float], Markup], wide: int) -> Figure:
    return Figure(heading, caption, draw(NARROW), draw(wide))
