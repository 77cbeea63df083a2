"""What profilers say, read: events of ONNX Runtime, counters of OpenVINO, arguments of torch."""

import datetime
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from visiondyno.errors import Unavailable
from visiondyno.measurements.operators import OperatorRun
from visiondyno.runtimes.onnx_profile import (
    NodeFacts,
    OnnxProfile,
    node_facts,
    operators_of,
    scope_of,
    without_profiler,
)
from visiondyno.runtimes.onnx_profiler_cost import ProfilerCost, profiler_cost
from visiondyno.runtimes.pytorch.profiled_shapes import output_shape, pooled_window, resize_mode


def _node(name, start, took, kind="Conv", **said):
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start,
        "dur": took,
        "args": {"op_name": kind, "provider": "CPUExecutionProvider", **said},
    }


RUN = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100}


def test_events_become_operators_of_their_runs():
    shapes = {
        "input_type_shape": [{"float": [1, 3]}, {"int64": []}],
        "output_type_shape": [{"double": [3]}],
    }
    events = [
        {"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": 5},
        _node("/a.b/Conv", 0, 40, **shapes),
        {"cat": "Node", "name": "/a.b/Conv_fence_before", "ts": 0, "dur": 3, "args": {}},
        RUN,
        _node("/a.b/Conv", 100, 50),
        RUN,
    ]
    first, second = operators_of(events, {})
    assert (first.run, second.run) == (0, 1)
    assert first.seconds == pytest.approx(40e-6)
    assert [(t.dtype, t.shape) for t in first.inputs] == [("float32", (1, 3)), ("int64", ())]
    assert [(t.dtype, t.shape) for t in first.outputs] == [("float64", (3,))]
    assert first.path == ("a", "b", "Conv")
    assert first.kernel == "CPU"
    assert second.inputs == ()


def test_a_loops_own_time_is_without_its_body():
    events = [
        _node("x", 5, 10),
        _node("y", 20, 30),
        _node("Loop_1", 0, 60, "Loop"),
        _node("z", 70, 9),
        RUN,
    ]
    assert [round(1e6 * one.seconds) for one in operators_of(events, {})] == [10, 30, 20, 9]


def test_blocked_nodes_are_found_by_what_they_write():
    facts = {"pooled": NodeFacts("/neck/MaxPool", window=25)}
    (found,) = operators_of([_node("pooled_nchwc", 0, 1, "MaxPool"), RUN], facts)
    assert (found.name, found.path, found.window) == ("pooled_nchwc", ("neck", "MaxPool"), 25)


def test_the_file_says_windows_and_modes(tmp_path):
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], name="pool", kernel_shape=[5, 3]),
        helper.make_node("Resize", ["p", "", "s"], ["q"], name="up", mode="linear"),
        helper.make_node("Resize", ["q", "", "s"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), path)
    facts = node_facts(path)
    assert facts["pool"] == facts["p"] == NodeFacts("pool", window=15)
    assert facts["q"].mode == "linear"
    assert facts["y"].mode == "nearest"
    assert "" not in facts


def test_what_a_branch_holds_is_known_too(tmp_path):
    def pool(name, out, side):
        return helper.make_node("MaxPool", ["x"], [out], name=name, kernel_shape=[side, side])

    def branch(out, side):
        told = [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)]
        return helper.make_graph([pool(f"inner_{out}", out, side)], out, [], told)

    nodes = [
        pool("outer", "p", 2),
        helper.make_node(
            "If", ["c"], ["y"], then_branch=branch("p", 3), else_branch=branch("b", 5)
        ),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    ends += [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends, out)), path)
    facts = node_facts(path)
    assert (facts["inner_p"].window, facts["inner_b"].window) == (9, 25)
    assert facts["p"].window == 4  # of the graph around it


def test_a_gpu_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(Unavailable, match="Profile it on cpu, or a model of torch on cuda:1"):
        OnnxProfile(tmp_path / "m.onnx", "cuda:1")


def test_a_name_without_scopes_is_its_own_path():
    assert scope_of("Conv_41") == ("Conv_41",)
    assert scope_of("/") == ("/",)


def test_counters_of_openvino_are_of_what_was_executed():
    from visiondyno.runtimes.openvino_profile import OpenVinoProfile

    class Counter(SimpleNamespace):
        Status = SimpleNamespace(EXECUTED=1, NOT_RUN=0)

    def port(shape, dynamic=False):
        kind = SimpleNamespace(get_type_name=lambda: "f32")
        partial = SimpleNamespace(is_dynamic=dynamic, to_shape=lambda: shape)
        return SimpleNamespace(get_partial_shape=lambda: partial, get_element_type=lambda: kind)

    nodes = [
        SimpleNamespace(
            get_friendly_name=lambda: "a/conv",
            inputs=lambda: [port((1, 3))],
            outputs=lambda: [port((1,), dynamic=True)],
        )
    ]
    graph = SimpleNamespace(get_ordered_ops=lambda: nodes)
    profile = OpenVinoProfile(SimpleNamespace(get_runtime_model=lambda: graph))
    took = datetime.timedelta(microseconds=7)
    for status in (1, 0):
        one = Counter(
            node_name="a/conv",
            node_type="Convolution",
            exec_type="jit",
            real_time=took,
            status=status,
        )
        other = Counter(
            node_name="new", node_type="Reorder", exec_type="jit", real_time=took, status=1
        )
        profile.add([one, other])
    found = profile.operators()
    assert [(one.run, one.name) for one in found] == [(0, "a/conv"), (0, "new"), (1, "new")]
    assert found[0].inputs[0].shape == (1, 3)
    assert found[0].outputs == ()
    assert found[0].seconds == pytest.approx(7e-6)


SHAPES = {
    "conv": (
        "aten::conv2d",
        [(1, 8, 16, 16), (4, 8, 3, 3)],
        [None, None, None, [2, 2], [1, 1], [1, 1], 1],
        (1, 4, 8, 8),
    ),
    "conv-dilated": (
        "aten::conv2d",
        [(1, 8, 16, 16), (4, 8, 3, 3)],
        [None, None, None, [1], [2], [2], 1],
        (1, 4, 16, 16),
    ),
    "conv-transposed": (
        "aten::convolution",
        [(1, 8, 4, 4), (8, 2, 2, 2)],
        [None, None, None, [2, 2], [0, 0], [1, 1], True],
        None,
    ),
    "conv-transpose": (
        "aten::conv_transpose2d",
        [(1, 8, 4, 4), (8, 2, 3, 3)],
        [None, None, None, [2, 2], [1, 1], [1, 1], 2, [1, 1]],
        (1, 4, 8, 8),
    ),
    "conv-same": (
        "aten::conv2d",
        [(1, 8, 16, 16), (4, 8, 3, 3)],
        [None, None, None, [1, 1], None, [1, 1], 1],
        None,
    ),
    "max-pool": (
        "aten::max_pool2d",
        [(1, 8, 16, 16)],
        [None, [3, 3], [2, 2], [1, 1], [1, 1], False],
        (1, 8, 8, 8),
    ),
    "max-pool-ceil": (
        "aten::max_pool2d",
        [(1, 8, 15, 15)],
        [None, [2, 2], [], [0, 0], [1, 1], True],
        (1, 8, 8, 8),
    ),
    "avg-pool": (
        "aten::avg_pool2d",
        [(1, 8, 16, 16)],
        [None, [2, 2], [2, 2], [0, 0], False, True, None],
        (1, 8, 8, 8),
    ),
    "adaptive": ("aten::adaptive_avg_pool2d", [(1, 8, 16, 16)], [None, [1, 1]], (1, 8, 1, 1)),
    "linear": ("aten::linear", [(2, 5, 7), (3, 7), (3,)], [None] * 3, (2, 5, 3)),
    "addmm": ("aten::addmm", [(3,), (2, 7), (7, 3)], [None] * 3, (2, 3)),
    "matmul": ("aten::matmul", [(4, 1, 5, 7), (6, 7, 3)], [None] * 2, (4, 6, 5, 3)),
    "matmul-vector": ("aten::matmul", [(5, 7), (7,)], [None] * 2, (5,)),
    "bmm": ("aten::bmm", [(4, 5, 7), (4, 7, 3)], [None] * 2, (4, 5, 3)),
    "attention": (
        "aten::scaled_dot_product_attention",
        [(1, 2, 5, 8), (1, 2, 6, 8), (1, 2, 6, 4)],
        [None] * 3,
        (1, 2, 5, 4),
    ),
    "up-size": ("aten::upsample_nearest2d", [(1, 8, 4, 4)], [None, [9, 8], None], (1, 8, 9, 8)),
    "up-factor": (
        "aten::upsample_bilinear2d",
        [(1, 8, 4, 4)],
        [None, None, False, [2.0, 2.0]],
        (1, 8, 8, 8),
    ),
    "up-unknown": ("aten::upsample_nearest2d", [(1, 8, 4, 4)], [None, None, None], None),
    "relu": ("aten::relu_", [(2, 3)], [None], (2, 3)),
    "relu-untold": ("aten::relu_", [()], [None], None),
    "add": ("aten::add", [(1, 8, 4, 4), (8, 1, 1), ()], [None, None, 1], (1, 8, 4, 4)),
    "add-untold": ("aten::add", [(), ()], [None, 1], None),
    "no-rule": ("aten::nonzero", [(2, 3)], [None], None),
    "too-few": ("aten::linear", [], [], None),
}


@pytest.mark.parametrize("case", SHAPES)
def test_an_outputs_shape_follows_from_the_arguments(case):
    kind, inputs, numbers, expected = SHAPES[case]
    assert output_shape(kind, inputs, numbers) == expected


def test_windows_and_modes_of_torch():
    assert pooled_window("aten::max_pool2d", [None, [3, 5]]) == 15
    assert pooled_window("aten::max_pool2d", [None, []]) is None
    assert pooled_window("aten::conv2d", [None, [3]]) is None
    assert resize_mode("aten::upsample_bilinear2d") == "linear"
    assert resize_mode("aten::upsample_nearest2d") == "nearest"
    assert resize_mode("aten::add") is None


def test_what_the_profiler_adds_is_taken_off_each_operator_and_leaves_the_least():
    cost = ProfilerCost(added_s=2e-6, least_s=0.5e-6)
    took_us = {"large": [100, 110], "small": [2, 3], "tiny": [0, 1]}
    found = [
        OperatorRun(run, name, "Relu", microseconds / 1e6)
        for name, times in took_us.items()
        for run, microseconds in enumerate(times)
    ]
    left = without_profiler(found, cost)
    by_name = {name: [1e6 * one.seconds for one in left if one.name == name] for name in took_us}
    assert by_name["large"] == pytest.approx([98, 108])
    assert by_name["small"] == pytest.approx([0.5, 1.5])  # 1.5 µs of the fastest can be taken off
    assert by_name["tiny"] == pytest.approx([0, 1])  # nothing
    assert [(one.run, one.name) for one in left] == [(one.run, one.name) for one in found]


def test_the_profiler_s_cost_is_measured_here():
    cost = profiler_cost()
    # Microseconds: no operator is faster than a function's call, and no profiler that slow.
    assert 1e-8 < cost.least_s < 1e-3
    assert 0 <= cost.added_s < 1e-3
    assert profiler_cost() is cost
