"""What a LiteRT file (`.tflite`) says about itself, read without running it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import Precision
from visiondyno.runtimes.exported_metadata import metadata_behind
from visiondyno.runtimes.graph_facts import GraphFacts, TensorFacts, files_digest
from visiondyno.specs.model_card import Quantisation

_IDENTIFIER = b"TFL3"
_DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BFLOAT16": "bfloat16",
    "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "UINT16": "uint16", "INT32": "int32",
    "UINT32": "uint32", "INT64": "int64", "UINT64": "uint64", "BOOL": "bool",
}  # fmt: skip
_WEIGHTS: dict[str, Precision] = {
    "FLOAT32": "fp32", "FLOAT64": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16",
    "INT8": "int8", "UINT8": "int8", "INT4": "int8", "UINT4": "int8", "INT2": "int8",
}  # fmt: skip
# As in the ONNX reader: scales and a first layer kept wide don't make a model mixed.
_MINOR_SHARE = 0.1
_CONVERSIONS = ("Quantize", "Dequantize", "Reshape")


def read_litert(path: Path) -> GraphFacts:
    """What the file says about itself.

    Raises:
        ModelError: it is missing, empty, damaged or not a .tflite file.
        MissingExtra: ai-edge-litert isn't installed.
    """
    content = _content(path)
    try:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingExtra("litert", f"{path}") from error
    try:
        # It verifies every offset in the file, which the reader below trusts.
        Interpreter(model_content=content)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is truncated or damaged; export or fetch the model again."
        ) from error
    return _Reader(schema, content).facts(path)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}; check the model's path.") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from error
    if not content:
        raise ModelError(f"{path} is empty (0 bytes); export or fetch the model again.")
    if content[4:8] != _IDENTIFIER:
        raise ModelError(f"{path} isn't a LiteRT model; give a .tflite export.")
    return content


class _Reader:
    """The first subgraph of a verified file."""

    def __init__(self, schema: ModuleType, content: bytes) -> None:
        self._schema = schema
        self._model = schema.Model.GetRootAs(content, 0)
        self._graph = self._model.Subgraphs(0)
        self._types = {number: name for name, number in _constants(schema.TensorType)}
        names = {number: name for name, number in _constants(schema.BuiltinOperator)}
        # Before 2020 the number was kept in another field, of one byte.
        self._operators = [
            names.get(max(one.BuiltinCode(), one.DeprecatedBuiltinCode()), "CUSTOM")
            .title()
            .replace("_", "")
            for one in map(self._model.OperatorCodes, range(self._model.OperatorCodesLength()))
        ]

    def facts(self, path: Path) -> GraphFacts:
        said_in, said_out = self._signature()
        inputs = [int(self._graph.Inputs(n)) for n in range(self._graph.InputsLength())]
        outputs = [int(self._graph.Outputs(n)) for n in range(self._graph.OutputsLength())]
        precision, parameters = self._weights()
        return GraphFacts(
            path=path,
            inputs=tuple(self._tensor(one, said_in) for one in inputs),
            outputs=tuple(self._tensor(one, said_out) for one in outputs),
            operators=frozenset(name for name, _ in self._nodes()),
            output_operators=tuple(self._maker(one) for one in outputs),
            metadata=metadata_behind(path),
            precision=precision,
            parameters=parameters,
            file_bytes=path.stat().st_size,
            digest=files_digest((path,)),
        )

    def _signature(self) -> tuple[dict[int, str], dict[int, str]]:
        """The names that people gave, by tensor; the tensors' own are the converter's."""
        if not self._model.SignatureDefsLength():
            return {}, {}
        first = self._model.SignatureDefs(0)
        found_in = map(first.Inputs, range(first.InputsLength()))
        found_out = map(first.Outputs, range(first.OutputsLength()))
        return (
            {one.TensorIndex(): one.Name().decode() for one in found_in},
            {one.TensorIndex(): one.Name().decode() for one in found_out},
        )

    def _tensor(self, index: int, names: dict[int, str]) -> TensorFacts:
        tensor = self._graph.Tensors(index)
        # The signature says -1 where the shape, which must be one, says 1.
        sizes = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else None
        if sizes is None:
            sizes = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
        name = names.get(index) or (tensor.Name() or b"").decode() or f"tensor {index}"
        return TensorFacts(
            name=name,
            dtype=_DTYPES.get(self._types[tensor.Type()], "unknown"),
            shape=tuple(int(size) if size > 0 else None for size in sizes),
            quantisation=self._quantisation(tensor),
        )

    def _quantisation(self, tensor: Any) -> Quantisation | None:
        said = tensor.Quantization()
        is_integer = self._types[tensor.Type()] in ("INT8", "UINT8")
        if not is_integer or said is None or said.ScaleLength() != 1:
            return None
        zero_point = said.ZeroPoint(0) if said.ZeroPointLength() else 0
        # Shortest text of the float32, so that a card reads as its author wrote it.
        scale = float(str(np.float32(said.Scale(0))))
        return Quantisation(scale=scale, zero_point=int(zero_point))

    def _nodes(self) -> Iterator[tuple[str, Any]]:
        for number in range(self._graph.OperatorsLength()):
            node = self._graph.Operators(number)
            yield self._operators[node.OpcodeIndex()], node

    def _maker(self, tensor: int) -> str | None:
        """The operator that makes a tensor; those that only convert it are looked through."""
        makers = {
            int(node.Outputs(n)): (name, node)
            for name, node in self._nodes()
            for n in range(node.OutputsLength())
        }
        name = None
        while tensor in makers:
            name, node = makers.pop(tensor)
            if name not in _CONVERSIONS:
                break
            tensor = int(node.Inputs(0))
        return name

    def _weights(self) -> tuple[Precision, int]:
        """Precision of the arithmetic by the number of weights, and that number.

        Integers that are widened before they are used make a model `mixed`; halves that are, are
        computed in float32.
        """
        counts: Counter[Precision] = Counter()
        widened = self._widened()
        has_widened_integers = False
        for index in range(self._graph.TensorsLength()):
            tensor = self._graph.Tensors(index)
            kind = _WEIGHTS.get(self._types[tensor.Type()])
            if kind is None or not self._model.Buffers(tensor.Buffer()).DataLength():
                continue
            has_widened_integers |= kind == "int8" and index in widened
            is_half = kind in ("fp16", "bf16") and index in widened
            shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
            counts["fp32" if is_half else kind] += int(np.prod(shape, dtype=np.int64))
        total = counts.total()
        major = [kind for kind, count in counts.items() if count > _MINOR_SHARE * total]
        if "int8" in major and has_widened_integers:
            return "mixed", total
        return (major[0] if len(major) == 1 else ("mixed" if major else "fp32")), total

    def _widened(self) -> set[int]:
        return {int(node.Inputs(0)) for name, node in self._nodes() if name == "Dequantize"}


def _constants(enumeration: type) -> Iterator[tuple[str, int]]:
    for name, number in vars(enumeration).items():
        if name.isupper() and isinstance(number, int):
            yield name, number
