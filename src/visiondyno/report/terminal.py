"""The comparison as tables for the console."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from visiondyno.measurements.measure import Measure
from visiondyno.report.against import Against, Cell, against_reference
from visiondyno.report.comparison import Comparison, ModelReport
from visiondyno.report.format import (
    interval_text,
    sentence,
    shorten,
    title,
    unit_label,
    value_text,
)
from visiondyno.report.layout import (
    best_references,
    display_names,
    headline,
    main_measures,
    subtitle,
)
from visiondyno.report.model_facts import model_facts
from visiondyno.report.origins import newest
from visiondyno.report.scenarios import RATE, ScenarioRow, ScenarioTable, scenario_tables

_DROPPED = (
    "map_50",
    "top5",
    "image_accuracy",
    "f1",
    "co2_grams_per_1000_images",
    "cost_usd_per_1000_images",
    "latency_p99_ms",
    "latency_p50_ms",
    "peak_vram_bytes",
    "green_score",
    "energy_joules_per_image",
    "throughput_images_per_s",
    "rmse",
)
"""Left out in this order where the table would be too wide; the other forms hold everything."""

_MODEL_WIDTH = 18


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print `render_comparison` to a console; stdout's if None."""
    (console or Console()).print(render_comparison(comparison))


def render_comparison(comparison: Comparison) -> RenderableType:
    """The table, winners, what was left out and the verdict; reads well from 80 columns."""
    parts: list[RenderableType] = [
        Text(headline(comparison), style="bold"),
        Text(subtitle(comparison), style="dim"),
    ]
    if comparison.models:
        parts.append(_Results(comparison))
    names = display_names(comparison.models)
    against = against_reference(comparison)
    if against is not None:
        parts += [Text(), _AgainstReference(against, names)]
    tables = scenario_tables(newest(comparison.models), names)
    if tables:
        parts += [Text(), _scenarios(tables, names)]
    if comparison.winners:
        parts += [Text(), _winners(comparison)]
    if comparison.left_out:
        parts += [Text(), _left_out(comparison)]
    skipped = len(comparison.dataset.skipped)
    if skipped:
        parts += [Text(), Text(f"{skipped} bad images were skipped; the report names them.")]
    parts += [Text(), _verdict(comparison)]
    parts += [Text(f"· {note}") for note in comparison.verdict.notes]
    parts += [Text(f"Note: {sentence(note)}") for note in comparison.notes]
    if comparison.job is not None:
        parts += [Text(f"{name}: {text}") for name, text in comparison.job.lines()]
    return Group(*parts)


class _Results:
    """The main table with as many columns as the console has room for."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        comparison = self._comparison
        names = display_names(comparison.models)
        columns = main_measures(comparison)
        model_width = 5 + _widest_model(comparison, names)
        for name in _DROPPED:
            if model_width + sum(_width(comparison, c) for c in columns) <= options.max_width:
                break
            if name in columns:
                columns.remove(name)
        yield _table(comparison, columns, names)
        yield _legend(comparison, columns)


class _AgainstReference:
    """What was won and lost against the reference model; columns that don't fit are left out."""

    def __init__(self, against: Against, names: dict[str, str]) -> None:
        self._against = against
        self._names = names

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        against = self._against
        name = shorten(self._names[against.reference], _MODEL_WIDTH)
        widths = [
            3 + max(map(len, _against_lines(against, index)))
            for index in range(len(against.columns))
        ]
        shown = len(widths)
        while shown > 1 and _MODEL_WIDTH + 5 + sum(widths[:shown]) > options.max_width:
            shown -= 1
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
        table.add_column(f"Against\n{name}", overflow="fold", min_width=8)
        for heading, width in zip(against.columns[:shown], widths, strict=False):
            lines = Text("\n".join(heading.rsplit(" ", 1)), justify="right")
            table.add_column(lines, justify="right", min_width=width - 3)
        for reference, cells in against.rows:
            who = Text(shorten(self._names[reference], 2 * _MODEL_WIDTH))
            table.add_row(who, *map(_against_cell, cells[:shown]))
        yield table
        yield Text(f"{against.explanation} Bold: no tie with the reference.", style="dim")


def _against_lines(against: Against, index: int) -> list[str]:
    cells = [_against_cell(cells[index]).plain for _, cells in against.rows]
    return [*against.columns[index].rsplit(" ", 1), *"\n".join(cells).split("\n")]


def _against_cell(cell: Cell) -> Text:
    text = Text(cell.text or "–", style="dim" if cell.tie else "bold")
    if cell.interval:
        text.append("\n" + _on_one_line(cell.interval), style="not bold dim")
    return text


def _on_one_line(interval: str) -> str:
    # No space, so that the bounds stay on one line in a narrow column.
    return interval[1:-1].replace(", ", "–")


def _widest_model(comparison: Comparison, names: dict[str, str]) -> int:
    facts = [line for model in comparison.models for line in model_facts(model).lines()]
    return min(_MODEL_WIDTH, max(map(len, [*names.values(), *facts])))


def _width(comparison: Comparison, name: str) -> int:
    words = [*title(name).split(), *unit_label(name).split()]
    cells = [_cell(name, model, best=False).plain for model in comparison.models]
    # Three more: the padding, and the gap between columns.
    return 3 + max(len(line) for line in [*words, *"\n".join(cells).split("\n")])


def _table(comparison: Comparison, columns: list[str], names: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("Model", overflow="fold", min_width=_widest_model(comparison, names))
    for name in columns:
        heading = Text(title(name), justify="right")
        heading.append(f"\n{unit_label(name)}", style="dim")
        table.add_column(heading, justify="right", min_width=_width(comparison, name) - 3)
    best = {name: best_references(comparison, name) for name in columns}
    for model in comparison.models:
        cells = [_cell(name, model, best=model.reference in best[name]) for name in columns]
        who = Text(shorten(names[model.reference], 2 * _MODEL_WIDTH))
        who.append("".join(f"\n{line}" for line in model_facts(model).lines()), style="dim")
        table.add_row(who, *cells)
    return table


def _cell(name: str, model: ModelReport, *, best: bool) -> Text:
    measure: Measure | None = model.measures.get(name)
    if measure is None or measure.value is None:
        return Text("–", style="dim")
    text = Text("≈ " if measure.estimated else "")
    text.append(value_text(name, measure.value), style="bold green" if best else "")
    interval = interval_text(name, measure.interval)
    if interval:
        text.append("\n" + _on_one_line(interval), style="dim")
    return text


def _legend(comparison: Comparison, columns: list[str]) -> Text:
    parts = ["second lines: 95 % intervals", "green: the best, or tied with it", "–: not measured"]
    if any(
        model.measures[name].estimated
        for model in comparison.models
        for name in columns
        if name in model.measures
    ):
        parts.append("≈: estimated, not ranked")
    return Text(" · ".join(parts), style="dim")


def _scenarios(tables: Sequence[ScenarioTable], names: dict[str, str]) -> Table:
    """p50, p99 and rate of each scenario; a row of LoadGen's below ours where it ran."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("Scenario", no_wrap=True)
    table.add_column("Model", overflow="fold", min_width=8)
    shown = ("latency_p50_ms", "latency_p99_ms", RATE)
    for name in shown:
        heading = Text("Rate" if name == RATE else title(name), justify="right")
        heading.append(f"\n{unit_label(name)}", style="dim")
        table.add_column(heading, justify="right")
    table.add_column(Text("n", justify="right"), justify="right")
    for scenario in tables:
        for row in scenario.rows:
            if row.kind == "bound":
                continue
            cells = dict(zip(scenario.columns, row.cells, strict=True))
            texts = [cells.get(name, ("", ""))[0] or "–" for name in shown]
            ours = row.kind == "ours"
            who = shorten(names[row.reference], 2 * _MODEL_WIDTH) if ours else _engine(row)
            style = "" if ours else "dim"
            table.add_row(scenario.scenario if ours else "", Text(who), *texts, row.n, style=style)
    return table


def _engine(row: ScenarioRow) -> str:
    return f"  LoadGen: {row.verdict}" if row.kind == "loadgen" else "  ours ÷ LoadGen"


def _winners(comparison: Comparison) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    names = display_names(comparison.models)
    for winner in comparison.winners:
        who = ", ".join(names.get(ref, ref) for ref in winner.references)
        if not who:
            grid.add_row(winner.title, Text(winner.explanation, style="dim"))
            continue
        text = Text(who, style="green")
        if len(winner.references) > 1:
            text.append("  (tie)", style="yellow")
        grid.add_row(winner.title, text)
    return grid


def _left_out(comparison: Comparison) -> RenderableType:
    lines = [Text("Left out", style="bold yellow")]
    for left in comparison.left_out:
        line = Text(left.reference, style="bold")
        line.append(f" ({left.stage}): {left.reason}", style="not bold")
        lines.append(line)
    return Group(*(Padding(line, (0, 0, 0, 2 if index else 0)) for index, line in enumerate(lines)))


def _verdict(comparison: Comparison) -> Text:
    if comparison.verdict.quiet:
        return Text("✓ The machine was quiet: times can be trusted.", style="green")
    reasons = " ".join(map(sentence, comparison.verdict.reasons)) or "no reason was given"
    return Text(f"! The machine was not quiet, take times with care: {reasons}", style="yellow")
