"""ONNX files that mean harm, files that are broken, and a harmless near-twin of each.

All take (n, 3, 32, 32) float32 images and give (n, 1, 32, 32) depth, where they give anything.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
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


# -- the research note's cases -------------------------------------------------------------------


def _with_weights(location: str | None) -> bytes:
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


# -- malformed files -----------------------------------------------------------------------------


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
        made = onnx.ModelProto.FromString(_with_weights(None))
        change(made)
        return bytes(made.SerializeToString())

    return build


def _duplicate_output(made: Any) -> None:
    made.graph.node.append(node("Identity", ["images"], "mean"))


def _cycle(made: Any) -> None:
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


def write_hidden_data(root: Path, count: int) -> None:
    """A depth folder of small images, brighter where they are farther away."""
    generator = np.random.default_rng(5)
    for name in ("images", "depth"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        image = generator.integers(40, 250, (SIDE, SIDE, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{index}.png"), image)
        noise = generator.uniform(0.8, 1.3, (SIDE, SIDE))
        np.save(root / "depth" / f"{index}.npy", image.mean(2) / 50 * noise)


ENDLESS = "was stopped while"
"""What is said of a model that goes on and on."""


@dataclass(frozen=True)
class Case:
    """A file that must be refused, what the refusal says, and its near-twin that completes."""

    name: str
    hostile: Build
    says: str
    twin: Build = harmless

    @property
    def is_endless(self) -> bool:
        """Whether only the time limit may end it."""
        return ENDLESS in self.says


HOSTILE = (
    Case(
        "path_traversal",
        lambda: _with_weights("../../etc/passwd"),
        "in another file",
        lambda: _with_weights(None),
    ),
    Case(
        "absolute_path",
        lambda: _with_weights("/etc/passwd"),
        "in another file",
        lambda: _with_weights(None),
    ),
    Case(
        "file_beside_it",  # where a symbolic link would lie
        lambda: _with_weights("weights.bin"),
        "in another file",
        lambda: _with_weights(None),
    ),
    Case("endless_loop", lambda: looping(10**12), ENDLESS, lambda: looping(9)),
    Case("tensor_of_48_gb", lambda: filled(12 * 10**9), "memory", lambda: filled(12)),
    Case("announced_48_gb", lambda: announced([12 * 10**9]), "48.0 GB", lambda: announced([3], 3)),
    Case("expanded_to_128_gb", lambda: expanded(32_000), "memory", lambda: expanded(32)),
    # Whichever limit it reaches first.
    Case("folding_bomb", lambda: folding(3000, 400), f"{ENDLESS}|memory", lambda: folding(8, 3)),
    Case("deep_functions", lambda: deep_functions(3000), "functions", lambda: deep_functions(3)),
    Case(
        "functions_8_to_the_15",
        lambda: doubling_functions(15),
        "operators, functions written out",
        lambda: doubling_functions(3),
    ),
    Case(
        "function_of_itself",
        lambda: functions({"f0": ("f1",), "f1": ("f0",)}),
        "calls itself",
        lambda: functions({"f0": ("f1",), "f1": ()}),
    ),
    Case("unknown_domain", lambda: of_domain("evil.corp"), "'evil.corp'", lambda: of_domain("")),
    Case(
        "compiled_elsewhere",
        lambda: of_domain("com.microsoft", "EPContext"),
        "another file",
        lambda: of_domain("com.microsoft", "Gelu"),
    ),
    Case("sparse_bomb", lambda: sparse(12 * 10**9), "48.0 GB", lambda: announced([3], 3)),
)
"""What means harm: the research's cases and their kin."""

MALFORMED = (
    Case("empty", lambda: b"", "empty"),
    Case("one_byte", lambda: b"\x08", "truncated or damaged"),
    Case("half", lambda: harmless()[: len(harmless()) // 2], "truncated or damaged"),
    Case("one_byte_short", lambda: harmless()[:-1], "truncated or damaged"),
    Case("noise", lambda: bytes(np.random.default_rng(0).bytes(5000)), "isn't an ONNX file"),
    Case("zip", lambda: b"PK\x03\x04" + bytes(100), "zip archive"),
    Case("pickle", lambda: pickle.dumps({"weights": [1.0] * 50}), "pickle"),
    Case("web_page", lambda: b"<html>404</html>", "text file"),
    Case("lfs_pointer", lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    Case("no_graph", lambda: onnx.ModelProto(ir_version=9).SerializeToString(), "no graph"),
    Case("no_output", edited(lambda made: made.graph.ClearField("output")), "no graph"),
    Case("no_nodes", edited(lambda made: made.graph.ClearField("node")), "checker"),
    Case("no_opset", edited(lambda made: made.ClearField("opset_import")), "operator set"),
    Case("opset_999", lambda: model([mean()], opsets=(("", 999),)).SerializeToString(), "set 999"),
    Case("opset_1", lambda: model([mean()], opsets=(("", 1),)).SerializeToString(), "set 1"),
    Case("newer_format", lambda: model([mean()], ir_version=99).SerializeToString(), "ir"),
    Case("unknown_operator", lambda: of_domain("", "Frobnicate"), "Frobnicate"),
    Case(
        "dangling_input",
        lambda: model([node("Relu", ["nowhere"], "depth")]).SerializeToString(),
        "'nowhere'|checker",
    ),
    Case("cycle", edited(_cycle), "checker"),
    Case("output_twice", edited(_duplicate_output), "checker"),
    Case(
        "attribute_of_wrong_type",
        lambda: model(
            [node("ReduceMean", ["images"], "depth", axes=[1.5], keepdims=1)]
        ).SerializeToString(),
        "checker",
    ),
    Case("data_too_short", lambda: announced([3], 2), "announces 12", lambda: announced([3], 3)),
    Case("negative_size", lambda: announced([-3], 3), "negative", lambda: announced([3], 3)),
    Case("size_overflow", lambda: announced([2**40, 2**40]), "GB", lambda: announced([3], 3)),
    Case(
        "unknown_element",
        edited(lambda made: setattr(made.graph.initializer[0], "data_type", 99)),
        "unknown type",
    ),
    Case("deep_graphs", lambda: bottomless_graphs(3000), "damaged", lambda: nested_ifs(3)),
    Case("rather_deep_graphs", lambda: nested_ifs(20), "deep", lambda: nested_ifs(3)),
    Case("many_nodes", lambda: chain(100_001), "operators", lambda: chain(100)),
    Case("two_inputs", two_inputs, "exactly one input"),
    Case("wrong_size", lambda: taking(("n", 3, SIDE, 64)), "width is 64"),
    Case("wrong_layout", lambda: taking(("n", SIDE, SIDE, 3)), "layout is nhwc"),
    Case("double_input", lambda: taking(("n", 3, SIDE, SIDE), TensorProto.DOUBLE), "float64"),
    Case("grey_input", lambda: taking(("n", 1, SIDE, SIDE)), "3 channels"),
    Case("not_an_image", lambda: taking(("n", 10)), "isn't a vision model"),
    Case("huge_batch", lambda: fixed(1000), "batch size is 1000", lambda: fixed(4)),
    Case("a_classifier", lambda: giving(("n", 10)), "depth"),
    Case("not_numbers", lambda: scaled(float("nan")), "NaN", lambda: scaled(2.0)),
    Case("infinite", lambda: scaled(float("inf")), "finite|NaN", lambda: scaled(2.0)),
    Case("card_of_no_json", lambda: with_card("{"), "JSON"),
    Case("card_of_another_task", lambda: with_card('{"task": "text"}'), "card|task"),
    Case("too_large", lambda: harmless() + bytes(6_000_000), "at most 5.0 MB"),
)
"""Broken files, and models that don't fit the task."""
