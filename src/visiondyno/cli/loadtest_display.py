"""A load test as it runs, on standard error."""

import threading
from collections import deque
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from visiondyno.cli.display import LiveView
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.run import RunProgress
from visiondyno.measurements.percentiles import percentile
from visiondyno.report.format import number

LATEST_S = 5.0
"""Rate and percentiles are of so many seconds."""

_LINE_EVERY_S = 10.0
_NARROW = 70


class LatestSeconds:
    """Rate and latencies of the last seconds of a round."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, int, tuple[float, ...]]] = deque()

    def add(self, progress: Progress) -> None:
        """What was told now; a round that began anew forgets the one before."""
        if self._told and progress.elapsed_s < self._told[-1][0]:
            self._told.clear()
        self._told.append((progress.elapsed_s, progress.begun, progress.latencies_ms))
        while self._told[0][0] < progress.elapsed_s - LATEST_S:
            self._told.popleft()

    @property
    def rate_per_s(self) -> float | None:
        """Requests begun a second; None at the very begin."""
        (begin_s, before, _), (end_s, after, _) = self._told[0], self._told[-1]
        return (after - before) / (end_s - begin_s) if end_s > begin_s else None

    @property
    def latencies_ms(self) -> list[float]:
        """Of the good answers."""
        return [ms for _, _, latencies in self._told for ms in latencies]


class LoadTestDisplay(LiveView):
    """Two lines that move on a terminal, and a line now and then elsewhere.

    Use as a context manager around the test; `show` may be called from any thread.

    Args:
        console: to draw on; None: standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._lock = threading.Lock()
        self._at = RunProgress("")
        self._latest = LatestSeconds()
        self._next_line_s = 0.0
        super().__init__(console)

    def show(self, at: RunProgress) -> None:
        """What the test is at."""
        with self._lock:
            is_new = (at.stage, at.target) != (self._at.stage, self._at.target)
            self._at = at
            if is_new:
                self._latest = LatestSeconds()
                self._next_line_s = _LINE_EVERY_S
            if at.progress is not None:
                self._latest.add(at.progress)
            line = self._line(is_new)
        if line and not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, is_new: bool) -> str:
        at = self._at
        if is_new:
            return heading(at)
        if at.progress is None or at.progress.elapsed_s < self._next_line_s:
            return ""
        self._next_line_s += _LINE_EVERY_S
        return "  " + ", ".join(figures(at.progress, self._latest))

    def _now(self) -> RenderableType:
        with self._lock:
            at = self._at
            shown = figures(at.progress, self._latest) if at.progress is not None else []
        return view(at, shown, self._console.width)


def heading(at: RunProgress) -> str:
    """Stage and target."""
    return f"{at.stage}: {at.target}" if at.target else at.stage


def figures(progress: Progress, latest: LatestSeconds) -> list[str]:
    """What is told of a round while it runs."""
    rate = latest.rate_per_s
    found = [f"{number(progress.elapsed_s)} s"]
    found += [f"{number(rate)} requests/s"] if rate is not None else []
    found.append(f"{progress.good:,} good")
    found += [f"{progress.failed:,} failed"] if progress.failed else []
    latencies = latest.latencies_ms
    if latencies:
        p50, p99 = (number(percentile(latencies, q)) for q in (0.5, 0.99))
        found.append(f"last {LATEST_S:.0f} s: p50 {p50} ms, p99 {p99} ms")
    return found


def view(at: RunProgress, shown: Sequence[str], width: int) -> RenderableType:
    """The display at one moment."""
    first = Table.grid(padding=(0, 1))
    title = Text(heading(at), style="bold", overflow="ellipsis", no_wrap=True)
    progress = at.progress
    if progress is None or not progress.total:
        first.add_row(title)
    else:
        bar = ProgressBar(
            total=progress.total, completed=progress.good + progress.failed,
            width=min(24, max(8, width // 4)),
        )  # fmt: skip
        count = Text(f"{progress.good + progress.failed:,}/{progress.total:,}", no_wrap=True)
        first.add_row(title, bar, count)
    if not shown:
        return first
    if width < _NARROW:
        return Group(first, *[Text(part, overflow="ellipsis", no_wrap=True) for part in shown])
    return Group(first, Text(", ".join(shown), overflow="ellipsis", no_wrap=True))
