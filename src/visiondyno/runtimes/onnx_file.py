"""What an ONNX file says about itself, read without running it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no types in it
from onnx import TensorProto

from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_facts import GraphFacts, TensorFacts
from visiondyno.runtimes.onnx_tensors import tensors_of
from visiondyno.runtimes.onnx_weights import (
    count_weights,
    edge_quantisation,
    effective_precision,
)
from visiondyno.runtimes.signatures import foreign_format
from visiondyno.specs.model_card import Quantisation


def read_onnx(path: Path) -> GraphFacts:
    """Read and parse `path`.

    Raises:
        ModelError: it is missing, unreadable, empty, truncated or not an ONNX file, its external
            data is missing or lies outside its folder.
    """
    data = _read_bytes(path)
    model = parse_onnx(data, path)
    graph = model.graph
    externals = _external_files(model, path)
    digest = hashlib.sha256(data)
    size = len(data)
    for external in externals:
        content = _read_bytes(external)
        digest.update(content)
        size += len(content)
    quantised = edge_quantisation(graph)
    initial = {tensor.name for tensor in graph.initializer}
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return GraphFacts(
        path=path,
        inputs=tuple(_facts(one, quantised) for one in graph.input if one.name not in initial),
        outputs=tuple(_facts(one, quantised) for one in graph.output),
        operators=frozenset(node.op_type for node in graph.node),
        output_operators=tuple(makers.get(value.name) for value in graph.output),
        metadata={prop.key: prop.value for prop in model.metadata_props},
        precision=effective_precision(graph),
        parameters=count_weights(graph),
        file_bytes=size,
        digest=f"sha256:{digest.hexdigest()}",
        external_files=tuple(externals),
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}; check the model's path.") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder; give the .onnx file inside it.") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from error


def parse_onnx(data: bytes, path: Path) -> Any:
    """The `ModelProto` in `data`; `path` is for messages.

    Raises:
        ModelError: it is empty, truncated or not an ONNX model.
    """
    if not data:
        raise ModelError(f"{path} is empty (0 bytes); export or fetch the model again.")
    if (kind := foreign_format(data)) is not None:
        raise ModelError(f"{path} isn't an ONNX file but {kind}; give an ONNX export.")
    # An ONNX file begins with its IR version: field 1, a small varint.
    looks_like_onnx = data[0] == 0x08
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        if looks_like_onnx:
            raise ModelError(
                f"{path} is truncated or damaged; export or fetch the model again."
            ) from error
        raise ModelError(f"{path} isn't an ONNX file; give an ONNX export.") from error
    if not model.HasField("graph") or not model.graph.output:
        state = "is truncated or damaged" if looks_like_onnx else "isn't an ONNX file"
        raise ModelError(f"{path} {state}: it holds no graph; export or fetch the model again.")
    return model


def _external_files(model: Any, path: Path) -> list[Path]:
    names = {
        entry.value
        for tensor in tensors_of(model)
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.resolve().parent
    found = []
    for name in sorted(names):
        external = (folder / name).resolve()
        if not external.is_relative_to(folder):
            raise ModelError(
                f"{path} refers to weights outside its folder ({name}); save it as one file."
            )
        if not external.is_file():
            raise ModelError(
                f"{path} keeps its weights in {name}, which isn't beside it; fetch that file too, "
                "or save the model as one file."
            )
        found.append(external)
    return found


def _facts(value: Any, quantised: Mapping[str, Quantisation]) -> TensorFacts:
    kind = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    except (KeyError, TypeError):
        dtype = "unknown"
    # A size of 0 or less is what some exporters write for "any".
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in kind.shape.dim
    )
    # A scale matters to whoever feeds or reads integers only.
    scale = quantised.get(value.name) if dtype in ("int8", "uint8") else None
    return TensorFacts(value.name, dtype, shape, scale)
