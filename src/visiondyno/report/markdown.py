"""The comparison as Markdown: for pull requests, issues and notes."""

from collections.abc import Sequence

from visiondyno.measurements.measure import MEASURES, Measure
from visiondyno.report.against import Cell, against_reference
from visiondyno.report.comparison import Comparison
from visiondyno.report.differences import tie_text
from visiondyno.report.format import (
    MIB,
    NOT_MEASURED,
    interval_text,
    measure_text,
    number,
    sentence,
    signed_text,
    title,
    unit_label,
    value_text,
)
from visiondyno.report.history import MOST_RUNS, histories
from visiondyno.report.layout import (
    GROUPS,
    best_references,
    display_names,
    has_value,
    headline,
    main_measures,
    subtitle,
)
from visiondyno.report.model_facts import ModelFacts, count_text, model_facts
from visiondyno.report.origins import newest
from visiondyno.report.scenarios import KINDS, RATE, scenario_tables
from visiondyno.report.yaml_spec import dump_spec


def to_markdown(comparison: Comparison) -> str:
    """The report as GitHub-flavoured Markdown, without plots and images."""
    current = comparison.model_copy(update={"models": newest(comparison.models)})
    blocks = [
        f"# {_escape(headline(comparison))}",
        _escape(subtitle(comparison)),
        _verdict(comparison),
        _winners(comparison),
        _main_table(comparison),
        _against(comparison),
        _history(comparison),
        _scenarios(current),
        _left_out(comparison),
        _differences(comparison),
        _everything(current),
        _environment(comparison),
        _notes(comparison),
        f"## Reproduce\n\n```yaml\n{dump_spec(comparison.spec).replace('```', '` ` `')}```",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _verdict(comparison: Comparison) -> str:
    notes = "".join(f"\n- {_escape(note)}" for note in comparison.verdict.notes)
    below = f"\n{notes}" if notes else ""
    if comparison.verdict.quiet:
        return f"**The machine was quiet:** times can be trusted.{below}"
    reasons = _escape(" ".join(map(sentence, comparison.verdict.reasons)))
    return f"> **The machine was not quiet: take times with care.** {reasons}{below}"


def _winners(comparison: Comparison) -> str:
    if not comparison.winners:
        return ""
    names = display_names(comparison.models)
    rows = []
    for winner in comparison.winners:
        who = ", ".join(_escape(names.get(ref, ref)) for ref in winner.references) or "no winner"
        tie = " (tie)" if len(winner.references) > 1 else ""
        rows.append([winner.title, f"**{who}**{tie}", _escape(winner.explanation)])
    return "## Winners\n\n" + _table(["Category", "Winner", "Why"], rows)


def _in_place(facts: ModelFacts) -> str:
    return f" (in place of {facts.stands_in_for})" if facts.stands_in_for else ""


def _main_table(comparison: Comparison) -> str:
    if not comparison.models:
        return "No model could be measured."
    columns = main_measures(comparison)
    names = display_names(comparison.models)
    facts = {model.reference: model_facts(model) for model in comparison.models}
    heads = ["Model", "Precision", "File (MiB)", "Parameters", *(_head(name) for name in columns)]
    rows = []
    for model in comparison.models:
        said = facts[model.reference]
        row = [
            _escape(names[model.reference] + _in_place(said)),
            _escape(said.precision or "–"),
            "–" if said.file_bytes is None else number(said.file_bytes / MIB),
            "–" if said.parameters is None else count_text(said.parameters),
        ]
        for name in columns:
            cell = _cell(name, model.measures.get(name))
            best = model.reference in best_references(comparison, name)
            row.append(f"**{cell}**" if best else cell)
        rows.append(row)
    note = "Brackets hold 95 % intervals; ≈ marks estimates, which take no part in rankings. Bold: "
    note += "the best, or tied with it."
    return "## Results\n\n" + _table(heads, rows, numbers_from=1) + f"\n\n{note}"


def _cell(name: str, measure: Measure | None) -> str:
    if measure is None or measure.value is None:
        return NOT_MEASURED
    interval = interval_text(name, measure.interval)
    text = value_text(name, measure.value) + (f" {interval}" if interval else "")
    return f"≈ {text}" if measure.estimated else text


def _against(comparison: Comparison) -> str:
    against = against_reference(comparison)
    if against is None:
        return ""
    names = display_names(comparison.models)
    rows = [
        [
            _escape(names[reference]),
            *(
                " ".join(part for part in (_weighted(cell), cell.interval) if part) or "–"
                for cell in cells
            ),
        ]
        for reference, cells in against.rows
    ]
    heads = ["Model", *against.columns]
    name = _escape(names[against.reference])
    table = _table(heads, rows, numbers_from=1)
    return f"## Against {name}\n\n{table}\n\n{against.explanation} Bold: no tie."


def _weighted(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.text and not cell.tie else cell.text


def _history(comparison: Comparison) -> str:
    blocks = []
    for found in histories(comparison.models):
        runs = found.runs[-MOST_RUNS:]
        rows = [
            [
                _head(agreement.measure),
                *(_cell(agreement.measure, run.measures.get(agreement.measure)) for run in runs),
                _escape("; ".join([agreement.verdict, *agreement.reasons])),
            ]
            for agreement in found.agreements
        ]
        dates = found.dates[-MOST_RUNS:]
        blocks.append(f"### {_escape(found.name)}\n\n{_escape(found.place)}")
        blocks.append(_table(["Measure", *dates, "Intervals"], rows))
    return "## History\n\n" + "\n\n".join(blocks) if blocks else ""


def _scenarios(comparison: Comparison) -> str:
    names = display_names(comparison.models)
    blocks = []
    for table in scenario_tables(comparison.models, names):
        heads = ["Model", "Figures of"]
        heads += ["Rate (images/s)" if name == RATE else _head(name) for name in table.columns]
        heads += ["n", "Verdict"]
        rows = [
            [
                _escape(names[row.reference]),
                KINDS[row.kind],
                *(" ".join(part for part in cell if part) or "–" for cell in row.cells),
                row.n,
                _escape(row.verdict),
            ]
            for row in table.rows
        ]
        notes = "".join(f"\n- {_escape(note)}" for note in table.notes)
        blocks.append(f"### {table.scenario}\n\n{_table(heads, rows)}")
        blocks += [notes.strip()] if notes else []
    return "## Scenarios\n\n" + "\n\n".join(blocks) if blocks else ""


def _left_out(comparison: Comparison) -> str:
    if not comparison.left_out:
        return ""
    rows = [[_escape(o.reference), o.stage, _escape(o.reason)] for o in comparison.left_out]
    return "## Left out\n\n" + _table(["Model", "Stage", "Reason"], rows)


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    names = display_names(comparison.models)
    rows = [
        [
            title(found.measure),
            _escape(f"{names.get(found.a, found.a)} − {names.get(found.b, found.b)}"),
            f"{signed_text(found.measure, found.value)} {unit_label(found.measure)}".strip(),
            interval_text(found.measure, found.interval) or "unknown",
            tie_text(found),
        ]
        for found in comparison.differences
    ]
    heads = ["Measure", "Models", "Difference", "95 % interval", "Verdict"]
    return "## Differences\n\n" + _table(heads, rows)


def _everything(comparison: Comparison) -> str:
    names = display_names(comparison.models)
    blocks = []
    for group, measures in GROUPS:
        rows = [
            [_head(name)]
            + [
                _escape(measure_text(name, m.measures.get(name), unit=False))
                for m in comparison.models
            ]
            for name in measures
            if has_value(comparison.models, name)
        ]
        if rows:
            heads = [group] + [_escape(names[model.reference]) for model in comparison.models]
            blocks.append(_table(heads, rows, numbers_from=1))
    return "## Every measure\n\n" + "\n\n".join(blocks) if blocks else ""


def _environment(comparison: Comparison) -> str:
    machine = comparison.environment
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    lines = [
        f"- machine `{machine.machine_id}`: {_escape(f'{machine.cpu_model}, {machine.system}')}",
        f"- VisionDyno {comparison.visiondyno}, Python {machine.python}; {_escape(packages)}",
        f"- data `{comparison.dataset.digest}`",
    ]
    if comparison.job is not None:
        lines += [f"- {name}: {_escape(text)}" for name, text in comparison.job.lines()]
    lines += [
        f"- {what}: not measured, {_escape(why)}" for what, why in machine.cannot_measure.items()
    ]
    return "## Environment\n\n" + "\n".join(lines)


def _notes(comparison: Comparison) -> str:
    lines = [f"- {_escape(note)}" for note in comparison.notes]
    lines += [f"- {_escape(m.name)}: {_escape(n)}" for m in comparison.models for n in m.notes]
    skipped = comparison.dataset.skipped
    if skipped:
        lines.append(f"- {len(skipped)} bad images were skipped, first {_escape(skipped[0].image)}")
    return "## Notes\n\n" + "\n".join(lines) if lines else ""


def _head(name: str) -> str:
    unit = unit_label(name)
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[MEASURES[name].better]
    return f"{title(name)} ({unit}){arrow}" if unit else f"{title(name)}{arrow}"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int | None = None
) -> str:
    rule = [
        "---" if numbers_from is None or index < numbers_from else "---:"
        for index in range(len(heads))
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def _escape(text: str) -> str:
    """Text that can't break the table or start markup or HTML."""
    flat = " ".join(text.split()).replace("&", "&amp;")
    for sign in "\\`*_[]|":
        flat = flat.replace(sign, f"\\{sign}")
    return flat.replace("<", "&lt;").replace(">", "&gt;")
