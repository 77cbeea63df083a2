"""Bound memory answers what the plain call answers: shapes that come and go, errors, aliasing."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_builder import build_model
from visiondyno.runtimes.onnx_binding import MOST_SHAPES, BoundSession

BASE = np.arange(12, dtype=np.float32).reshape(1, 3, 4)


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("bound") / "any.onnx"
    return session_of(build_model(path, BASE, slope=BASE + 1, batch=None, size=(None, None)))


def images(rows: int, side: int, seed: int) -> dict[str, Any]:
    values = np.random.default_rng(seed).random((rows, 3, side, side), np.float32)
    return {"images": values}


@pytest.mark.parametrize("captures", [False, True])
@settings(max_examples=15, deadline=None)
@given(calls=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=30))
def test_bound_answers_are_the_plain_ones(
    session: Any, captures: bool, calls: list[tuple[int, int]]
) -> None:
    bound = BoundSession(session, "cpu", captures=captures)
    found, expected = [], []
    for seed, (rows, side) in enumerate(calls):
        feeds = images(rows, side, seed)
        found.append(bound.run(["output"], feeds)[0])
        expected.append(session.run(["output"], feeds)[0])
    # Compared at the end: an answer that later inferences write over would show.
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(left, right)


def test_no_more_graphs_are_captured_than_there_is_memory_for(session: Any) -> None:
    bound = BoundSession(session, "cpu", captures=True)
    for _ in range(3):
        for rows in range(1, MOST_SHAPES + 4):
            bound.run(["output"], images(rows, 2, rows))
    assert bound.captured == MOST_SHAPES
    plain = BoundSession(session, "cpu")
    plain.run(["output"], images(1, 2, 0))
    assert plain.captured == 0


def test_a_view_and_outputs_in_any_order_are_taken(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["a"], ["where"]),
            helper.make_node("Add", ["a", "b"], ["sum"]),
        ],
        "two",
        [info("a", TensorProto.FLOAT, ["n"]), info("b", TensorProto.FLOAT, ["n"])],
        [info("where", TensorProto.INT64, [1, "k"]), info("sum", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "two.onnx"
    path.write_bytes(model.SerializeToString())
    bound = BoundSession(session_of(path), "cpu")
    every_other = np.arange(8, dtype=np.float32)[::2]
    for values in (every_other, np.zeros(4, np.float32), np.ones(4, np.float32)):
        total, where = bound.run(["sum", "where"], {"b": every_other, "a": values})
        np.testing.assert_array_equal(total, every_other + values)
        np.testing.assert_array_equal(where[0], np.flatnonzero(values))


def test_wrong_feeds_are_errors_and_the_next_inference_runs(session: Any) -> None:
    bound = BoundSession(session, "cpu")
    feeds = images(2, 3, 0)
    for wrong in (
        {"images": feeds["images"].astype(np.float64)},
        {"images": feeds["images"][0]},
        {"pictures": feeds["images"]},
        {},
    ):
        with pytest.raises(Exception, match=r"\S"):
            bound.run(["output"], wrong)
    np.testing.assert_array_equal(
        bound.run(["output"], feeds)[0], session.run(["output"], feeds)[0]
    )


def test_nothing_is_bound_after_close(session: Any) -> None:
    bound = BoundSession(session, "cpu")
    bound.run(["output"], images(1, 2, 0))
    bound.close()
    with pytest.raises(AttributeError):
        bound.run(["output"], images(1, 2, 0))
