"""Evaluation tasks: what a file may say, which images are whose, and the built-in one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from visiondyno.errors import SpecError
from visiondyno.measurements.measure import MEASURES
from visiondyno.service.tasks import load_tasks
from visiondyno.specs.evaluation_task import EvaluationTask, Metric

GOOD: dict[str, Any] = {
    "name": "cars",
    "title": "Find cars",
    "description": "",
    "vision_task": "detection",
    "data": "street:demo",
    "metric": {"name": "map_50_95", "better": "higher", "formula": "COCO's AP 50:95"},
    "input": {"height": 320, "width": 320},
    "limits": {"time_s": 10, "memory_bytes": 10**9, "upload_bytes": 10**6},
    "submissions_per_day": 3,
}


def test_the_built_in_task_is_what_it_promises() -> None:
    task = load_tasks()["task2"]
    assert (task.input.height, task.input.width, task.batch_size, task.images) == (448, 448, 8, 96)
    assert (task.vision_task, task.data) == ("depth", "depth-scenes:demo:96")
    assert "0.651" in task.metric.formula
    assert task.input.max_batch >= 32
    assert task.ranking_split(0.0) == "all"
    assert task.parts(96) == {"all": tuple(range(96))}
    assert EvaluationTask.model_validate(task.model_dump(mode="json", by_alias=True)) == task


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "reserved": ({"name": "queue"}, "reserved"),
    "reserved_too": ({"name": "health"}, "reserved"),
    "name": ({"name": "../x"}, "name"),
    "metric": ({"metric": {**GOOD["metric"], "name": "rmse", "better": "lower"}}, "isn't one of"),
    "direction": ({"metric": {**GOOD["metric"], "better": "lower"}}, "more is better"),
    "depth": ({"depth": {"output": "depth"}}, "needed there"),
    "no_depth": (
        {"vision_task": "depth", "metric": {**GOOD["metric"], "name": "delta1"}},
        "needed there",
    ),
    "top1": ({"vision_task": "classification"}, "isn't one of classification"),
    "card": (
        {"card": {"task": "depth", "head": "depth", "input": {"height": 1, "width": 1}}},
        "the card is for depth",
    ),
    "naive_deadline": ({"deadline": "2026-12-01T00:00:00"}, "timezone"),
    "split": ({"split": {"public": 1.0, "seed": 0}}, "public"),
    "unknown_key": ({"prize": 100}, "prize"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    change, says = WRONG[name]
    (tmp_path / "cars.yaml").write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(SpecError, match=says) as caught:
        load_tasks(tmp_path)
    assert "cars.yaml" in caught.value.message


def test_a_folder_adds_and_replaces_tasks(tmp_path: Path) -> None:
    (tmp_path / "cars.yml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**GOOD, "name": "task2"}))
    tasks = load_tasks(tmp_path)
    assert set(tasks) == {"cars", "task2"}
    assert tasks["task2"].title == "Find cars"
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(GOOD))
    with pytest.raises(SpecError, match="'cars' too"):
        load_tasks(tmp_path)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="VISIONDYNO_TASKS_DIR"):
        load_tasks(tmp_path / "nowhere")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SpecError, match=r"bad\.yaml isn't YAML"):
        load_tasks(tmp_path)
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SpecError, match=r"bad\.yaml can't be read"):
        load_tasks(tmp_path)


@pytest.mark.parametrize("name", Metric.model_fields["name"].annotation.__args__)
def test_the_direction_of_each_metric_is_the_measures_own(name: str) -> None:
    better = MEASURES[name].better
    other = "lower" if better == "higher" else "higher"
    assert Metric(name=name, better=better, formula="0123456789").better == better
    with pytest.raises(ValidationError):
        Metric(name=name, better=other, formula="0123456789")


def test_the_private_part_ranks_after_the_deadline() -> None:
    split = {"public": 0.3, "seed": 1}
    task = EvaluationTask.model_validate(
        {**GOOD, "split": split, "deadline": "1970-01-02T00:00:00Z"}
    )
    assert (task.ranking_split(86_399), task.is_over(86_399)) == ("public", False)
    assert (task.ranking_split(86_400), task.is_over(86_400)) == ("private", True)


@given(
    n=st.integers(2, 300),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32),
)
def test_parts_are_disjoint_complete_and_as_large_as_said(n: int, share: float, seed: int) -> None:
    task = EvaluationTask.model_validate({**GOOD, "split": {"public": share, "seed": seed}})
    parts = task.parts(n)
    assert sorted((*parts["public"], *parts["private"])) == list(range(n))
    assert list(parts["public"]) == sorted(parts["public"])
    assert abs(len(parts["public"]) - share * n) <= 1
    assert min(map(len, parts.values())) >= 1
    assert task.parts(n) == parts
