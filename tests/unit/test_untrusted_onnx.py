"""The checks of a stranger's file, and the child's run of it, without the sandbox around them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hostile_graphs import (
    array,
    chain,
    deep_functions,
    filled,
    fixed,
    harmless,
    looping,
    model,
    nested_ifs,
    node,
    scaled,
    with_card,
)
from hostile_models import HOSTILE, MALFORMED, Case
from small_depth_task import SIDE, write_hidden_data
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


def _function_twice(made: Any) -> None:
    made.functions.append(made.functions[0])


def _training(made: Any) -> None:
    made.training_info.add()


def _sparse_constant(made: Any) -> None:
    values, indices = array("v", [1]), array("", [0], np.int64)
    constant = helper.make_node("Constant", [], ["c"])
    thin = helper.make_sparse_tensor(values, indices, [12 * 10**9])
    constant.attribute.append(helper.make_attribute("sparse_value", thin))
    made.graph.node.insert(0, constant)


def _sparse_list(made: Any) -> None:
    _sparse_constant(made)
    attribute = made.graph.node[0].attribute[0]
    attribute.sparse_tensors.append(attribute.sparse_tensor)
    attribute.ClearField("sparse_tensor")


def _branches(made: Any) -> None:
    inner = helper.make_graph(
        [helper.make_node("Evil", [], ["e"], domain="evil.corp")], "g", [], []
    )
    attribute = made.graph.node[0].attribute.add(name="several", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(inner)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_function_twice, "one function twice"),
        (_training, "training graphs"),
        (_sparse_constant, "48.0 GB"),
        (_sparse_list, "48.0 GB"),
        (_branches, "'evil.corp'"),
    ],
)
def test_the_check_looks_everywhere(change: Any, says: str, tmp_path: Path) -> None:
    made = onnx.ModelProto.FromString(deep_functions(1))
    change(made)
    with pytest.raises(ModelError, match=says):
        check(tmp_path / "theirs.onnx", made.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "values", "fits"),
    [
        (TensorProto.STRING, None, True),
        (TensorProto.INT4, bytes(2), True),  # three halves of a byte
        (TensorProto.INT4, bytes(3), False),
        (TensorProto.BFLOAT16, bytes(6), True),
        (TensorProto.UNDEFINED, bytes(3), False),
    ],
)
def test_tensors_of_every_kind_are_measured(
    kind: int, values: bytes | None, fits: bool, tmp_path: Path
) -> None:
    tensor = TensorProto(name="odd", data_type=kind, dims=[3], raw_data=values)
    if values is None:
        tensor.string_data.extend([b"a", b"b", b"c"])
    nodes = [node("ReduceMean", ["images", "axes"], "depth"), node("Identity", ["odd"], "same")]
    tensors = [tensor, array("axes", [1], np.int64)]
    data = model(nodes, tensors, opsets=(("", 21),), ir_version=10).SerializeToString()
    if fits:
        check(tmp_path / "theirs.onnx", data)
        return
    with pytest.raises(ModelError, match=r"announces 2|unknown type"):
        check(tmp_path / "theirs.onnx", data)
