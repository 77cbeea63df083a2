"""Every tensor of an ONNX file, wherever in it."""

from collections.abc import Iterator
from typing import Any

from onnx import TensorProto


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs inside an operator, of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_of(model: Any) -> Iterator[Any]:
    """Every tensor in the file, those inside sparse ones, subgraphs and functions included."""
    pending: list[tuple[Any, Any]] = [(model.graph.node, model.graph)]
    pending.extend((function.node, None) for function in model.functions)
    while pending:
        nodes, graph = pending.pop()
        if graph is not None:
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from _of_sparse(sparse)
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("sparse_tensor"):
                    yield from _of_sparse(attribute.sparse_tensor)
                for sparse in attribute.sparse_tensors:
                    yield from _of_sparse(sparse)
            pending.extend((graph.node, graph) for graph in subgraphs(node))


def _of_sparse(sparse: Any) -> Iterator[Any]:
    yield sparse.values
    yield sparse.indices
    # As it will be in memory: the runtime fills the gaps.
    yield TensorProto(name=sparse.values.name, dims=sparse.dims, data_type=sparse.values.data_type)
