"""Requests to real graphs in one batch: which share a run, and that each gets its own answer."""

import itertools
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from visiondyno.errors import ModelError
from visiondyno.runtimes.file_model import FileGraph
from visiondyno.runtimes.onnx_graph import graph_of
from visiondyno.serving.tensor_batches import TensorBatches
from visiondyno.serving.wire import Answer, Item, Kind, Media

Size = int | str | None
FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING


class CountedGraph(FileGraph):
    """Tells of how many rows each run was."""

    def __init__(self, graph: FileGraph) -> None:
        self.runs: list[int] = []

        def run(wanted: Any, feeds: Any) -> list[NDArray[Any]]:
            self.runs.append(len(next(iter(feeds.values()))))
            return graph.run_graph(feeds, wanted)

        super().__init__(graph.inputs, graph.outputs, has_free_rows=graph.has_free_rows, run=run)


def make_graph(
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Size]]],
    outputs: dict[str, tuple[int, list[Size]]],
) -> CountedGraph:
    def values(named: dict[str, tuple[int, list[Size]]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, *said) for name, said in named.items()]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(wanted: Any, feeds: Any) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = session.run(list(wanted), dict(feeds))
        except Exception as error:
            raise ModelError(str(error)[:200]) from error
        return found

    found = graph_of(session, run)
    assert found is not None
    return CountedGraph(found)


def doubling(first: Size = "n", out: Size = "n", last: Size = "w") -> CountedGraph:
    """`y` is twice `x`, `z` is `x` negated."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    shape = [out, last]
    return make_graph(
        nodes, {"x": (FLOAT, [first, last])}, {"y": (FLOAT, shape), "z": (FLOAT, shape)}
    )


def ask(inputs: dict[str, Any], datatype: str = "FP32", outputs: list[str] | None = None) -> Item:
    about = [
        {
            "name": name,
            "shape": list(np.shape(data)),
            "datatype": datatype,
            "data": np.ravel(np.array(data, object)).tolist(),
        }
        for name, data in inputs.items()
    ]
    content: dict[str, Any] = {"inputs": about}
    if outputs is not None:
        content["outputs"] = [{"name": name} for name in outputs]
    options = {"form": "http", "json_size": None, "model": "m", "most_rows": 8}
    return Item(Kind.TENSORS, json.dumps(content).encode(), options)


def run(graph: CountedGraph | None, *items: Item) -> list[Answer]:
    ticks = itertools.count(step=1_000_000)
    batches = TensorBatches(graph, lambda: next(ticks))
    return batches.finish(batches.prepare(items))


def told(answer: Answer) -> dict[str, Any]:
    """Data by output."""
    assert answer.media is Media.TENSORS, answer.body
    assert answer.body[:4] == b"\0\0\0\0"
    return {one["name"]: one["data"] for one in json.loads(answer.body[4:])["outputs"]}


def refusal(answer: Answer) -> str:
    assert answer.media is Media.PROBLEM
    assert answer.status == 400
    return str(json.loads(answer.body)["message"])


def test_requests_of_one_row_share_a_run() -> None:
    graph = doubling()
    answers = run(graph, *(ask({"x": [[float(n), 1.0]]}) for n in range(3)))
    assert graph.runs == [3]
    for n, one in enumerate(answers):
        assert told(one) == {"y": [2.0 * n, 2.0], "z": [-1.0 * n, -1.0]}
        assert (one.status, one.run, one.rows) == (200, 0, 1)
    assert all(one.stages == answers[0].stages for one in answers)
    assert answers[0].stages.inference_ms == 1.0
    assert answers[0].stages.decode_ms == 3.0


def test_only_what_agrees_shares_a_run() -> None:
    graph = doubling()
    answers = run(
        graph,
        ask({"x": [[1.0, 2.0]]}),
        ask({"x": [[3.0]]}),  # another width
        ask({"x": [[4.0, 5.0], [6.0, 7.0]]}),  # a batch already
        ask({"x": [[8.0, 9.0]]}, outputs=["z"]),  # other outputs
        ask({"x": [[10.0, 11.0]]}),
        ask({"x": [[12.0, 13.0]]}, outputs=["z"]),
    )
    assert sorted(graph.runs) == [1, 2, 2, 2]
    assert [told(one)["z"] for one in answers] == [
        [-1.0, -2.0], [-3.0], [-4.0, -5.0, -6.0, -7.0], [-8.0, -9.0], [-10.0, -11.0],
        [-12.0, -13.0],
    ]  # fmt: skip
    assert "y" not in told(answers[3])
    assert [one.rows for one in answers] == [1, 1, 2, 1, 1, 1]
    assert answers[0].run == answers[4].run
    assert answers[3].run == answers[5].run
    assert len({one.run for one in answers}) == 4


@pytest.mark.parametrize(
    ("first", "out"),
    [(1, 1), ("n", "k"), (None, None)],
    ids=["fixed", "other-name", "unnamed"],
)
def test_rows_that_the_graph_does_not_call_free_stay_apart(first: Size, out: Size) -> None:
    graph = doubling(first, out)
    answers = run(graph, *(ask({"x": [[float(n)]]}) for n in range(3)))
    assert graph.runs == [1, 1, 1]
    assert [told(one)["y"] for one in answers] == [[0.0], [2.0], [4.0]]
    assert [one.run for one in answers] == [0, 1, 2]


def test_a_graph_that_says_wrongly_that_its_rows_are_free() -> None:
    # It drops what isn't positive: its output is no batch, whatever its dimension is called.
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["at"]),
        helper.make_node("Transpose", ["at"], ["y"], perm=[1, 0]),
    ]
    graph = make_graph(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (TensorProto.INT64, ["n", 2])})
    assert graph.has_free_rows
    answers = run(graph, ask({"x": [[1.0, 1.0]]}), ask({"x": [[-1.0, 1.0]]}))
    assert graph.runs == [2, 1, 1]
    assert [told(one)["y"] for one in answers] == [[0, 0, 0, 1], [0, 1]]


def test_one_that_fails_in_company_fails_alone() -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    table = helper.make_node(
        "Constant", [], ["table"], value=helper.make_tensor("t", FLOAT, [2], [5.0, 6.0])
    )
    graph = make_graph([table, *nodes], {"x": (TensorProto.INT64, ["n"])}, {"y": (FLOAT, ["n"])})
    items = [ask({"x": [index]}, "INT64") for index in (0, 7, 1)]
    first, second, third = run(graph, *items)
    assert (told(first)["y"], told(third)["y"]) == ([5.0], [6.0])
    assert "indices element out of data bounds" in refusal(second)


def test_a_request_that_is_wrong_is_not_the_others_affair() -> None:
    graph = doubling(last=2)
    wrong = Item(Kind.TENSORS, b"{", ask({"x": [[1.0]]}).options)
    answers = run(
        graph,
        ask({"x": [[1.0, 2.0]]}),
        wrong,
        ask({"x": [[1.0]]}),
        ask({}),
        ask({"x": [[1.0, 2.0]] * 9}),
        ask({"x": [[3.0, 4.0]]}),
    )
    assert graph.runs == [2]
    assert told(answers[0])["y"] == [2.0, 4.0]
    assert told(answers[5])["y"] == [6.0, 8.0]
    said = [refusal(one) for one in answers[1:5]]
    assert [one.rows for one in answers[1:5]] == [0] * 4
    assert "isn't JSON" in said[0]
    assert "takes [-1, 2]" in said[1]
    assert "no 'inputs'" in said[2]
    assert "9 rows; at most 8" in said[3]


def test_several_inputs_and_their_order() -> None:
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    shape: list[Size] = ["n", 1]
    graph = make_graph(nodes, {"a": (FLOAT, shape), "b": (FLOAT, shape)}, {"y": (FLOAT, shape)})
    answers = run(
        graph,
        ask({"a": [[5.0]], "b": [[1.0]]}),
        ask({"b": [[2.0]], "a": [[5.0]]}),
        ask({"a": [[5.0]]}),
        ask({"a": [[5.0], [6.0]], "b": [[1.0]]}),
    )
    assert graph.runs == [2]
    assert [told(one)["y"] for one in answers[:2]] == [[4.0], [3.0]]
    assert refusal(answers[2]) == "The input 'b' is missing."
    assert "one size in all inputs" in refusal(answers[3])


def test_strings_are_bytes_on_the_way() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    graph = make_graph(nodes, {"x": (STRING, ["n", 1])}, {"y": (STRING, ["n", 1])})
    answers = run(graph, ask({"x": [["añb"]]}, "BYTES"), ask({"x": [[""]]}, "BYTES"))
    assert graph.runs == [2]
    assert [told(one)["y"] for one in answers] == [["añb"], [""]]
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": 5},
                }
            ]
        }
    ).encode()
    options = {**ask({}).options, "json_size": len(header)}
    (answer,) = run(graph, Item(Kind.TENSORS, header + b"\1\0\0\0\xff", options))
    assert "aren't UTF-8" in refusal(answer)


def test_an_output_that_json_cannot_hold_is_asked_for_again() -> None:
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    graph = make_graph(nodes, {"x": (FLOAT, ["n", 1])}, {"y": (FLOAT, ["n", 1])})
    bad, good = run(graph, ask({"x": [[-1.0]]}), ask({"x": [[1.0]]}))
    assert "ask for it as binary data" in refusal(bad)
    assert bad.rows == 1, "it was in the run"
    assert told(good)["y"] == [0.0]


def test_without_a_graph_nothing_is_run() -> None:
    (answer,) = run(None, ask({"x": [[1.0]]}))
    assert answer.status == 404


def test_graphs_of_types_that_no_array_has_are_none() -> None:
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    sequence = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [1])], [sequence]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert graph_of(session, lambda *_: []) is None
