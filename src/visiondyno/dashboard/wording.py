"""Times, durations, sizes and JSON as the pages show them."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from visiondyno.job import JobState
from visiondyno.report.format import number

LONGEST_TEXT = 400
"""Longer strings inside folded JSON are cut: encoded images and models fill no page."""

_LONGEST_LIST = 200

STATE_WORDS: dict[str, str] = {
    JobState.IN_QUEUE: "waiting",
    JobState.IN_PROGRESS: "running",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.TIMED_OUT: "timed out",
}
"""The states in everyday words; the wire's own names stand in the titles."""

STATE_TONES: dict[str, str] = {
    JobState.IN_QUEUE: "calm",
    JobState.IN_PROGRESS: "busy",
    JobState.COMPLETED: "good",
    JobState.FAILED: "bad",
    JobState.CANCELLED: "calm",
    JobState.TIMED_OUT: "bad",
    "queued": "calm",
    "processing": "busy",
    "completed": "good",
    "failed": "bad",
    "running": "busy",
    "pruned": "calm",
    "testing": "busy",
    "ended": "good",
    "stopped": "bad",
    "died": "bad",
    "starting": "calm",
    "idle": "good",
    "busy": "busy",
    "draining": "calm",
    "drained": "calm",
    "backing-off": "bad",
}
"""The colour of each state's chip; the word always stands beside it."""


def span_text(seconds: float) -> str:
    """A length of time in its largest whole unit: `12 s`, `3 min`, `2 h`, `4 d`."""
    whole = max(0, math.floor(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def duration_text(seconds: float | None) -> str:
    """How long something took: `41.2 ms`, `3.27 s`, `2 min 5 s`, `1 h 4 min`; `–` for None."""
    if seconds is None:
        return "–"
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 1:
        return f"{number(seconds * 1000)} ms"
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def moment_text(at: float) -> str:
    """`at` (seconds since the epoch) in full: `2026-03-01 12:30:05 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso_text(at: float) -> str:
    """`at` as ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def time_of_day(at: float) -> Markup:
    """The clock's time of an event, to milliseconds, with the whole moment as its title."""
    whole = datetime.fromtimestamp(at, UTC)
    text = whole.strftime("%H:%M:%S.") + f"{whole.microsecond // 1000:03d}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        iso_text(at), moment_text(at), text
    )


def moment(at: float | None, now: float | None, form: str = "ago") -> Markup:
    """A `<time>` that says how long ago `at` was, with the moment itself as its title.

    Args:
        at: seconds since the epoch; None gives a dash.
        now: the same; None leaves the moment as text, which the page's script turns into words:
            what doesn't change with the clock can be compared.
        form: `ago` ("12 s ago") or `span` ("12 s").
    """
    if at is None:
        return Markup("–")
    full = moment_text(at)
    ending = " ago" if form == "ago" else ""
    text = full if now is None else f"{span_text(now - at)}{ending}"
    return Markup('<time datetime="{}" title="{}" data-form="{}">{}</time>').format(
        iso_text(at), full, form, text
    )


def bytes_text(count: int | None) -> str:
    """A size: `812 B`, `1.20 MB`, `3.40 GB`; `not measured` for None."""
    if count is None:
        return "not measured"
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{number(count / size)} {unit}"
    return f"{count} B"


def folded_json(value: Any) -> str:
    """`value` as indented JSON in which long strings and lists are cut, saying by how much."""
    return json.dumps(_shortened(value), indent=2, ensure_ascii=False, allow_nan=True)


def _shortened(value: Any) -> Any:
    match value:
        case str() if len(value) > LONGEST_TEXT:
            rest = len(value) - LONGEST_TEXT // 2
            return f"{value[: LONGEST_TEXT // 2]}… ({rest:,} more characters)"
        case dict():
            return {key: _shortened(inner) for key, inner in value.items()}
        case list() | tuple() if len(value) > _LONGEST_LIST:
            kept = [_shortened(inner) for inner in value[:_LONGEST_LIST]]
            return [*kept, f"… ({len(value) - _LONGEST_LIST:,} more entries)"]
        case list() | tuple():
            return [_shortened(inner) for inner in value]
    return value


def breakable(text: str) -> Markup:
    """A long name that may break after a separator."""
    parts = re.split(r"(?<=[_\-./@:,])", text)
    return Markup("<wbr>").join(parts)


def facts_text(progress: dict[str, Any]) -> str:
    """What an operation said, as one line: its log line, or its stage, count and other facts."""
    if "log" in progress:
        return str(progress["log"])
    known = {"stage", "model", "done", "total"}
    model = f"{progress['model']}: " if progress.get("model") else ""
    parts = [f"{model}{progress.get('stage', '')}"]
    if isinstance(progress.get("done"), int | float):
        of = f" of {progress['total']:,}" if isinstance(progress.get("total"), int | float) else ""
        parts.append(f"{progress['done']:,}{of}")
    parts += [f"{key} {value}" for key, value in progress.items() if key not in known]
    return " · ".join(part for part in parts if part)
