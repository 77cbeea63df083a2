"""The checks of a stranger's file, and the child's run of it, without the sandbox around them."""

import json
from pathlib import Path
from typing import Any

import pytest

from hostile_models import (
    HOSTILE,
    MALFORMED,
    SIDE,
    Case,
    chain,
    filled,
    fixed,
    harmless,
    looping,
    nested_ifs,
    scaled,
    with_card,
    write_hidden_data,
)
from visiondyno.errors import ModelError
from visiondyno.measuring import untrusted
from visiondyno.measuring.prediction_files import load_predictions
from visiondyno.measuring.untrusted import predict_untrusted
from visiondyno.predictions import DepthMap
from visiondyno.runtimes.untrusted_onnx import check_untrusted
from visiondyno.specs.evaluation_task import InputRule

RULE = InputRule(height=SIDE, width=SIDE)
CARD = {
    "task": "depth",
    "head": "depth",
    "input": {"height": SIDE, "width": SIDE, "resize": "stretch"},
}
# These pass the checks: only running them shows what they are.
FOUND_BY_RUNNING = {
    "endless_loop",
    "tensor_of_48_gb",
    "expanded_to_128_gb",
    "folding_bomb",
    "a_classifier",
    "not_numbers",
    "infinite",
    "card_of_no_json",
    "card_of_another_task",
}
REFUSED = [case for case in (*HOSTILE, *MALFORMED) if case.name not in FOUND_BY_RUNNING]


def check(path: Path, data: bytes, rule: InputRule = RULE) -> None:
    path.write_bytes(data)
    check_untrusted(path, rule, max_bytes=5_000_000, memory_bytes=1_000_000_000)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_the_check_refuses(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"(?i){case.says}"):
        check(tmp_path / "theirs.onnx", case.hostile())


@pytest.mark.parametrize(
    "data",
    [harmless(), looping(10**12), filled(12 * 10**9), nested_ifs(16), chain(1000), fixed(64)],
    ids=["harmless", "loop", "large", "nested", "long", "batch"],
)
def test_the_check_lets_pass_what_only_running_can_tell(data: bytes, tmp_path: Path) -> None:
    check(tmp_path / "theirs.onnx", data)


def test_the_rule_may_want_rows_first_and_bytes(tmp_path: Path) -> None:
    rule = InputRule(height=SIDE, width=SIDE, layouts=("nhwc",), dtypes=("uint8", "int8"))
    with pytest.raises(ModelError, match=r"layout is nchw.*\[\?, 32, 32, 3\] uint8 or int8"):
        check(tmp_path / "theirs.onnx", harmless(), rule)


@pytest.fixture
def payload(tmp_path: Path) -> dict[str, Any]:
    write_hidden_data(tmp_path / "hidden", 3)
    (tmp_path / "theirs.onnx").write_bytes(harmless())
    return {
        "model": str(tmp_path / "theirs.onnx"),
        "images": [str(path) for path in sorted((tmp_path / "hidden" / "images").iterdir())],
        "rule": RULE.model_dump(),
        "card": CARD,
        "batch_size": 2,
        "device": "cpu",
        "threads": 1,
        "max_bytes": 5_000_000,
        "memory_bytes": 1_000_000_000,
        "predictions_file": str(tmp_path / "predictions.npz"),
        "started_ns": 0,
    }


def test_the_child_checks_loads_and_predicts(payload: dict[str, Any]) -> None:
    events: list[dict[str, Any]] = []
    answer = predict_untrusted(payload, events.append)
    assert [event["stage"] for event in events[:3]] == [
        "checking the model",
        "loading the model",
        "running the model",
    ]
    assert [event.get("done") for event in events[3:]] == [2, 3]
    assert answer["description"]["card"]["task"] == "depth"
    found = load_predictions(Path(payload["predictions_file"]))
    assert len(found) == 3
    assert isinstance(found[0], DepthMap)
    assert found[0].depth.shape == (SIDE, SIDE)
    assert 0 < found[0].depth.min() < found[0].depth.max() < 1  # pixels were scaled to 0–1


def test_what_a_model_says_of_its_input_itself_holds(payload: dict[str, Any]) -> None:
    card = {**CARD, "input": {**CARD["input"], "scale": 1.0}}
    payload["threads"] = None
    Path(payload["model"]).write_bytes(with_card(json.dumps(card)))
    predict_untrusted(payload, lambda _: None)
    found = load_predictions(Path(payload["predictions_file"]))[0]
    assert isinstance(found, DepthMap)
    assert found.depth.max() > 100


def test_the_child_tells_failures_in_words(
    payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(payload["model"]).write_bytes(scaled(float("nan")))
    with pytest.raises(ModelError, match="NaN"):
        predict_untrusted(payload, lambda _: None)

    def no_room(*_: Any, **__: Any) -> None:
        raise MemoryError

    def stumble(*_: Any, **__: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(untrusted, "check_untrusted", no_room)
    with pytest.raises(ModelError, match=r"more memory than the 1.0 GB"):
        predict_untrusted(payload, lambda _: None)
    monkeypatch.setattr(untrusted, "check_untrusted", stumble)
    with pytest.raises(ModelError, match=r"can't be run .IndexError: list index out of range"):
        predict_untrusted(payload, lambda _: None)
