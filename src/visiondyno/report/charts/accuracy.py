"""How right the models are: precision–recall, classes, confusions."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visiondyno.report.comparison import ConfusionMatrix, ModelReport
from visiondyno.report.format import measure_text, number, shorten, title
from visiondyno.report.plots import (
    Canvas,
    Frame,
    Scale,
    dash,
    draw_x_axis,
    draw_y_axis,
    series_class,
    text_width,
)

CLASS_MEASURES = ("map_50_95", "image_ap", "f1", "recall", "top1", "accuracy")
MOST_CLASSES = 20


def precision_recall(models: Sequence[ModelReport], width: float) -> Markup:
    """Precision over recall at IoU 0.5, one line a model."""
    height = width * 0.78 if width < 450 else width * 0.6
    canvas = Canvas(width, height, "Precision over recall at IoU 0.5, for each model")
    frame = Frame(40, 26, width - 12, height - 42)
    x_scale = Scale(0, 1, frame.left, frame.right)
    y_scale = Scale(0, 1, frame.bottom, frame.top)
    draw_x_axis(canvas, frame, x_scale, "recall", count=5)
    draw_y_axis(canvas, frame, y_scale, "precision")
    for index, model in enumerate(models):
        curve = model.precision_recall
        if curve is None:
            continue
        pairs = zip(curve.recall, curve.precision, strict=True)
        points = [(x_scale(recall), y_scale(precision)) for recall, precision in pairs]
        pattern = f' stroke-dasharray="{dash(index)}"' if dash(index) else ""
        canvas.path(points, f"curve {series_class(index)}", pattern)
    return canvas.svg()


def class_measure(models: Sequence[ModelReport]) -> str | None:
    """The measure that per-class plots and tables show; None where there is none per class."""
    for name in CLASS_MEASURES:
        for model in models:
            if any(name in measures for measures in model.per_class.values()):
                return name
    return None


def per_class_dots(
    models: Sequence[ModelReport], names: dict[str, str], classes: Sequence[str], width: float
) -> Markup:
    """One row a class with a mark for each model; at most `MOST_CLASSES` of `classes`, in order."""
    measure = class_measure(models) or CLASS_MEASURES[0]
    shown = classes[:MOST_CLASSES]
    gutter = min(
        150.0, max(text_width(shorten(label, 20), 12) for label in shown) + 14 if shown else 60
    )
    canvas = Canvas(width, 52 + 22 * len(shown), f"{title(measure)} of each class for each model")
    frame = Frame(gutter, 6, width - 14, 8 + 22 * len(shown))
    scale = Scale(0, 1, frame.left, frame.right)
    draw_x_axis(canvas, frame, scale, title(measure), count=5)
    for place, label in enumerate(shown):
        y = frame.top + 22 * place + 12
        canvas.text(gutter - 8, y + 4, shorten(label, 20), "tick", "end")
        found = [
            (index, model, model.per_class.get(label, {}).get(measure))
            for index, model in enumerate(models)
        ]
        values = [m.value for _, _, m in found if m is not None and m.value is not None]
        if values:
            canvas.line(scale(min(values)), y, scale(max(values)), y, "span")
        for index, model, value in found:
            if value is not None and value.value is not None:
                text = f"{names[model.reference]}, {label}: {measure_text(measure, value)}"
                canvas.marker(scale(value.value), y, index, text, 4.5)
    return canvas.svg()


def confusion_heatmap(name: str, confusion: ConfusionMatrix, width: float) -> Markup:
    """Rows true, columns predicted; colour is the share of the row. Big ones are summed up."""
    labels, counts = _largest(confusion, 9 if width < 450 else 14)
    size = len(labels)
    gutter = min(110.0, max(text_width(shorten(label, 14), 11) for label in labels) + 12)
    slant = gutter * 0.55
    cell = min(56.0, (width - gutter - slant) / size)
    head = gutter * 0.72 + 12
    drawn = gutter + cell * size + slant
    canvas = Canvas(drawn, head + cell * size + 24, f"Confusion matrix of {name}: rows true")
    totals = counts.sum(axis=1)
    for row, label in enumerate(labels):
        y = head + row * cell
        canvas.text(gutter - 6, y + cell / 2 + 4, shorten(label, 14), "tick", "end")
        x = gutter + row * cell + cell / 2
        canvas.add(f'<g transform="translate({x:.1f},{head - 6:.1f}) rotate(-48)">')
        canvas.text(0, 4, shorten(label, 14), "tick")
        canvas.add("</g>")
        for column in range(size):
            count = int(counts[row, column])
            share = count / totals[row] if totals[row] else 0.0
            _cell(canvas, (gutter + column * cell, y, cell), count, share, row == column)
            canvas.add(f"<title>true {Markup.escape(label)}, predicted ")
            canvas.add(f"{Markup.escape(labels[column])}: {count:,} ({share:.0%})</title></rect>")
            if count and cell >= text_width(f"{count}", 10.5) + 4:
                ink = "heat-dark" if share > 0.55 else "heat-light"
                place = gutter + column * cell + cell / 2
                canvas.text(place, y + cell / 2 + 4, f"{count}", ink, "middle")
    canvas.text(gutter, head + cell * size + 16, "rows: true · columns: predicted", "small")
    return canvas.svg()


def _cell(
    canvas: Canvas, place: tuple[float, float, float], count: int, share: float, diagonal: bool
) -> None:
    x, y, cell = place
    css = "heat diagonal" if diagonal else "heat off"
    opacity = 0.0 if count == 0 else 0.08 + 0.92 * share
    canvas.add(
        f'<rect class="{css}" x="{x + 0.75:.1f}" y="{y + 0.75:.1f}" width="{cell - 1.5:.1f}" '
        f'height="{cell - 1.5:.1f}" fill-opacity="{opacity:.2f}">'
    )


def _largest(confusion: ConfusionMatrix, most: int) -> tuple[list[str], NDArray[np.int64]]:
    """The `most` classes with the largest rows, the rest summed as one; background stays last."""
    counts = np.asarray(confusion.counts, np.int64)
    labels = list(confusion.labels)
    if len(labels) <= most:
        return labels, counts
    last = [len(labels) - 1] if labels[-1] == "background" else []
    order = [int(i) for i in np.argsort(-counts.sum(axis=1), kind="stable") if int(i) not in last]
    kept, rest = sorted(order[: most - 2]), order[most - 2 :]
    groups = [[index] for index in kept] + [rest] + [last] * bool(last)
    folded = np.array([[counts[np.ix_(a, b)].sum() for b in groups] for a in groups], np.int64)
    names = (
        [labels[index] for index in kept] + [f"{len(rest)} others"] + ["background"] * bool(last)
    )
    return names, folded


def per_class_rows(
    models: Sequence[ModelReport], classes: dict[str, int], measure: str
) -> list[tuple[str, int, list[str]]]:
    """The per-class table: class, labelled objects, one cell a model; most objects first."""
    ordered = sorted(classes, key=lambda label: (-classes[label], label))
    rows = []
    for label in ordered:
        cells = []
        for model in models:
            found = model.per_class.get(label, {}).get(measure)
            absent = found is None or found.value is None
            cells.append("–" if absent or found is None else number(found.value or 0.0))
        rows.append((label, classes[label], cells))
    return rows
