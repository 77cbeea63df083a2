"""What an OpenVINO model says about itself: IR (`.xml` with `.bin` beside it), or an ONNX file."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import Precision
from visiondyno.runtimes.exported_metadata import metadata_beside
from visiondyno.runtimes.graph_facts import GraphFacts, TensorFacts, files_digest
from visiondyno.runtimes.onnx_file import read_onnx

_HEAD_BYTES = 4096
_LONGEST_REASON = 200
_PLAIN: dict[str, Precision] = {"f32": "fp32", "f64": "fp32", "f16": "fp16", "bf16": "bf16"}
_EIGHT_BITS = ("i8", "u8", "i4", "u4", "i2", "u2", "u1", "nf4")
# As in the ONNX reader: scales and a first layer kept wide don't make a model mixed.
_MINOR_SHARE = 0.1
# OpenVINO's own translation takes bfloat16 for float16 and 4 bits for 8.
_DTYPES = {
    "f32": "float32", "f16": "float16", "f64": "float64", "boolean": "bool",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip
_ONNX_NAMES = {"SoftMax": "Softmax"}


def read_openvino(path: Path) -> GraphFacts:
    """What the model in `path` says about itself, without compiling it.

    Raises:
        ModelError: it is missing, damaged or no model that OpenVINO reads, or its weights aren't
            beside it.
        MissingExtra: openvino isn't installed.
    """
    return read_graph(path)[1]


def read_graph(path: Path) -> tuple[Any, GraphFacts]:
    """The `openvino.Model` in `path`, and what it says about itself; raises as `read_openvino`."""
    if path.is_dir():
        path = _only_xml(path)
    # An ONNX file tells more by itself: quantisation at its edges, metadata, names of sizes.
    facts = read_onnx(path) if path.suffix.lower() != ".xml" else None
    if facts is None:
        _check_xml(path)
    model = _read(path)
    return model, facts or _facts(model, path)


def reason(error: BaseException) -> str:
    """The telling part of an error of OpenVINO in one line, without its source code places."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [one for one in lines if one and not one.startswith(("Exception from", "Check '"))]
    text = " ".join(told or [one for one in lines if one])
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + "…"
    return text or type(error).__name__


def _only_xml(folder: Path) -> Path:
    """The model in a folder as Ultralytics' `NAME_openvino_model`."""
    found = sorted(folder.glob("*.xml"))
    if len(found) != 1:
        how_many = f"{len(found)} .xml files" if found else "no .xml file"
        raise ModelError(f"{folder} holds {how_many}; give the path of the model's .xml file.")
    return found[0]


def _check_xml(path: Path) -> None:
    """Other readers of OpenVINO's print to the terminal what they dislike of a strange file."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise ModelError(f"There is no file {path}; check the model's path.") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from error
    if b"<net" not in start:
        raise ModelError(f"{path} isn't an OpenVINO model; give the .xml of an OpenVINO export.")
    if not path.with_suffix(".bin").is_file():
        raise ModelError(
            f"{path} keeps its weights in {path.stem}.bin, which isn't beside it; fetch that file "
            "too."
        )


def _read(path: Path) -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", f"{path}") from error
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise ModelError(
            f"OpenVINO {openvino.__version__.split('-')[0]} can't read {path}: {reason(error)}"
        ) from error


def _facts(model: Any, path: Path) -> GraphFacts:
    weights = path.with_suffix(".bin")
    operators = [_operator(one) for one in model.get_ordered_ops()]
    precision, parameters = _weights(model, frozenset(operators))
    facts = GraphFacts(
        path=path,
        inputs=tuple(_tensor(one, f"input {n}") for n, one in enumerate(model.inputs)),
        outputs=tuple(_tensor(one, f"output {n}") for n, one in enumerate(model.outputs)),
        operators=frozenset(operators),
        output_operators=tuple(
            _operator(one.get_node().input_value(0).get_node()) for one in model.outputs
        ),
        metadata=_written(model),
        precision=precision,
        parameters=parameters,
        file_bytes=path.stat().st_size + weights.stat().st_size,
        digest=files_digest((path, weights)),
        external_files=(weights,),
    )
    beside = metadata_beside(path.parent)
    if not beside:
        return facts
    file = path.parent / "metadata.yaml"
    return replace(
        facts, metadata=facts.metadata | beside, external_files=(*facts.external_files, file)
    )


def _operator(node: Any) -> str:
    name = str(node.get_type_name())
    return _ONNX_NAMES.get(name, name)


def _tensor(port: Any, unnamed: str) -> TensorFacts:
    names = port.get_names()
    shape = port.get_partial_shape()
    dtype = _DTYPES.get(port.get_element_type().get_type_name(), "unknown")
    sizes = (
        ()
        if shape.rank.is_dynamic
        else tuple(one.get_length() if one.is_static else None for one in shape)
    )
    # A tensor may have several names; the same one must be found each time.
    return TensorFacts(min(names, default=unnamed), dtype, sizes)


def _written(model: Any) -> dict[str, str]:
    """What an ONNX file's metadata became when OpenVINO converted it."""
    if not model.has_rt_info(["framework"]):
        return {}
    said = model.get_rt_info(["framework"]).value
    return {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}


def _weights(model: Any, operators: frozenset[str]) -> tuple[Precision, int]:
    """Precision of the arithmetic as the file has it, and the number of weights.

    Weights stored in half precision count as fp16 here: what they are computed in is known when
    the model is compiled.
    """
    counts: Counter[Precision] = Counter()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        name = node.get_element_type().get_type_name()
        kind = "int8" if name in _EIGHT_BITS else _PLAIN.get(name)
        if kind is not None:
            counts[kind] += int(np.prod(node.get_output_shape(0), dtype=np.int64))
    total = sum(counts.values())
    major = [kind for kind, count in counts.items() if count > _MINOR_SHARE * total]
    if "int8" in major and "FakeQuantize" not in operators:
        return "mixed", total
    return (major[0] if len(major) == 1 else ("mixed" if major else "fp32")), total
