"""A load test as Markdown, for a pull request or a wiki."""

from collections.abc import Sequence

from visiondyno.report.format import number, sentence
from visiondyno.report.load_test import LoadTestResult
from visiondyno.report.load_test_facts import (
    CLOSED_LOOP,
    MAIN,
    STATUS_CLASSES,
    cell_of,
    difference_rows,
    error_counts,
    generator_lines,
    headline,
    is_closed,
    main_rows,
    resource_rows,
    status_counts,
    subtitle,
    told_lines,
)
from visiondyno.report.load_test_measures import (
    LOAD_MEASURES,
    load_title,
    measure_interval,
    measure_value,
    shown_unit,
)
from visiondyno.report.load_test_strategies import (
    strategy_lead,
    strategy_names,
    strategy_starts,
)


def load_test_markdown(result: LoadTestResult) -> str:
    """The record's tables and warnings, without its plots."""
    parts = [f"# {_text(headline(result))}", _text(subtitle(result)), *_warnings(result)]
    if result.targets:
        parts += [_results(result), _endings(result)]
    parts += [
        part
        for part in (
            _differences(result),
            _resources(result),
            *_searches(result),
            _cold_starts(result),
            _strategies(result),
        )
        if part
    ]
    notes = [f"- {_text(sentence(note))}" for note in result.notes]
    notes += [
        f"- {_text(target.name)}: {_text(sentence(note))}"
        for target in result.targets
        for note in target.notes
    ]
    parts += ["\n".join(notes)] if notes else []
    parts.append(f"Made by VisionDyno {result.version}; intervals are 95 %.")
    return "\n\n".join(parts) + "\n"


def _warnings(result: LoadTestResult) -> list[str]:
    found = []
    if result.was_stopped:
        found.append("> **It was stopped.** Here is what was measured until then.")
    for name, why in generator_lines(result.targets):
        found.append(f"> **The generator was the limit** ({_text(name)}): {_text(why)}")
    if is_closed(result):
        found.append(f"> **Closed loop.** {CLOSED_LOOP}")
    if not result.quiet:
        reasons = " ".join(sentence(reason) for reason in result.quiet_reasons)
        found.append(f"> **The generator's machine wasn't quiet:** {_text(reasons)}")
    return found


def _results(result: LoadTestResult) -> str:
    names = [target.name for target in result.targets]
    rows = [
        [_measure_head(name), *[_shown(cells[place]) for _, cells in main_rows(result.targets)]]
        for place, name in enumerate(MAIN)
    ]
    return _table(["Measure", *names], rows)


def _endings(result: LoadTestResult) -> str:
    rows = []
    for target in result.targets:
        counts = status_counts(target)
        rows.append([target.name, *[f"{counts.get(key, 0):,}" for key, _ in STATUS_CLASSES]])
    table = _table(["Target", *[words for _, words in STATUS_CLASSES]], rows)
    errors = [
        f"- {_text(target.name)}, {count:,} times: {_text(message)}"
        for target in result.targets
        for message, count in error_counts(target).items()
    ]
    return "\n\n".join([table, "\n".join(errors)]) if errors else table


def _differences(result: LoadTestResult) -> str:
    rows = [list(row) for row in difference_rows(result.differences)]
    if not rows:
        return ""
    head = ["Target", "Measure", f"Less {result.targets[0].name}", "Interval", "Verdict"]
    return "## Differences\n\n" + _table(head, rows)


def _resources(result: LoadTestResult) -> str:
    rows = [
        [
            name,
            *[
                f"{measure_value(one)} {measure_interval(one)}".strip() if one else "–"
                for one in (cpu, memory, cost)
            ],
            source,
        ]
        for name, source, cpu, memory, cost in resource_rows(result.targets)
    ]
    if not rows:
        return ""
    head = ["Target", "CPU, mean", "Peak memory", "Cost", "Read from"]
    told = [f"- {_text(line)}" for line in told_lines(result.targets)]
    return "\n\n".join(["## Resources and cost", _table(head, rows), *told])


def _searches(result: LoadTestResult) -> list[str]:
    found = []
    for target in result.targets:
        if target.search is None:
            continue
        best = target.search.best_rate_per_s
        said = "no rate held" if best is None else f"{number(best)} requests/s"
        limit = f"p99 within {number(target.search.limit_ms)} ms"
        rows = [
            [
                number(one.rate_per_s),
                "–" if one.p99_ms is None else number(one.p99_ms),
                "yes" if one.held else f"no: {one.why_not}",
            ]
            for one in target.search.tries
        ]
        table = _table(["Requests/s", "p99 at most, ms", "Held"], rows)
        found.append(f"## Highest rate of {_text(target.name)}: {said}, {limit}\n\n{table}")
    return found


def _cold_starts(result: LoadTestResult) -> str:
    fields = ("total_ms", "process_start_ms", "model_load_ms", "first_inference_ms", "rest_ms",
              "warm_ms")  # fmt: skip
    owners = [(target.name, target.cold_starts) for target in result.targets]
    owners += [part for row in result.strategies for part in strategy_starts(row)]
    rows = [
        [name, *["–" if (ms := getattr(one, field)) is None else number(ms) for field in fields]]
        for name, starts in owners
        for one in starts
    ]
    if not rows:
        return ""
    head = ["Cold start, ms", "In all", "Process", "Model", "First inference", "Rest", "Warm"]
    return "## Cold start\n\n" + _table(head, rows)


def _strategies(result: LoadTestResult) -> str:
    if not result.strategies:
        return ""
    head = ["Measure", *[f"{row.strategy}, {row.replicas}" for row in result.strategies]]
    rows = [
        [_measure_head(name), *[_shown(cell_of(row.measures.get(name)))
                                for row in result.strategies]]
        for name in strategy_names(result.strategies)
    ]  # fmt: skip
    lead = _text(strategy_lead(result.spec))
    return f"## Scaling strategies\n\n{lead}\n\n" + _table(head, rows)


def _measure_head(name: str) -> str:
    unit = shown_unit(LOAD_MEASURES[name].unit)
    return f"{load_title(name)}, {unit}" if unit else load_title(name)


def _shown(cell: tuple[str, str, str]) -> str:
    value, interval, reason = cell
    return " ".join(part for part in (value, interval, f"({reason})" if reason else "") if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(
        f"| {' | '.join(cell if place == 1 else _text(cell) for cell in line)} |"
        for place, line in enumerate(lines)
    )


def _text(text: str) -> str:
    """Text that Markdown takes for itself: names and messages come from outside."""
    text = " ".join(text.split())
    for sign in "\\`*_[]<>|#~":
        text = text.replace(sign, f"\\{sign}")
    return text
