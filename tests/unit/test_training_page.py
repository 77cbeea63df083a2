"""The page, the CSV and the curves of a training, from values alone."""

import csv
import html
import io
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.report.training import (
    TrainingRecord,
    best_of,
    epoch_cells,
    epoch_columns,
    history_csv,
    metric_names,
    series_of,
    training_html,
    training_snippet,
)


def record(epoch: int, train: dict[str, float], val: dict[str, float] | None = None) -> Any:
    found: dict[str, Any] = {"epoch": epoch, "train_metrics": train}
    return found if val is None else {**found, "val_metrics": val}


HISTORY = [
    record(
        epoch,
        {"loss": 2.0 / epoch, "accuracy": 0.5, "samples_processed": 10},
        {"loss": 1.0 + abs(epoch - 3), "accuracy": 0.1 * epoch, "samples_processed": 5},
    )
    for epoch in (1, 2, 3, 4)
]


def page(history: Any, **fields: Any) -> str:
    given = {"title": "a net on digits", "monitor": "val_loss", "best_epoch": 3, **fields}
    return training_html(TrainingRecord(history=history, yaml="epochs: 4\n", made="Made.", **given))


def test_the_best_epoch_is_the_first_of_equals_and_never_a_nan() -> None:
    assert best_of(HISTORY, "val_loss", less_is_better=True) == 3
    assert best_of(HISTORY, "train_accuracy", less_is_better=False) == 1
    assert best_of(HISTORY, "val_accuracy", less_is_better=False) == 4
    odd = [record(1, {"loss": math.nan}), record(2, {"loss": 5.0}), record(3, {"loss": math.inf})]
    assert best_of(odd, "train_loss", less_is_better=True) == 2
    assert best_of(odd, "val_loss", less_is_better=True) == 0
    assert best_of([], "val_loss", less_is_better=True) == 0


def test_csv_holds_every_number_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(history_csv(HISTORY))))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    for row, told in zip(rows, HISTORY, strict=True):
        assert float(row["train_loss"]) == told["train_metrics"]["loss"]
        assert float(row["val_accuracy"]) == told["val_metrics"]["accuracy"]
    gaps = history_csv([record(1, {"loss": 1.5}), record(2, {"loss": 1.0}, {"loss": 3.0})])
    assert gaps == "epoch,train_loss,val_loss\n1,1.5,\n2,1.0,3.0\n"


def test_the_table_has_a_column_of_each_metric_and_part() -> None:
    columns = epoch_columns(HISTORY)
    assert columns == [
        ("train_metrics", "loss"),
        ("val_metrics", "loss"),
        ("train_metrics", "accuracy"),
        ("val_metrics", "accuracy"),
    ]
    assert epoch_cells(HISTORY[0], columns) == ["2.000", "3.000", "0.5000", "0.1000"]
    assert epoch_cells(record(1, {"loss": math.nan}), columns) == ["nan", "–", "–", "–"]
    assert metric_names([]) == []


def test_curves_leave_out_what_is_not_finite() -> None:
    told = [record(1, {"loss": math.inf}, {"loss": math.nan}), record(2, {"loss": 1.0})]
    assert series_of(told, "loss") == [("training", [(2, 1.0)])]
    assert series_of(HISTORY, "loss")[1][0] == "validation"
    assert "<figure" not in page(told[:1])
    assert "inf" in page(told[:1])  # the table says it


def test_the_page_tells_everything_and_fetches_nothing() -> None:
    text = page(
        HISTORY,
        ended="It was interrupted.",
        notes=["two images were left out"],
        facts={"Time": "12 s"},
        settings={
            "epochs": 4,
            "seed": None,
            "model_config": {"layers": [{"type": "relu"}, {"type": "linear", "bias": True}]},
            "training_data": {"mean": [0.5, 0.5], "features": []},
            "hyperparameters": {"optimizer": "adam", "loss_arguments": {}},
        },
        environment={"device": "cpu"},
    )
    for said in ("It was interrupted.", "two images were left out", "12 s", "adam", "bias=True"):
        assert said in text
    assert text.count('<figure class="card plot">') == 2
    assert "loss arguments" not in text  # nothing was given
    assert not re.findall(r"(?:src|href)=\"(?!#)", text)
    assert "default-src 'none'" in html.unescape(text)


def test_texts_from_outside_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    text = page(
        [record(1, {evil: 1.0})],
        title=evil,
        notes=[evil],
        settings={evil: {"a": evil}},
        environment={evil: evil},
        ended=evil,
    )
    assert evil not in text
    assert text.count("<script>") == 1  # our own
    snippet = training_snippet(
        TrainingRecord(evil, [record(1, {evil: 1.0})], "train_loss", 0, evil, evil), evil
    )
    assert "<script" not in snippet


@given(
    st.lists(st.floats(min_value=-1e30, max_value=1e30) | st.just(0.0), min_size=1, max_size=60),
    st.booleans(),
)
def test_any_finite_history_can_be_drawn(values: list[float], with_validation: bool) -> None:
    history = [
        record(number, {"loss": value}, {"loss": value} if with_validation else None)
        for number, value in enumerate(values, start=1)
    ]
    best = best_of(history, "train_loss", less_is_better=True)
    snippet = training_snippet(
        TrainingRecord("t", history, "train_loss", best, "", ""), f"epoch {len(values)}"
    )
    assert "<polyline" in snippet
    assert "nan" not in snippet
    places = [
        float(y) for y in re.findall(r"<path class=\"marker[^\"]*\" d=\"M[^,]*,(-?[\d.]+)", snippet)
    ]
    assert places
    assert all(-5 <= y <= 230 for y in places)  # inside the drawing


@pytest.mark.browser
def test_the_page_is_whole_in_a_browser_light_and_dark(browser: Any, tmp_path: Any) -> None:
    file = tmp_path / "training.html"
    file.write_text(page(HISTORY, settings={"epochs": 4}), encoding="utf-8")
    for scheme in ("light", "dark"):
        for width in (380, 1200):
            view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            faults: list[str] = []
            view.on("console", lambda message, found=faults: found.append(message.text))
            view.on("pageerror", lambda error, found=faults: found.append(str(error)))
            view.goto(file.as_uri())
            assert view.title() == "a net on digits – VisionDyno"
            wide = view.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
            assert view.locator("#curves svg:visible").count() >= 2
            assert faults == []
            view.close()
