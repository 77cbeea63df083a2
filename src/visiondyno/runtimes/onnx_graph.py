"""The graph of an ONNX model by itself: tensors in and out as the file has them."""

from typing import Any

from visiondyno.runtimes.base import GraphTensor
from visiondyno.runtimes.file_model import FileGraph, Run

# What NumPy has a type for; the others of ONNX (bfloat16, 8-bit floats, 4-bit integers) can't be
# handed to ONNX Runtime as arrays.
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def graph_of(session: Any, run: Run) -> FileGraph | None:
    """The graph of an `onnxruntime.InferenceSession`.

    None where an input or output is of a type that can't be handed over as an array: a sequence, a
    map, bfloat16.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if any(one.type not in _DATATYPES for one in (*inputs, *outputs)):
        return None
    first = {one.shape[0] if one.shape else None for one in (*inputs, *outputs)}
    return FileGraph(
        tuple(_tensor(one) for one in inputs),
        tuple(_tensor(one) for one in outputs),
        # A named size is the same wherever the name is; one without a name may be anything.
        has_free_rows=len(first) == 1 and isinstance(first.pop(), str),
        run=run,
    )


def _tensor(value: Any) -> GraphTensor:
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in value.shape)
    return GraphTensor(value.name, _DATATYPES[value.type], shape)
