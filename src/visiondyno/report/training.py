"""A training as a page, as CSV, and in words: made from values alone."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from visiondyno.report.charts.training_curves import Series, training_curve
from visiondyno.report.figures import NARROW, WIDE, Figure
from visiondyno.report.format import number, plural
from visiondyno.report.page import render_page, render_piece
from visiondyno.report.plots import Canvas, dash, series_class

History = Sequence[Mapping[str, Any]]
"""Records `{"epoch": 1, "train_metrics": {…}, "val_metrics": {…}}`; the last only with data."""

PARTS = (("train_metrics", "training"), ("val_metrics", "validation"))
SNIPPET_EPOCHS = 10
"""The newest epochs that a notebook's table shows."""

NOT_A_CURVE = frozenset({"samples_processed"})

TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "map_50_95": "mAP 50–95",
    "map_50": "mAP 50",
    "map_75": "mAP 75",
    "image_ap": "Average precision at image level",
    "image_auc": "ROC AUC at image level",
    "image_accuracy": "Accuracy at image level",
    "f1": "F1",
    "box_loss": "Loss of boxes",
    "cls_loss": "Loss of classes",
    "dfl_loss": "Loss of box edges",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "r2": "R²",
}


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What there is to tell of a training.

    Attributes:
        title: what was trained on what.
        history: a record of each epoch that was done.
        monitor: the metric that `best_epoch` is of, such as `val_loss`.
        best_epoch: 0 where there is none.
        ended: why it ended, where that wasn't the last epoch; empty else.
        notes: what a reader must know, such as a logger that failed.
        facts: of the result, in order: time, samples a second, parameters …
        settings: the request as it was used.
        environment: of the worker, as it said.
        yaml: repeats the training.
        made: who wrote it and when.
    """

    title: str
    history: History
    monitor: str
    best_epoch: int
    yaml: str
    made: str
    ended: str = ""
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


def metric_title(name: str) -> str:
    """A metric's name for people."""
    return TITLES.get(name, name.replace("_", " "))


def metric_names(history: History) -> list[str]:
    """The metrics that stand in any record, in the order of their first appearance."""
    names: dict[str, None] = {}
    for record in history:
        for part, _ in PARTS:
            names |= dict.fromkeys(record.get(part) or {})
    return [name for name in names if name not in NOT_A_CURVE]


def best_of(history: History, monitor: str, *, less_is_better: bool) -> int:
    """The epoch with the best finite value of `monitor` (`val_loss`), the first of equals; or 0."""
    part, _, name = monitor.partition("_")
    sign = 1 if less_is_better else -1
    able = [
        (sign * float(record[f"{part}_metrics"][name]), int(record["epoch"]))
        for record in history
        if math.isfinite((record.get(f"{part}_metrics") or {}).get(name, math.nan))
    ]
    return min(able)[1] if able else 0


def series_of(history: History, metric: str) -> list[Series]:
    """The lines of one metric: training, and validation where there is any; finite values only."""
    lines: list[Series] = []
    for part, name in PARTS:
        points = [
            (int(record["epoch"]), float(record[part][metric]))
            for record in history
            if metric in (record.get(part) or {}) and math.isfinite(record[part][metric])
        ]
        lines.append((name, points))
    return lines if lines[1][1] else lines[:1]


def history_csv(history: History) -> str:
    """One row an epoch: `epoch`, then `train_…` and `val_…` of each metric, in full precision."""
    names: dict[tuple[str, str], None] = {}
    for record in history:
        for part, _ in PARTS:
            names |= dict.fromkeys((part, name) for name in record.get(part) or {})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["epoch", *(f"{part.removesuffix('metrics')}{name}" for part, name in sorted(names))]
    )
    for record in history:
        cells = [(record.get(part) or {}).get(name, "") for part, name in sorted(names)]
        writer.writerow([record["epoch"], *(repr(cell) if cell != "" else "" for cell in cells)])
    return out.getvalue()


def training_html(record: TrainingRecord) -> str:
    """The self-contained page: curves, every epoch, settings, environment, and how to repeat it."""
    columns = epoch_columns(record.history)
    return render_page(
        "training.html.j2",
        {
            "r": record,
            "done": plural(len(record.history), "epoch"),
            "curves": _curves(record),
            "columns": columns,
            "rows": [
                (int(found["epoch"]), epoch_cells(found, columns)) for found in record.history
            ],
            "parts": [(key_of(index), name) for index, (_, name) in enumerate(PARTS)],
            "has_validation": any(found.get("val_metrics") for found in record.history),
            "title_of_metric": metric_title,
        },
    )


def training_snippet(record: TrainingRecord, doing: str) -> Markup:
    """Curves and epochs as a piece of a page, for notebooks; its style stays inside it."""
    columns = epoch_columns(record.history)
    return render_piece(
        "training_snippet.html.j2",
        {
            "r": record,
            "doing": doing,
            "curves": _curves(record),
            "columns": columns,
            "rows": [
                (int(found["epoch"]), epoch_cells(found, columns))
                for found in record.history[-SNIPPET_EPOCHS:]
            ],
            "title_of_metric": metric_title,
        },
    )


def key_of(index: int) -> Markup:
    """A line's mark in a legend."""
    canvas = Canvas(30, 14, "")
    pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
    canvas.line(1, 7, 29, 7, f"curve {series_class(index)}", pattern)
    canvas.marker(15, 7, index, "", 4.5)
    return Markup(  # noqa: S704  # made of constants
        '<svg class="key" viewBox="0 0 30 14" aria-hidden="true">'
        + "".join(canvas.parts)
        + "</svg>"
    )


def _curves(record: TrainingRecord) -> list[Figure]:
    found = (_curve(name, record) for name in metric_names(record.history))
    return [figure for figure in found if figure is not None]


def _curve(name: str, record: TrainingRecord) -> Figure | None:
    series = series_of(record.history, name)
    if not any(points for _, points in series):
        return None  # never finite: the table of epochs shows it

    def draw(width: float) -> Markup:
        return training_curve(name, series, record.best_epoch, width)

    return Figure(metric_title(name), "", draw(NARROW), draw(WIDE))


Column = tuple[str, str]
"""Part of a record and name of a metric."""


def epoch_columns(history: History) -> list[Column]:
    """The columns of a table of epochs: of each metric the training's, then the validation's."""
    return [
        (part, name)
        for name in metric_names(history)
        for part, _ in PARTS
        if any(name in (record.get(part) or {}) for record in history)
    ]


def epoch_cells(record: Mapping[str, Any], columns: Sequence[Column]) -> list[str]:
    """The record's numbers as text; one that isn't finite by its name, since that is the news."""
    texts = []
    for part, name in columns:
        value = (record.get(part) or {}).get(name)
        if value is None:
            texts.append("–")
        else:
            texts.append(number(value, 4) if math.isfinite(value) else repr(value))
    return texts
