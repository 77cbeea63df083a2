"""A study as it runs, on standard error."""

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from visiondyno.cli.display import LiveView
from visiondyno.report.format import number, plural, shorten
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.progress import AggregatedProgress, ProgressBoard
from visiondyno.tuning.running import RunningTrial
from visiondyno.tuning.trial import Failure, State, TrialRecord

_WIDE = 100
"""Columns of a terminal from which on running trials show their parameters."""
_NARROW = 64
"""Columns below which the time has a line of its own."""
_FEWEST_CHARACTERS = 7
_MOST_FRONT = 5
_MOST_CAUSES = 4
_MOST_LANES = 8


class TuningDisplay(LiveView):
    """The study's progress, redrawn four times a second; a line for each trial that ended.

    What a place fails by gets a line too, once, when a trial is to be tried again for it.

    Where standard error is no terminal there are the lines alone. Use as a context manager around
    the study.

    Args:
        board: of the study.
        objectives: of the study.
        title: of the display.
        console: to draw on; None: standard error.
    """

    def __init__(
        self,
        board: ProgressBoard,
        objectives: Sequence[Objective],
        title: str,
        console: Console | None = None,
    ) -> None:
        self._board = board
        self._names = [objective.name for objective in objectives]
        self._title = title
        super().__init__(console)
        self._lock = threading.Lock()
        self._told_of: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        self._board.subscribe(self._tell, "the terminal's display")
        return super().__enter__()

    def _now(self) -> RenderableType:
        return study_view(self._board.progress(), self._names, self._title, self._console)

    def _tell(self, progress: AggregatedProgress) -> None:
        record = None if progress.change is None else progress.change.record
        if record is None:
            return
        if record.state.has_ended:
            line = ended_line(record, progress, self._names)
        elif record.state is State.QUEUED and record.failures and self._is_new(record.failures[-1]):
            line = again_line(record)
        else:
            return
        with self._lock:
            self._console.print(line, soft_wrap=True)

    def _is_new(self, failure: Failure) -> bool:
        """Whether this place hasn't failed like this before: a thousand 429s are told once."""
        told = (failure.where, failure.cause)
        is_new = told not in self._told_of
        self._told_of.add(told)
        return is_new


def again_line(record: TrialRecord) -> Text:
    """Why a trial is tried again, in a line: nobody shall wait and not know for what."""
    failure = record.failures[-1]
    line = Text(f"trial {record.number:>3}  again      ", style="yellow")
    return line.append(f"{failure.message} ({failure.code}, on {failure.where})")


def ended_line(record: TrialRecord, progress: AggregatedProgress, names: Sequence[str]) -> Text:
    """What became of a trial, in a line."""
    count = f"{progress.ended_trials}/{progress.total_trials}"
    line = Text(f"trial {record.number:>3}  {record.state:<9}  ", style=_STYLES[record.state])
    if record.state is State.COMPLETED:
        line.append(_values(dict(zip(names, record.values, strict=False))))
        if any(record.number == best.number for best in progress.front):
            line.append("  best so far" if len(names) == 1 else "  on the front", style="bold")
    elif record.state is State.PRUNED:
        line.append(str(record.measured.get("pruned", "")))
    elif record.failures:
        failure = record.failures[-1]
        line.append(f"{failure.message} ({failure.code}, on {failure.where})")
    rest = [count]
    if record.duration_s is not None:
        rest.insert(0, _span(record.duration_s))
    line.append(f"  [{', '.join(rest)}]", style="dim")
    return line


_STYLES = {
    State.QUEUED: "",
    State.RUNNING: "",
    State.COMPLETED: "",
    State.PRUNED: "dim",
    State.FAILED: "red",
}


def study_view(
    progress: AggregatedProgress, names: Sequence[str], title: str, console: Console
) -> RenderableType:
    """The display at one moment, as wide as the console and no higher."""
    width = console.width
    parts: list[RenderableType] = [_head(progress, title, width)]
    parts += _best(progress, names)
    below = [*_lanes(progress.lanes, width), *_failures(progress), _foot(progress)]
    taken = sum(len(console.render_lines(part)) for part in [*parts, *below])
    parts += _running(progress, names, width, max(1, console.height - taken - 2))
    return Group(*parts, *below)


def _head(progress: AggregatedProgress, title: str, width: int) -> RenderableType:
    counts = Text(no_wrap=False)
    named = (
        (progress.completed_trials, "completed", "green"),
        (progress.pruned_trials, "pruned", ""),
        (progress.failed_trials, "failed", "red"),
        (progress.running_trials, "running", "cyan"),
        (progress.queued_trials, "queued", ""),
    )
    for count, name, style in named:
        if count or name in ("completed", "running"):
            counts.append(", " if counts else "")
            counts.append(f"{count} {name}", style=style)
    bar = ProgressBar(
        total=max(1, progress.total_trials),
        completed=progress.ended_trials,
        width=min(24, max(8, width // 4)),
    )
    first = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [
        Text(title, style="bold", overflow="ellipsis", no_wrap=True),
        bar,
        Text(f"{progress.ended_trials}/{progress.total_trials}", no_wrap=True),
    ]
    eta = Text(_eta(progress), no_wrap=True, overflow="ellipsis")
    if width < _NARROW:
        first.add_row(*cells)
        return Group(first, eta, counts)
    first.add_row(*cells, eta)
    return Group(first, counts)


def _eta(progress: AggregatedProgress) -> str:
    elapsed = _span(progress.elapsed_s)
    if progress.is_over:
        return f"over after {elapsed}"
    left_s = progress.estimated_time_remaining
    if left_s is None:
        return f"{elapsed} so far"
    if progress.estimated_time_interval is None:
        return f"{elapsed} so far, about {_span(left_s)} left"
    low_s, high_s = progress.estimated_time_interval
    spread_s = max(high_s - left_s, left_s - low_s)
    return f"{elapsed} so far, {_span(left_s)} ± {_span(spread_s)} left"


def _best(progress: AggregatedProgress, names: Sequence[str]) -> list[RenderableType]:
    if not progress.front:
        return [Text("no trial has completed yet", style="dim")]
    if len(names) == 1:
        record = progress.front[0]
        value = _values(dict(zip(names, record.values, strict=True)))
        line = Text("best ")  # wraps: what is best is to be read in full
        line.append(value, style="bold green")
        line.append(f" trial {record.number}: {_params(record.params)}")
        return [line]
    lines = [Text(f"front: {plural(len(progress.front), 'trial')}", style="bold")]
    for record in progress.front[:_MOST_FRONT]:
        line = Text("  ", no_wrap=True, overflow="ellipsis")
        line.append(_values(dict(zip(names, record.values, strict=True))), style="green")
        line.append(f" trial {record.number}: {_params(record.params)}")
        lines.append(line)
    if len(progress.front) > _MOST_FRONT:
        lines.append(Text(f"  and {len(progress.front) - _MOST_FRONT} more", style="dim"))
    return [*lines]


def _running(
    progress: AggregatedProgress, names: Sequence[str], width: int, room: int
) -> list[RenderableType]:
    """A line each, oldest first; those that don't fit are summed up in one line."""
    running = sorted(progress.running, key=lambda one: (one.started_at, one.number))
    if not running:
        return []
    shown = running if len(running) <= room else running[: max(1, room - 1)]
    lines: list[RenderableType] = [_trials(shown, progress, names, width)]
    rest = running[len(shown) :]
    if rest:
        told = [one.done for one in rest]
        lines.append(
            Text(
                f"and {plural(len(rest), 'trial')} more, {min(told):.0%} to {max(told):.0%} done",
                style="dim",
            )
        )
    return lines


def _trials(
    shown: Sequence[RunningTrial], progress: AggregatedProgress, names: Sequence[str], width: int
) -> Table:
    rows = [_cells(one, progress, names) for one in shown]
    bar_width = 16 if width >= _WIDE else 8 if width >= _NARROW else 4
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    gap = 2 if width >= _NARROW else 1
    table = Table.grid(padding=(0, gap))
    justified: tuple[JustifyMethod, ...] = ("left", "right", "left", "right")
    for justify, most in zip(justified, widths, strict=True):
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis", max_width=most)
    room = width - sum(widths) - bar_width - 5 * gap
    for one, (label, epoch, values, since) in zip(shown, rows, strict=True):
        bar = ProgressBar(
            total=1.0,
            completed=one.done,
            width=bar_width,
            pulse=one.told_at is None,
            animation_time=progress.at,
        )
        style = "red" if one.number in progress.nonfinite_trials else ""
        more = _cropped(_more(one, progress, width), room)
        cells = [Text(label), Text(epoch), Text(values, style=style), Text(since)]
        table.add_row(*cells, bar, Text(more, style="dim"))
    return table


def _cells(
    one: RunningTrial, progress: AggregatedProgress, names: Sequence[str]
) -> tuple[str, str, str, str]:
    """Number, epochs, values and time of a running trial."""
    again = "" if one.attempt < 2 else f" (attempt {one.attempt})"
    epoch = f"epoch {one.epoch}/{one.epochs}" if one.epochs else ""
    values = _values({name: one.values[name] for name in names if name in one.values})
    since = _span(progress.at - one.started_at)
    return f"trial {one.number}{again}", epoch, values or one.stage or "begins", since


def _more(one: RunningTrial, progress: AggregatedProgress, width: int) -> str:
    lane = _lane_name(one.lane, 28) if len(progress.lanes) > 1 and one.lane else ""
    params = _params(one.params) if width >= _WIDE else ""
    return "  ".join(part for part in (lane, params) if part)


def _cropped(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room > _FEWEST_CHARACTERS else ""


def _lane_name(name: str, most: int) -> str:
    return shorten(name.removeprefix("https://").removeprefix("http://"), most)


def _lanes(lanes: Sequence[LaneReading], width: int) -> list[RenderableType]:
    """A line for each lane, where there are several or there is something to tell of the one."""
    if len(lanes) == 1 and not _is_troubled(lanes[0]):
        return []
    return [_lane_line(lane, width) for lane in lanes[:_MOST_LANES]]


def _is_troubled(lane: LaneReading) -> bool:
    opened = lane.breaker is not None and lane.breaker.state != "closed"
    return bool(lane.failures or lane.closed or lane.width < lane.capacity or opened)


def _lane_line(lane: LaneReading, width: int) -> Text:
    line = Text("lane ", no_wrap=True, overflow="ellipsis")
    line.append(_lane_name(lane.name, max(16, width // 3)), style="bold")
    if lane.closed is not None:
        line.append(f"  closed: {lane.closed}", style="red")
        return line
    line.append(f"  {lane.running} of {lane.width}")
    if lane.width < lane.capacity:
        line.append(f" (up to {lane.capacity})", style="yellow")
    line.append(f"  {lane.completed} done")
    if lane.breaker is not None and lane.breaker.state != "closed":
        line.append(f"  breaker {lane.breaker.state}", style="red")
        if lane.breaker.tried_again_in_s is not None:
            line.append(f", tried again in {_span(lane.breaker.tried_again_in_s)}", style="red")
    if lane.failures:
        told = ", ".join(f"{count} {code}" for code, count in lane.failures.items())
        line.append(f"  failures: {told}", style="yellow")
    return line


def _failures(progress: AggregatedProgress) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for cause, count in progress.failures[:_MOST_CAUSES]:
        line = Text(no_wrap=True, overflow="ellipsis", style="red")
        line.append(f"{plural(count, 'trial')} failed: {cause}")
        lines.append(line)
    if len(progress.failures) > _MOST_CAUSES:
        more = len(progress.failures) - _MOST_CAUSES
        lines.append(Text(f"and by {plural(more, 'cause')} more", style="red"))
    return lines


def _foot(progress: AggregatedProgress) -> Text:
    asked = progress.requests
    told = [plural(asked.submissions, "submission")]
    if asked.retries:
        told.append(f"{asked.retries} retried")
    if asked.redeliveries:
        told.append(f"{asked.redeliveries} redelivered")
    if progress.trials_per_minute:
        told.append(f"{number(progress.trials_per_minute)} trials/min")
    if progress.usd_at_least is not None and progress.usd_at_most is not None:
        told.append(
            f"{progress.usd_at_least:.2f} to {progress.usd_at_most:.2f} USD so far (estimated)"
        )
    return Text(", ".join(told), style="dim", no_wrap=True, overflow="ellipsis")


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {number(value)}" for name, value in values.items())


def _params(params: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{name}={number(value) if isinstance(value, float) else value}"
        for name, value in params.items()
    )


def _span(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3:05, 1:02:07."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0")
