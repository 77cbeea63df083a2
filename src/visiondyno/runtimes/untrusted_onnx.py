"""Checks of an ONNX file from somebody we don't know, before any runtime sees it.

Runs in the confined child, because parsing and `onnx.checker` are native code that can be made to
crash (functions nested 3,000 deep do). What can't be told without running is left to the child's
limits: an endless Loop and a slow constant folding to the wall clock, a tensor that is computed too
large to the memory limit. Loop, Scan and If are therefore allowed: detectors need them for NMS.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_input import GraphInput, image_input
from visiondyno.runtimes.onnx_file import parse_onnx, read_onnx
from visiondyno.runtimes.onnx_tensors import subgraphs, tensors_of
from visiondyno.specs.evaluation_task import InputRule
from visiondyno.vision.heads import show_shape

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""ONNX's own operators, and ONNX Runtime's, which its quantiser and optimiser write into exports.
Others need a library that isn't here, or are previews."""

_REFUSED_OPERATORS = {"EPContext": "it reads a compiled model from another file"}
MAX_NODES = 100_000
"""Of the graph with its subgraphs and with every function call written out."""
MAX_NESTING = 16
"""Graphs within graphs, or calls of functions within functions."""
_BITS = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
_SHOWN = 60
_LONGEST_REASON = 200

_Function = tuple[str, str]


def check_untrusted(path: Path, rule: InputRule, *, max_bytes: int, memory_bytes: int) -> None:
    """Refuse the file unless it is one self-contained, sane ONNX model of the rule's input.

    Args:
        path: the file.
        rule: what the task's models take.
        max_bytes: largest file that is parsed.
        memory_bytes: no tensor of the file may announce more.

    Raises:
        ModelError: one sentence or two with the reason.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise ModelError(
            f"The model has {size / 1e6:.1f} MB and the task takes at most {max_bytes / 1e6:.1f} "
            "MB; make it smaller."
        )
    model = parse_onnx(path.read_bytes(), path)
    _check_opsets(model)
    functions = {(function.domain, function.name): function for function in model.functions}
    if len(functions) != len(model.functions):
        raise ModelError("The model defines one function twice; export it again.")
    if len(model.training_info):
        raise ModelError("The model carries training graphs; export it for inference.")
    for tensor in tensors_of(model):
        _check_tensor(tensor, memory_bytes)
    _check_nodes(model, functions)
    _check_by_onnx(model)
    _check_input(image_input(read_onnx(path)), rule)


def _check_opsets(model: Any) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    version = versions.get("", versions.get("ai.onnx"))
    if version is None:
        raise ModelError("The model names no ONNX operator set; export it again.")
    if not 7 <= version <= newest:
        raise ModelError(
            f"The model uses ONNX operator set {version}; 7 to {newest} are taken. Export it with "
            "another opset."
        )


def _check_nodes(model: Any, functions: Mapping[_Function, Any]) -> None:
    calls = {name: _written_out(function.node, functions) for name, function in functions.items()}
    whole = _written_out(model.graph.node, functions)
    sizes: dict[_Function, int] = {}
    for name in _callees_first(whole[1], calls):
        own, called = calls[name]
        sizes[name] = own + sum(sizes[other] * count for other, count in called.items())
        _check_count(sizes[name])
    _check_count(whole[0] + sum(sizes[name] * count for name, count in whole[1].items()))


def _check_count(nodes: int) -> None:
    if nodes > MAX_NODES:
        raise ModelError(
            f"The model has more than {MAX_NODES:,} operators, functions written out; simplify it."
        )


def _written_out(
    nodes: Any, functions: Mapping[_Function, Any]
) -> tuple[int, dict[_Function, int]]:
    """How many operators there are, subgraphs included, and how often which function is called."""
    count = 0
    called: dict[_Function, int] = {}
    pending = [(nodes, 1)]
    while pending:
        some, depth = pending.pop()
        if depth > MAX_NESTING:
            raise ModelError(f"The model nests graphs more than {MAX_NESTING} deep; simplify it.")
        count += len(some)
        _check_count(count)
        for node in some:
            function = (node.domain, node.op_type)
            if function in functions:
                called[function] = called.get(function, 0) + 1
            else:
                _check_operator(node)
            pending.extend((graph.node, depth + 1) for graph in subgraphs(node))
    return count, called


def _check_operator(node: Any) -> None:
    if node.domain not in ALLOWED_DOMAINS:
        raise ModelError(
            f"The model uses operator {_shown(node.op_type)} of domain {_shown(node.domain)}; "
            "only ONNX's own and ONNX Runtime's (com.microsoft) are run. Export it without."
        )
    if node.op_type in _REFUSED_OPERATORS:
        reason = _REFUSED_OPERATORS[node.op_type]
        raise ModelError(f"Operator {node.op_type} isn't run here: {reason}. Export without it.")


def _callees_first(
    roots: Mapping[_Function, int], calls: Mapping[_Function, tuple[int, Mapping[_Function, int]]]
) -> list[_Function]:
    """The functions that are reached, each after those that it calls."""
    order: list[_Function] = []
    done: set[_Function] = set()
    path: list[tuple[_Function, Iterator[_Function]]] = []
    for root in roots:
        if root not in done:
            path.append((root, iter(calls[root][1])))
        while path:
            name, rest = path[-1]
            following = next((other for other in rest if other not in done), None)
            if following is None:
                path.pop()
                done.add(name)
                order.append(name)
                continue
            if any(following == earlier for earlier, _ in path):
                raise ModelError("The model has a function that calls itself; export it again.")
            path.append((following, iter(calls[following][1])))
            if len(path) > MAX_NESTING:
                raise ModelError(
                    f"The model calls functions more than {MAX_NESTING} deep; export it with "
                    "functions inlined."
                )
    return order


def _check_tensor(tensor: Any, memory_bytes: int) -> None:
    name = _shown(tensor.name)
    if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        where = f" ({_shown(places[0])})" if places else ""
        raise ModelError(
            f"The model keeps tensor {name} in another file{where}; hand in one self-contained "
            ".onnx file."
        )
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"The model's tensor {name} has a negative size; export it again.")
    size = _announced_bytes(tensor)
    if size is None:
        return
    if size > memory_bytes:
        raise ModelError(
            f"The model's tensor {name} would take {size / 1e9:.1f} GB, more than the "
            f"{memory_bytes / 1e9:.1f} GB of memory that a submission has."
        )
    if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
        raise ModelError(
            f"The model's tensor {name} announces {size:,} bytes and holds "
            f"{len(tensor.raw_data):,}; the file is damaged, export it again."
        )


def _announced_bytes(tensor: Any) -> int | None:
    """What the tensor takes in memory; None for strings.

    Raises:
        ModelError: an unknown type of element.
    """
    elements: int = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        return None
    if tensor.data_type in _BITS:
        bits: int = elements * _BITS[tensor.data_type]
        return (bits + 7) // 8
    try:
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"The model's tensor {_shown(tensor.name)} has an unknown type of element "
            f"({tensor.data_type}); export it again."
        ) from None
    return elements * int(kind.itemsize)


def _check_by_onnx(model: Any) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        # The checker's native exceptions share no base class but Exception.
        reason = " ".join(str(error).split())[:_LONGEST_REASON].rstrip(".")
        raise ModelError(
            f"ONNX's checker refuses the model: {reason}. Correct the export."
        ) from error


def _check_input(found: GraphInput, rule: InputRule) -> None:
    batch = found.batch if found.has_batch_axis else 1
    wrong = [
        what
        for what, fits in (
            (f"its height is {found.height}", found.height in (None, rule.height)),
            (f"its width is {found.width}", found.width in (None, rule.width)),
            (f"its layout is {found.layout}", found.layout in rule.layouts),
            (f"its type is {found.dtype}", found.dtype in rule.dtypes),
            (f"its batch size is {batch}", batch is None or batch <= rule.max_batch),
        )
        if not fits
    ]
    if wrong:
        shape = (None, 3, rule.height, rule.width)
        if rule.layouts[0] == "nhwc":
            shape = (None, rule.height, rule.width, 3)
        raise ModelError(
            f"The model's input '{found.name}' doesn't fit the task: {', '.join(wrong)}. It must "
            f"be {show_shape(shape)} {' or '.join(rule.dtypes)}, in batches of any size or a "
            f"fixed one up to {rule.max_batch}."
        )


def _shown(text: str) -> str:
    """What a model says, short and in one line."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
