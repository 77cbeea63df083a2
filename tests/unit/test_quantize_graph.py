"""Which nodes stay in floating point: heads by the graph alone, and what users name."""

import onnx
import pytest
from onnx import TensorProto, helper

from visiondyno.errors import SpecError
from visiondyno.operations.quantize_graph import (
    check_excluded,
    head_nodes,
    kept_nodes,
    name_nodes,
)

IMAGE = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])


def graph_of(*nodes, outputs=("out",), weights=("w", "v", "line")):
    """A graph whose constants are scalars by name: only its edges matter here."""
    return helper.make_graph(
        [helper.make_node(kind, inputs, made, name=name) for name, kind, inputs, made in nodes],
        "g",
        [IMAGE],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0]) for name in weights],
    )


def test_the_head_is_what_reaches_no_weights():
    graph = graph_of(
        ("body", "Conv", ["images", "w"], ["a"]),
        ("relu", "Relu", ["a"], ["b"]),
        ("last", "Conv", ["b", "v"], ["c"]),
        ("skip", "Add", ["c", "b"], ["d"]),
        ("score", "Sigmoid", ["d"], ["out"]),
    )
    assert head_nodes(graph) == {"skip", "score"}


def test_each_output_path_has_its_own_last_weights():
    graph = graph_of(
        ("stem", "Conv", ["images", "w"], ["a"]),
        ("boxes", "Conv", ["a", "v"], ["b"]),
        ("exp", "Exp", ["b"], ["out"]),
        ("classes", "MatMul", ["a", "v"], ["c"]),
        ("softmax", "Softmax", ["c"], ["scores"]),
        outputs=("out", "scores"),
    )
    assert head_nodes(graph) == {"exp", "softmax"}


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_the_expectation_of_a_distribution_is_decoding(kind):
    # As YOLOv8 (a convolution by 0 … 15) and NanoDet (a product with 0 … 7) have it.
    graph = graph_of(
        ("boxes", "Conv", ["images", "w"], ["a"]),
        ("share", "Softmax", ["a"], ["b"]),
        ("turn", "Transpose", ["b"], ["c"]),
        ("distance", kind, ["c", "line"], ["d"]),
        ("scale", "Mul", ["d", "v"], ["out"]),
    )
    assert head_nodes(graph) == {"share", "turn", "distance", "scale"}


def test_attention_is_no_decoding():
    graph = graph_of(
        ("query", "MatMul", ["images", "w"], ["q"]),
        ("share", "Softmax", ["q"], ["s"]),
        ("attend", "MatMul", ["s", "q"], ["t"]),
        ("project", "MatMul", ["t", "v"], ["u"]),
        ("score", "Sigmoid", ["u"], ["out"]),
    )
    assert head_nodes(graph) == {"score"}


def test_without_weights_everything_is_head_unless_it_may_be_quantized():
    graph = graph_of(("relu", "Relu", ["images"], ["out"]))
    assert kept_nodes(graph, (), keep_head=True).names == ["relu"]
    assert kept_nodes(graph, (), keep_head=False).names == []


def test_types_and_names_are_excluded_alike():
    graph = graph_of(
        ("one", "Conv", ["images", "w"], ["a"]),
        ("two", "Conv", ["a", "v"], ["b"]),
        ("three", "Relu", ["b"], ["out"]),
    )
    assert kept_nodes(graph, ("Conv",), keep_head=False).names == ["one", "two"]
    assert kept_nodes(graph, ("two", "Relu"), keep_head=False).names == ["three", "two"]


def test_nodes_without_a_name_get_one_of_their_own():
    nodes = [("", "Conv", ["images", "w"], ["a"]), ("", "Relu", ["a"], ["b"])]
    graph = graph_of(*nodes, ("Relu_1", "Relu", ["b"], ["c"]), ("Relu_1", "Relu", ["c"], ["out"]))
    name_nodes(graph)
    names = [node.name for node in graph.node]
    assert len(set(names)) == 4
    assert names[0] == "Conv_0"


def test_unknown_names_are_told_with_the_nearest():
    graph = graph_of(("head.conv", "Conv", ["images", "w"], ["out"]))
    check_excluded(("head.conv", "Conv"), [graph])
    with pytest.raises(SpecError, match=r"'head.cnov'; did you mean head.conv\?"):
        check_excluded(("head.cnov",), [graph])
    with pytest.raises(SpecError, match=r"operator 'zzz'\. Its types"):
        check_excluded(("zzz",), [onnx.GraphProto(), graph])
