"""Which nodes of an ONNX graph are quantized, and which stay in floating point, and why."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from visiondyno.errors import SpecError

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that hold nearly all weights, and nearly all arithmetic."""

_MOVES = frozenset(
    {"Concat", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_UNCOUNTED = _QUANTIZERS | {"Constant", "Identity"}
_INTEGER = {"ConvInteger": "Conv", "MatMulInteger": "MatMul", "DynamicQuantizeLSTM": "LSTM"}
_FEWEST_FOR_A_GUESS = 0.5


@dataclass(frozen=True, slots=True)
class Kept:
    """Nodes that stay in floating point.

    Attributes:
        head: names of nodes behind the last weighted operator of every path.
        excluded: names of nodes that the user named, or whose type.
    """

    head: frozenset[str]
    excluded: frozenset[str]

    @property
    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self.head | self.excluded)


def name_nodes(graph: Any) -> None:
    """Give every node of a `GraphProto` a name of its own: quantizers tell nodes by name."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)


def kept_nodes(graph: Any, exclude: Sequence[str], *, keep_head: bool) -> Kept:
    """What stays in floating point of a graph whose nodes have names."""
    wanted = set(exclude)
    excluded = {node.name for node in graph.node if {node.name, node.op_type} & wanted}
    return Kept(head_nodes(graph) if keep_head else frozenset(), frozenset(excluded))


def head_nodes(graph: Any) -> frozenset[str]:
    """Names of the nodes from which no weighted operator is reached: decoding, activations, NMS.

    A convolution or product with constants that takes the expectation of a softmax (box distances
    of YOLOv8 and NanoDet) belongs to them: it decodes, and its weights are 0, 1, 2 ….
    """
    users: dict[str, list[Any]] = {}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    feeds_weights: set[str] = set()
    for node in reversed(graph.node):  # ONNX demands topological order
        behind = [user for name in node.output for user in users.get(name, ())]
        if any(one.name in feeds_weights or _is_body(one, makers) for one in behind):
            feeds_weights.add(node.name)
    return frozenset(
        node.name
        for node in graph.node
        if node.name not in feeds_weights and not _is_body(node, makers)
    )


def check_excluded(exclude: Sequence[str], graphs: Iterable[Any]) -> None:
    """Refuse what is neither a node nor a type of operator in any of the graphs.

    Raises:
        SpecError: with the nearest names that there are.
    """
    known = {text for graph in graphs for node in graph.node for text in (node.name, node.op_type)}
    for name in exclude:
        if name in known:
            continue
        near = get_close_matches(name, sorted(known), cutoff=_FEWEST_FOR_A_GUESS)
        meant = f"; did you mean {' or '.join(near)}?" if near else "."
        types = ", ".join(sorted({node.op_type for graph in graphs for node in graph.node}))
        raise SpecError(
            f"'exclude': the model has no node or type of operator {name!r:.200}{meant} Its types "
            f"are {types}."
        )


def count_quantized(graph: Any, kept: Kept) -> dict[str, int]:
    """How many nodes of which type compute with integers in a quantized graph, most first.

    What was kept in floating point counts as such, also where it shares its weights with a node
    that wasn't, and so finds them quantized.
    """
    float_names = kept.head | kept.excluded
    counts: Counter[str] = Counter()
    flow = _Flow(graph)
    for node in graph.node:
        if node.op_type in _INTEGER:
            counts[_INTEGER[node.op_type]] += 1
        elif node.name not in float_names and flow.is_integer(node):
            counts[node.op_type] += 1
    return dict(counts.most_common())


def why_float(graph: Any, quantized: Any, kept: Kept) -> list[dict[str, Any]]:
    """What stays float: `type`, `count` and `reason` of each kind, most nodes first.

    Args:
        graph: before it was quantized.
        quantized: after it.
        kept: what was to stay so.
    """
    left = {node.name: node for node in quantized.node}
    flow = _Flow(quantized)
    counts: Counter[tuple[str, str]] = Counter()
    for node in graph.node:
        found = left.get(node.name)
        if found is None or node.op_type in _UNCOUNTED or found.op_type in _INTEGER:
            continue
        if node.name in kept.head | kept.excluded or not flow.is_integer(found):
            counts[node.op_type, _reason(node.name, kept)] += 1
    return [
        {"type": kind, "count": count, "reason": reason}
        for (kind, reason), count in counts.most_common()
    ]


def _reason(name: str, kept: Kept) -> str:
    if name in kept.excluded:
        return "excluded"
    if name in kept.head:
        return "head"
    return "not quantized by ONNX Runtime"


class _Flow:
    """Who makes and who takes each tensor of a quantized graph, by type of operator."""

    def __init__(self, graph: Any) -> None:
        self._makers = {name: node.op_type for node in graph.node for name in node.output}
        self._takers: dict[str, set[str]] = {}
        for node in graph.node:
            for name in node.input:
                self._takers.setdefault(name, set()).add(node.op_type)

    def is_integer(self, node: Any) -> bool:
        """Whether its data come dequantized, and its weights do too or its result is quantized."""
        comes = [name for name in node.input[:2] if name]
        if node.op_type in _UNCOUNTED or not comes:
            return False
        if self._makers.get(comes[0]) != "DequantizeLinear":
            return False
        if node.op_type in WEIGHTED:
            return len(comes) > 1 and self._makers.get(comes[1]) == "DequantizeLinear"
        return self._takers.get(node.output[0], set()) == {"QuantizeLinear"}


def _is_body(node: Any, makers: dict[str, Any]) -> bool:
    return node.op_type in WEIGHTED and not _takes_expectation(node, makers)


def _takes_expectation(node: Any, makers: dict[str, Any]) -> bool:
    if len(node.input) < 2 or _computed(node.input[1], makers):
        return False  # attention multiplies a softmax by values that were computed
    made = makers.get(node.input[0])
    while made is not None and made.op_type in _MOVES and made.input:
        made = makers.get(made.input[0])
    return made is not None and made.op_type == "Softmax"


def _computed(name: str, makers: dict[str, Any]) -> bool:
    made = makers.get(name)
    return made is not None and made.op_type != "Constant"
