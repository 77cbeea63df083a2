"""What the terminal shows of a load test while it runs."""

import io

import pytest
from rich.console import Console

from visiondyno.cli.loadtest_display import LatestSeconds, LoadTestDisplay, figures, view
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.run import RunProgress


def progress(elapsed_s, begun, *, failed=0, latencies=(), total=300):
    return Progress(elapsed_s, total, begun, begun - failed, failed, tuple(latencies))


def text_of(renderable, width=100):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue()


def test_rate_and_percentiles_are_of_the_last_seconds():
    latest = LatestSeconds()
    for second in range(21):
        # Ten a second for 10 s, then forty; and then they take longer.
        begun = 10 * min(second, 10) + 40 * max(0, second - 10)
        latest.add(progress(second, begun, latencies=[5.0 if second <= 10 else 80.0]))
    assert latest.rate_per_s == 40
    assert set(latest.latencies_ms) == {80.0}


def test_the_first_moment_has_no_rate():
    latest = LatestSeconds()
    latest.add(progress(0.1, 1))
    assert latest.rate_per_s is None
    assert figures(progress(0.1, 1), latest) == ["0.100 s", "1 good"]


def test_a_new_round_forgets_the_one_before():
    latest = LatestSeconds()
    latest.add(progress(9.0, 90, latencies=[5.0]))
    latest.add(progress(0.5, 5, latencies=[7.0]))
    assert latest.latencies_ms == [7.0]


def test_off_a_terminal_there_is_a_line_for_each_stage_and_now_and_then():
    out = io.StringIO()
    with LoadTestDisplay(Console(file=out, width=120)) as display:
        display.show(RunProgress("reaching", "detector"))
        for second in range(26):
            at = progress(float(second), 10 * second, failed=min(second, 2), latencies=[5.0])
            display.show(RunProgress("round 1 of 2", "detector", at))
        display.show(RunProgress("pausing"))
        display.say("that's it [bold]")
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["reaching: detector", "round 1 of 2: detector"]
    assert len(lines) == 6
    assert lines[2] == (
        "  10.0 s, 10.0 requests/s, 98 good, 2 failed, last 5 s: p50 5.00 ms, p99 5.00 ms"
    )
    assert lines[3].startswith("  20.0 s")
    assert lines[4:] == ["pausing", "that's it [bold]"]


@pytest.mark.parametrize("width", [50, 100])
def test_the_view_fits_and_tells_counts(width):
    latest = LatestSeconds()
    at = RunProgress("round 1 of 1", "detector", progress(3.0, 30, latencies=[5.0]))
    latest.add(at.progress)
    text = text_of(view(at, figures(at.progress, latest), width), width)
    assert "30/300" in text
    assert "p99 5.00 ms" in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_round_of_unknown_length_has_no_bar():
    at = RunProgress("round 1 of 1", "x", progress(3.0, 30, total=None))
    assert text_of(view(at, [], 80)).strip() == "round 1 of 1: x"
    assert text_of(view(RunProgress("pausing"), [], 80)).strip() == "pausing"


def test_on_a_terminal_it_moves():
    out = io.StringIO()
    console = Console(file=out, width=100, height=20, force_terminal=True)
    with LoadTestDisplay(console) as display:
        display.show(RunProgress("round 1 of 1", "detector", progress(3.0, 30, latencies=[5.0])))
        display.say("a line that stays")
    assert "a line that stays" in out.getvalue()
    assert "30/300" in out.getvalue()
