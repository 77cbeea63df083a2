"""A load test in words and table rows, as its page, its Markdown and the terminal tell it."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from visiondyno.report.format import number, plural
from visiondyno.report.load_test import (
    LoadTestResult,
    RateSearch,
    TargetDifference,
    TargetResult,
)
from visiondyno.report.load_test_measures import (
    PERCENTILES,
    in_shown_unit,
    interval_in,
    load_title,
    measure_interval,
    measure_value,
    shown_unit,
)

MAIN = (
    "offered_requests_per_s",
    "throughput_requests_per_s",
    "error_fraction",
    "latency_mean_ms",
    *PERCENTILES,
    "latency_max_ms",
)
"""The columns of the main table."""

STATUS_CLASSES = (
    ("2xx", "2xx"),
    ("3xx", "3xx"),
    ("4xx", "4xx"),
    ("5xx", "5xx"),
    ("timeouts", "timeouts"),
    ("connection_errors", "connection errors"),
    ("not_sent", "not sent"),
)
VERDICTS = {
    "higher": "higher",
    "lower": "lower",
    "level": "no difference seen",
    "unknown": "can't be told",
}

Cell = tuple[str, str, str]
"""Value, interval, and why there is no value."""


def headline(result: LoadTestResult) -> str:
    """What was tested, in a few words."""
    if not result.targets:
        return "Scaling strategies"
    if not any(target.rounds or target.search for target in result.targets):
        return f"Cold start of {result.targets[0].name}"
    names = [target.name for target in result.targets]
    return f"Load test of {names[0]}" if len(names) == 1 else f"Load test of {len(names)} targets"


def load_words(load: Mapping[str, Any]) -> str:
    """The load in one line."""
    length = f"for {number(load['duration_s'])} s"
    match load["kind"]:
        case "constant":
            return f"open loop, {number(load['rate_per_s'])} requests/s {length}"
        case "poisson":
            return f"open loop, Poisson, {number(load['rate_per_s'])} requests/s {length}"
        case "ramp":
            ends = f"{number(load['from_rate_per_s'])} to {number(load['to_rate_per_s'])}"
            return f"open loop, ramp from {ends} requests/s {length}"
        case "spike":
            return (
                f"open loop, {number(load['rate_per_s'])} requests/s {length}, with "
                f"{number(load['spike_rate_per_s'])} from {number(load['spike_start_s'])} s for "
                f"{number(load['spike_duration_s'])} s"
            )
        case _:
            think = load["think_time_s"]
            pause = f", {number(think)} s between" if think else ""
            count = f"{load['requests']:,} requests" if load["requests"] else length
            return f"closed loop, {plural(load['concurrency'], 'user')}{pause}, {count}"


def subtitle(result: LoadTestResult) -> str:
    """Load, rounds, machine and date in one line."""
    machine = result.environment
    ran = any(target.rounds for target in result.targets)
    parts = [load_words(result.spec["load"])] if ran else []
    rounds = max((len(target.rounds) for target in result.targets), default=0)
    parts += [plural(rounds, "round")] if rounds > 1 else []
    if "cpu_model" in machine:
        parts.append(f"from {machine['cpu_model']}, {plural(machine['cpu_count'], 'CPU')}")
    return " · ".join([*parts, result.created_at[:16].replace("T", " ") + " UTC"])


def cards(result: LoadTestResult) -> list[tuple[str, str, str]]:
    """Heading, figure and a word more, of the one target or of each."""
    found = []
    one = len(result.targets) == 1
    for target in result.targets:
        for name in ("latency_p99_ms", "latency_p50_ms")[: 2 if one else 1]:
            measure = target.measures.get(name)
            if measure is None:
                continue
            title = load_title(name) if one else f"{target.name}: {load_title(name)}"
            more = measure.reason or measure_interval(measure)
            found.append((title, measure_value(measure), f"95 %: {more}" if more.startswith("[")
                          else more))  # fmt: skip
        if one:
            found += _more_cards(target)
        if target.search is not None:
            found.append(_search_card(target.search, "" if one else f"{target.name}: "))
    for whose, title, text, interval, verdict in difference_rows(result.differences):
        if title == load_title("latency_p99_ms"):
            more = f"{verdict}, 95 %: {interval}" if interval else verdict
            found.append((f"{whose} against {result.targets[0].name}: p99", text, more))
    return found


def _more_cards(target: TargetResult) -> list[tuple[str, str, str]]:
    found = []
    good = target.measures.get("throughput_requests_per_s")
    if good is not None:
        offered = measure_value(target.measures.get("offered_requests_per_s"))
        found.append((load_title("throughput_requests_per_s"), measure_value(good),
                      f"{offered} offered"))  # fmt: skip
    errors = target.measures.get("error_fraction")
    if errors is not None:
        found.append(("Errors", measure_value(errors), ending_words(target)))
    if target.cold_starts:
        totals = sorted(one.total_ms for one in target.cold_starts)
        middle = statistics.median(totals)
        more = "" if len(totals) == 1 else f"{number(totals[0])} to {number(totals[-1])} ms"
        found.append(("Cold start", f"{number(middle)} ms", more))
    return found


def _search_card(search: RateSearch, whose: str) -> tuple[str, str, str]:
    limit = f"with p99 within {number(search.limit_ms)} ms"
    if search.best_rate_per_s is None:
        return (f"{whose}Highest rate", "none", f"No rate that was tried held {limit}.")
    return (f"{whose}Highest rate", f"{number(search.best_rate_per_s)} requests/s", limit)


def ending_words(target: TargetResult) -> str:
    """How the requests of all rounds ended, but for those that ended well."""
    counts = status_counts(target)
    told = [f"{counts[key]:,} {words}" for key, words in STATUS_CLASSES if counts.get(key)]
    return ", ".join(told)


def status_counts(target: TargetResult) -> dict[str, int]:
    """Requests by class of status, of all rounds together."""
    counts: dict[str, int] = {}
    for one in target.rounds:
        for name, count in one.status_classes.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def code_counts(target: TargetResult) -> dict[str, int]:
    """Answers by status, of all rounds together."""
    counts: dict[str, int] = {}
    for one in target.rounds:
        for name, count in one.status_codes.items():
            counts[name] = counts.get(name, 0) + count
    return dict(sorted(counts.items()))


def error_counts(target: TargetResult) -> dict[str, int]:
    """Messages of failures, the most frequent first."""
    counts: dict[str, int] = {}
    for one in target.rounds:
        for message, count in one.errors.items():
            counts[message] = counts.get(message, 0) + count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def main_rows(targets: Sequence[TargetResult]) -> list[tuple[TargetResult, list[Cell]]]:
    """The main table: a row each, a cell for each of `MAIN`."""
    return [(target, [cell_of(target.measures.get(name)) for name in MAIN]) for target in targets]


def cell_of(measure: Any) -> Cell:
    """One measure for a table whose head names the unit."""
    if measure is None:
        return "–", "", ""
    if measure.value is None:
        return "–", measure_interval(measure), measure.reason or ""
    text = number(in_shown_unit(measure.unit, measure.value))
    return (f"≈ {text}" if measure.estimated else text), measure_interval(measure), ""


def resource_rows(targets: Sequence[TargetResult]) -> list[tuple[str, str, Any, Any, Any]]:
    """Name, source, processor, memory, cost of the targets that were watched or priced."""
    rows = []
    for target in targets:
        sources = [one.resources.source for one in target.rounds if one.resources is not None]
        cost = target.cost_usd_per_1000_requests
        if not sources and cost is None:
            continue
        rows.append(
            (
                target.name,
                sources[0] if sources else "not watched",
                target.resources_measures.get("cpu_cores_mean"),
                target.resources_measures.get("peak_memory_bytes"),
                cost,
            )
        )
    return rows


def told_lines(targets: Sequence[TargetResult]) -> list[str]:
    """What else who watched a target was told of it, such as how long its instances started."""
    shown = ("cpu_cores_mean", "peak_memory_bytes")
    return [
        f"{target.name}, {load_title(name)}: "
        + f"{measure_value(measure)} {measure_interval(measure)}".strip()
        for target in targets
        for name, measure in target.resources_measures.items()
        if name not in shown and measure.value is not None
    ]


def difference_rows(found: Sequence[TargetDifference]) -> list[tuple[str, str, str, str, str]]:
    """Target, measure, difference, interval and verdict."""
    rows = []
    for one in found:
        text = "–"
        if one.difference is not None:
            unit = "percentage points" if one.unit == "fraction" else shown_unit(one.unit)
            value = in_shown_unit(one.unit, one.difference)
            text = f"{'+' if value > 0 else ''}{number(value)} {unit}"
        interval = interval_in(one.unit, one.interval) if one.interval is not None else ""
        rows.append((one.target, load_title(one.measure), text, interval, VERDICTS[one.verdict]))
    return rows


def stage_names(targets: Sequence[TargetResult]) -> list[str]:
    """The stages that any target told of, in the order of their first appearance."""
    names = [name for target in targets for one in target.rounds for name in one.stages]
    return list(dict.fromkeys(names))


def generator_lines(targets: Sequence[TargetResult]) -> list[tuple[str, str]]:
    """Targets whose rounds the generator held up, with the sentence of the first such round."""
    found = []
    for target in targets:
        reasons = [one.generator.why for one in target.rounds if one.generator.why]
        if reasons:
            share = f" ({len(reasons)} of {len(target.rounds)} rounds)"
            found.append((target.name, reasons[0] + (share if len(target.rounds) > 1 else "")))
    return found


_HINTS = {
    400: "see in the target's pages what it takes",
    401: "give its key with --header 'Authorization: Bearer …'",
    403: "give its key with --header 'Authorization: Bearer …'",
    404: "there is nothing at this path; see whether the URL is right",
    413: "what was sent is larger than the target takes",
    415: "see in the target's pages which kind of body it takes",
    422: "see in the target's pages what it takes",
}
_REDIRECTS = "redirects aren't followed; give the address that it leads to"
_NO_BODY = (
    "it was asked without a body; give what it takes with --image, --json or --body, or another "
    "--method"
)


def nothing_good_lines(result: LoadTestResult) -> list[str]:
    """For each target of which no answer was good, how most requests ended, and what may help."""
    bodies = {"images", "body_file", "json_body"}
    asked = result.spec.get("targets", [])
    found = []
    for place, target in enumerate(result.targets):
        if not target.rounds or any(one.outcomes.get("good") for one in target.rounds):
            continue
        spec = asked[place] if place < len(asked) else {}
        codes = code_counts(target)
        status = int(max(codes, key=lambda code: codes[code])) if codes else 0
        errors = error_counts(target)
        most = max(errors, key=lambda text: errors[text]) if errors else "none came in time"
        has_body = any(spec.get(name) for name in bodies)
        if status in {400, 405, 411, 415, 422} and not has_body:
            hint = _NO_BODY
        else:
            hint = _REDIRECTS if 300 <= status < 400 else _HINTS.get(status, "")
        found.append(f"{target.name}: {most}" + (f"; {hint}." if hint else "."))
    return found


def is_closed(result: LoadTestResult) -> bool:
    """Whether the load was a closed loop, whose latencies leave waiting out."""
    return bool(result.targets) and result.spec["load"]["kind"] == "closed"


CLOSED_LOOP = (
    "A closed loop sends its next request when the last one is answered, so while the target "
    "stands still nothing is sent and nothing waits: these latencies leave out what an open loop "
    "would have seen (coordinated omission)."
)
