"""The comparison as CSV: one row for each model and measure, for spreadsheets and scripts."""

import csv
import io
from collections.abc import Iterator

from visiondyno.measurements.measure import Measure
from visiondyno.report.comparison import Comparison
from visiondyno.report.model_facts import model_facts

COLUMNS = (
    "model",
    "name",
    "scope",
    "measure",
    "value",
    "unit",
    "interval_low",
    "interval_high",
    "n",
    "estimated",
    "method",
    "reason",
    "model_precision",
)

# A spreadsheet runs a cell that starts so as a formula, and a model's file name is anybody's.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def to_csv(comparison: Comparison) -> str:
    r"""CSV text (RFC 4180 quoting, `\\n` lines) with the columns `COLUMNS`.

    `scope` is `model` for the file's size and the number of weights, `all` for the flat measures,
    `class NAME` for one class's, `scenario NAME` and `early stopping NAME` for a scenario's. Each
    row repeats the model's precision. Values are in full precision; a missing value is empty.
    A text that a spreadsheet would take for a formula has an apostrophe put before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in comparison.models:
        facts = model_facts(model)
        precision = facts.precision or ""
        told = {"file_bytes": (facts.file_bytes, "bytes"), "parameters": (facts.parameters, "")}
        for name, (count, unit) in told.items():
            if count is not None:
                head = (model.reference, model.name, "model", name)
                cells = [str(count), unit, "", "", "", "false", "as the file says", ""]
                writer.writerow([*map(_safe, head), *cells, _safe(precision)])
        scopes = [("all", model.measures)]
        scopes += [(f"class {name}", measures) for name, measures in model.per_class.items()]
        for name, scenario in model.scenarios.items():
            scopes.append((f"scenario {name}", scenario.measures))
            scopes.append((f"early stopping {name}", scenario.early_stopping))
        for scope, measures in scopes:
            for name, measure in measures.items():
                head = (model.reference, model.name, scope, name)
                writer.writerow([*map(_safe, head), *_cells(measure), _safe(precision)])
    return out.getvalue()


def _cells(measure: Measure) -> Iterator[str]:
    low, high = measure.interval or (None, None)
    yield "" if measure.value is None else repr(measure.value)
    yield measure.unit
    yield "" if low is None else repr(low)
    yield "" if high is None else repr(high)
    yield "" if measure.n is None else str(measure.n)
    yield "true" if measure.estimated else "false"
    yield _safe(measure.method)
    yield _safe(measure.reason or "")


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
