"""ONNX graphs that mean harm or are broken, by how much; a small one does none.

All take (n, 3, 32, 32) float32 images and give (n, 1, 32, 32) depth, where they give anything.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from small_depth_task import SIDE

FLOAT = TensorProto.FLOAT
Build = Callable[[], bytes]


def model(
    nodes: Sequence[Any],
    tensors: Sequence[Any] = (),
    *,
    shape: Sequence[int | str] = ("n", 3, SIDE, SIDE),
    kind: int = FLOAT,
    out_shape: Sequence[int | str] = ("n", 1, SIDE, SIDE),
    opsets: Sequence[tuple[str, int]] = (("", 17),),
    functions: Sequence[Any] = (),
    inputs: Sequence[str] = ("images",),
    outputs: Sequence[str] = ("depth",),
    metadata: dict[str, str] | None = None,
    ir_version: int = 9,
) -> Any:
    """A model of these nodes; they make `depth` of `images`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, list(out_shape)) for name in outputs],
        list(tensors),
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*one) for one in opsets],
        functions=list(functions),
        ir_version=ir_version,
    )
    for key, value in (metadata or {}).items():
        made.metadata_props.add(key=key, value=value)
    return made


def node(kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def array(name: str, values: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def mean(out: str = "depth") -> Any:
    """Depth is the mean of the channels."""
    return node("ReduceMean", ["images"], out, axes=[1], keepdims=1)


def plus(value: str, out: str = "depth") -> list[Any]:
    """Depth is the mean of the channels plus 0 times a number that is computed elsewhere."""
    return [
        mean("mean"),
        node("ReduceSum", [value], "sum", keepdims=0),
        node("Mul", ["sum", "nought"], "nothing"),
        node("Add", ["mean", "nothing"], out),
    ]


NOUGHT = array("nought", 0)


def harmless() -> bytes:
    return bytes(model([mean()]).SerializeToString())


# -- that mean harm ------------------------------------------------------------------------------


def with_weights(location: str | None) -> bytes:
    made = model([mean("mean"), node("Add", ["mean", "weights"], "depth")], [array("weights", [1])])
    if location is not None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    return bytes(made.SerializeToString())


def looping(trips: int) -> bytes:
    body = helper.make_graph(
        [node("Identity", ["go"], "go_on"), node("Add", ["carried", "one"], "carried_on")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_on", FLOAT, []),
        ],
    )
    tensors = [
        array("trips", trips, np.int64),
        array("true", True, np.bool_),
        array("one", 1),
        NOUGHT,
    ]
    # Begins with a value of the image, so that no optimiser runs it beforehand.
    start = node("ReduceMean", ["images"], "start", keepdims=0)
    loop = node("Loop", ["trips", "true", "start"], "looped", body=body)
    return bytes(model([start, loop, *plus("looped")], tensors).SerializeToString())


def filled(elements: int) -> bytes:
    nodes = [node("ConstantOfShape", ["size"], "filled"), *plus("filled")]
    return bytes(model(nodes, [array("size", [elements], np.int64), NOUGHT]).SerializeToString())


def announced(dims: Sequence[int], values: int | None = None) -> bytes:
    """An initializer that announces a shape and holds `values` numbers (none if None)."""
    tensor = TensorProto(name="big", data_type=FLOAT, dims=dims)
    tensor.raw_data = bytes(4 * (values or 0))
    return bytes(model(plus("big"), [tensor, NOUGHT]).SerializeToString())


def expanded(side: int) -> bytes:
    """A small value of the image, blown up when it runs."""
    nodes = [
        node("ReduceMean", ["images"], "small", keepdims=0),
        node("Expand", ["small", "size"], "large"),
        *plus("large"),
    ]
    tensors = [array("size", [side, side, 32], np.int64), NOUGHT]
    return bytes(model(nodes, tensors).SerializeToString())


def folding(side: int, count: int) -> bytes:
    """Matrix products of constants, which an optimiser computes when it loads the model."""
    nodes = [node("ConstantOfShape", ["size"], "m0", value=array("", [1e-3]))]
    nodes += [node("MatMul", [f"m{i}", f"m{i}"], f"m{i + 1}") for i in range(count)]
    tensors = [array("size", [side, side], np.int64), NOUGHT]
    return bytes(model([*nodes, *plus(f"m{count}")], tensors).SerializeToString())


def _function(name: str, callees: Sequence[str]) -> Any:
    """A function of one input that passes it through its callees, one after the other."""
    names = ["x", *(f"y{i}" for i in range(len(callees)))]
    calls = [
        node(callee, [names[i]], names[i + 1], domain="local") for i, callee in enumerate(callees)
    ]
    nodes = [*calls, node("Identity", [names[-1]], "out")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["x"], ["out"], nodes, opsets)


def functions(calls: dict[str, Sequence[str]], first: str = "f0") -> bytes:
    nodes = [mean("mean"), node(first, ["mean"], "depth", domain="local")]
    made = model(
        nodes,
        opsets=(("", 17), ("local", 1)),
        functions=[_function(name, callees) for name, callees in calls.items()],
    )
    return bytes(made.SerializeToString())


def deep_functions(depth: int) -> bytes:
    calls = {f"f{i}": (f"f{i + 1}",) for i in range(depth - 1)}
    return functions({**calls, f"f{depth - 1}": ()})


def doubling_functions(depth: int) -> bytes:
    calls: dict[str, Sequence[str]] = {f"f{i}": (f"f{i + 1}",) * 8 for i in range(depth - 1)}
    return functions({**calls, f"f{depth - 1}": ()})


def of_domain(domain: str, kind: str = "Identity") -> bytes:
    nodes = [mean("mean"), node(kind, ["mean"], "depth", domain=domain)]
    opsets = (("", 17), (domain, 1)) if domain else (("", 17),)
    return bytes(model(nodes, opsets=opsets).SerializeToString())


# -- broken, or not for the task -----------------------------------------------------------------


def nested_ifs(depth: int) -> bytes:
    inner = helper.make_graph(
        [node("Identity", ["mean"], "t0")],
        "b0",
        [],
        [helper.make_tensor_value_info("t0", FLOAT, ["n", 1, SIDE, SIDE])],
    )
    for i in range(1, depth):
        branch = node("If", ["yes"], f"t{i}", then_branch=inner, else_branch=inner)
        # Both branches of each level hold everything below: keep one of them small.
        branch.attribute[1].g.CopyFrom(
            helper.make_graph(
                [node("Identity", ["mean"], f"e{i}")],
                f"e{i}",
                [],
                [helper.make_tensor_value_info(f"e{i}", FLOAT, ["n", 1, SIDE, SIDE])],
            )
        )
        inner = helper.make_graph(
            [branch],
            f"b{i}",
            [],
            [helper.make_tensor_value_info(f"t{i}", FLOAT, ["n", 1, SIDE, SIDE])],
        )
    nodes = [mean("mean"), *inner.node]
    nodes[-1].output[0] = "depth"
    made = model(nodes, [array("yes", True, np.bool_)])
    return bytes(made.SerializeToString())


def chain(length: int) -> bytes:
    nodes = [mean("x0")]
    nodes += [node("Relu", [f"x{i}"], f"x{i + 1}") for i in range(length)]
    nodes[-1].output[0] = "depth"
    return bytes(model(nodes).SerializeToString())


def sparse(size: int) -> bytes:
    made = model(plus("thin"), [NOUGHT])
    values, indices = array("thin", [1]), array("", [0], np.int64)
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [size]))
    return bytes(made.SerializeToString())


def edited(change: Callable[[Any], object]) -> Build:
    """The harmless model with something wrong in it."""

    def build() -> bytes:
        made = onnx.ModelProto.FromString(with_weights(None))
        change(made)
        return bytes(made.SerializeToString())

    return build


def duplicate_output(made: Any) -> None:
    made.graph.node.append(node("Identity", ["images"], "mean"))


def cycle(made: Any) -> None:
    made.graph.node[0].input[0] = "depth"


def bottomless_graphs(depth: int) -> bytes:
    """Graphs within graphs, written as bytes: no library would make them."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    inner = b""
    for _ in range(depth):
        inner = field(1, field(5, field(6, inner)))  # node, attribute, graph
    return b"\x08\x09" + field(7, inner)


def scaled(factor: float) -> bytes:
    nodes = [mean("mean"), node("Mul", ["mean", "factor"], "depth")]
    return bytes(model(nodes, [array("factor", factor)]).SerializeToString())


def fixed(batch: int) -> bytes:
    made = model([mean()], shape=(batch, 3, SIDE, SIDE), out_shape=(batch, 1, SIDE, SIDE))
    return bytes(made.SerializeToString())


def taking(shape: Sequence[int | str], kind: int = FLOAT) -> bytes:
    nodes = [node("Cast", ["images"], "cast", to=FLOAT), node("Identity", ["cast"], "depth")]
    return bytes(model(nodes, shape=shape, kind=kind, out_shape=shape).SerializeToString())


def giving(out_shape: Sequence[int | str]) -> bytes:
    nodes = [
        node("ReduceMean", ["images"], "mean", axes=[1, 2, 3], keepdims=0),
        node("Reshape", ["mean", "form"], "depth"),
    ]
    form = array("form", [-1 if isinstance(one, str) else one for one in out_shape], np.int64)
    return bytes(model(nodes, [form], out_shape=out_shape).SerializeToString())


def two_inputs() -> bytes:
    adding = [node("Add", ["images", "more"], "both"), node("Identity", ["both"], "depth")]
    made = model(adding, inputs=("images", "more"), out_shape=("n", 3, SIDE, SIDE))
    return bytes(made.SerializeToString())


def with_card(text: str) -> bytes:
    return bytes(model([mean()], metadata={"visiondyno.model": text}).SerializeToString())
