"""What a load test found, on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from visiondyno.report.format import number, sentence
from visiondyno.report.load_test import LoadTestResult, TargetResult
from visiondyno.report.load_test_facts import (
    CLOSED_LOOP,
    MAIN,
    STATUS_CLASSES,
    cell_of,
    difference_rows,
    error_counts,
    generator_lines,
    is_closed,
    load_words,
    nothing_good_lines,
    resource_rows,
    status_counts,
)
from visiondyno.report.load_test_measures import (
    LOAD_MEASURES,
    load_title,
    measure_interval,
    measure_value,
    shown_unit,
)
from visiondyno.report.load_test_strategies import strategy_names

_MOST_ERRORS = 5
_WORTH_SAYING = 0.01


def print_load_test(result: LoadTestResult, console: Console) -> None:
    """Tables and sentences, as wide as the console."""
    ran = [target for target in result.targets if target.rounds]
    if ran:
        _print(console, load_words(result.spec["load"]))
        console.print(_measures(ran))
        for target in ran:
            _print(console, _endings(target, several=len(ran) > 1))
    _print_more(result, console)
    if result.strategies:
        console.print(_strategies(result))
    for line in warnings_of(result):
        _print(console, line)


def warnings_of(result: LoadTestResult) -> list[str]:
    """What a reader of the figures must know."""
    found = [f"No good answer from {line}" for line in nothing_good_lines(result)]
    found += [
        f"The generator was the limit ({name}): {why}"
        for name, why in generator_lines(result.targets)
    ]
    has_schedule = any(target.rounds for target in result.targets) and not is_closed(result)
    if has_schedule and not found:
        found.append("The generator kept its schedule.")
    found += [line for target in result.targets if (line := _without_latency(target))]
    if is_closed(result):
        found.append(CLOSED_LOOP)
    if not result.quiet:
        reasons = " ".join(sentence(reason) for reason in result.quiet_reasons)
        found.append(f"This machine wasn't quiet: {reasons}")
    if result.was_stopped:
        found.append("It was stopped; this is what was measured until then.")
    found += [f"Note: {sentence(note)}" for note in result.notes]
    found += [
        f"Note on {target.name}: {sentence(note)}"
        for target in result.targets
        for note in target.notes
    ]
    return found


def _without_latency(target: TargetResult) -> str:
    """That the percentiles leave failures out, where there are enough of them to mislead."""
    errors, ranked = target.measures.get("error_fraction"), target.measures.get("latency_p50_ms")
    if errors is None or ranked is None or not errors.value or not errors.n or not ranked.n:
        return ""
    left_out = 1 - ranked.n / errors.n
    if left_out < _WORTH_SAYING:
        return ""
    return (
        f"Latencies of {target.name} are of {ranked.n:,} requests; {number(100 * left_out)} % were "
        "refused or failed otherwise, and have none."
    )


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _measures(targets: Sequence[TargetResult]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for target in targets:
        table.add_column(target.name, justify="right", overflow="fold")
    for name in MAIN:
        cells = [_cell(cell_of(target.measures.get(name))) for target in targets]
        table.add_row(_head(name), *cells)
    watched = {row[0]: row for row in resource_rows(targets)}
    for place, name in enumerate(
        ("cpu_cores_mean", "peak_memory_bytes", "cost_usd_per_1000_requests"), 2
    ):
        measures = [watched[one.name][place] if one.name in watched else None for one in targets]
        if any(measures):
            table.add_row(_head(name), *[_cell(cell_of(measure)) for measure in measures])
    return table


def _head(name: str) -> str:
    unit = shown_unit(LOAD_MEASURES[name].unit)
    return f"{load_title(name)}, {unit}" if unit else load_title(name)


def _cell(cell: tuple[str, str, str]) -> str:
    value, interval, reason = cell
    return " ".join(part for part in (value, interval, reason and f"({reason})") if part)


def _endings(target: TargetResult, *, several: bool) -> str:
    counts = status_counts(target)
    told = [f"{words} {counts[key]:,}" for key, words in STATUS_CLASSES if counts.get(key)]
    line = ", ".join(told) or "nothing was sent"
    line = f"{target.name}: {line}" if several else f"Answers: {line}"
    errors = list(error_counts(target).items())
    for message, count in errors[:_MOST_ERRORS]:
        line += f"\n  {count:,} times: {message}"
    if len(errors) > _MOST_ERRORS:
        line += f"\n  and {len(errors) - _MOST_ERRORS} other messages"
    return line


def _print_more(result: LoadTestResult, console: Console) -> None:
    """Differences, searches and cold starts."""
    for target, measure, text, interval, verdict in difference_rows(result.differences):
        bounds = f" {interval}" if interval else ""
        against = result.targets[0].name
        _print(console, f"{target} against {against}, {measure}: {text}{bounds}, {verdict}")
    for one in result.targets:
        if one.search is not None:
            best = one.search.best_rate_per_s
            said = "no rate that was tried" if best is None else f"{number(best)} requests/s"
            limit = number(one.search.limit_ms)
            _print(console, f"{one.name}: highest rate with p99 within {limit} ms: {said}")
        for start in one.cold_starts:
            parts = (
                ("process", start.process_start_ms),
                ("model", start.model_load_ms),
                ("first inference", start.first_inference_ms),
                ("the rest", start.rest_ms),
            )
            told = ", ".join(f"{name} {number(ms)}" for name, ms in parts if ms is not None)
            warm = "" if start.warm_ms is None else f"; warm {number(start.warm_ms)} ms"
            split = f" ({told})" if told else " (nobody told its parts)"
            _print(console, f"{one.name}: cold start {number(start.total_ms)} ms{split}{warm}")


def _strategies(result: LoadTestResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for row in result.strategies:
        table.add_column(f"{row.strategy} {row.replicas}", justify="right", overflow="fold")
    for name in strategy_names(result.strategies):
        cells = []
        for row in result.strategies:
            measure = row.measures.get(name)
            text = f"{measure_value(measure)} {measure_interval(measure)}".strip()
            cells.append(text if measure is None or measure.value is not None else "–")
        table.add_row(load_title(name), *cells)
    return table
