"""Quantizing an ONNX file by ONNX Runtime's own tools, in a child process.

Those tools hold a model several times over, die of some graphs in native code, and print: in a
process of its own none of that is anybody else's. `sandbox.run_in_child` calls `quantize`.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError, VisionDynoError
from visiondyno.measuring.images import EncodedImages
from visiondyno.operations.quantize_graph import (
    WEIGHTED,
    Kept,
    check_excluded,
    count_quantized,
    kept_nodes,
    name_nodes,
    why_float,
)
from visiondyno.runtimes.graph_input import GraphInput, image_input
from visiondyno.runtimes.model_cards import resolve_card
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.preprocess import Preprocessor

Emit = Callable[[dict[str, Any]], None]

QUANTIZED = "quantized.onnx"
"""Name of the file that is left in the payload's folder."""

_PREPARED, _RANGES = "prepared.onnx", "ranges.json"
_PER_CHANNEL_OPSET = 13
"""The first in which a scale may be one of each channel."""
_BINS = 2048
_PERCENTILE = 99.99
_DYNAMIC = ("MatMul", "Gemm", "Attention", "LSTM")
_MOSTLY = 0.5
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class _Work:
    """What is asked for, and where."""

    folder: Path
    model: Path
    payload: dict[str, Any]
    emit: Emit

    @property
    def prepared(self) -> Path:
        return self.folder / _PREPARED

    @property
    def quantized(self) -> Path:
        return self.folder / QUANTIZED


def quantize(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Write `quantized.onnx` into `folder`.

    Payload: `folder`, `model` (path), `method` (`static_int8`, `dynamic_int8`), `per_channel`,
    `exclude`, `keep_head`, and of the static one `calibration`, `images` (paths), `activations`,
    `weight_bits`.

    Returns:
        `quantized` (type of operator to number of nodes), `kept_float` (list of `type`, `count`,
        `reason`), `notes`.

    Raises:
        SpecError: `exclude` names what isn't there.
        ModelError: the model can't be quantized, with ONNX Runtime's reason.
    """
    import onnx

    work = _Work(Path(payload["folder"]), Path(payload["model"]).resolve(), payload, emit)
    os.chdir(work.folder)  # the tools leave files in the folder they run in
    logging.disable(logging.WARNING)
    facts = read_onnx(work.model)
    emit({"stage": "preparing the graph"})
    with _telling("can't be prepared for quantization"):
        notes = _prepare(work)
        graph = onnx.load(str(work.prepared)).graph
    check_excluded(payload["exclude"], (onnx.load(str(work.model)).graph, graph))
    kept = kept_nodes(graph, payload["exclude"], keep_head=payload["keep_head"])
    if payload["method"] == "static_int8":
        card = resolve_card(facts).card
        with _telling("can't be calibrated"):
            _calibrate(work, image_input(facts), card)
        with _telling("can't be quantized"):
            _quantize_static(work, kept)
    else:
        with _telling("can't be quantized"):
            notes += _quantize_dynamic(work, graph, kept)
    made = onnx.load(str(work.quantized)).graph
    counted = count_quantized(made, kept)
    _require_weights(counted, graph, payload)
    return {"quantized": counted, "kept_float": why_float(graph, made, kept), "notes": notes}


def _prepare(work: _Work) -> list[str]:
    """Fold constants, fuse batch norms, infer shapes, and give each node a name."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    model = onnx.load(str(work.model))
    name_nodes(model.graph)
    notes = []
    opset = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    if work.payload["method"] == "static_int8" and opset < _PER_CHANNEL_OPSET:
        model = onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET)
        notes.append(f"Opset {opset} became {_PER_CHANNEL_OPSET}: it has a scale for each channel.")
    # Symbolic inference is for transformers of free length, and gives up on most detectors.
    named = work.folder / "named.onnx"
    onnx.save(model, str(named))
    quant_pre_process(str(named), str(work.prepared), skip_symbolic_shape=True)
    prepared = onnx.load(str(work.prepared))
    name_nodes(prepared.graph)
    onnx.save(prepared, str(work.prepared))
    return notes


def _calibrate(work: _Work, graph_input: GraphInput, card: ModelCard) -> None:
    """Find the range of each tensor, one batch at a time, and write all as a file."""
    from onnxruntime.quantization.calibrate import (
        CalibrationMethod,
        create_calibrator,
        save_tensors_data,
    )

    method, options = {
        "min_max": (CalibrationMethod.MinMax, {}),
        "entropy": (CalibrationMethod.Entropy, {}),
        "percentile": (
            CalibrationMethod.Percentile,
            # Not symmetric, or half of uint8 would stand for values below 0 that a ReLU never has.
            {"num_bins": _BINS, "percentile": _PERCENTILE, "symmetric": False},
        ),
    }[work.payload["calibration"]]
    calibrator = create_calibrator(
        work.prepared,
        augmented_model_path=str(work.folder / "augmented.onnx"),
        calibrate_method=method,
        extra_options=options,
    )
    for feeds in _feeds(work, graph_input, card):
        calibrator.collect_data(_Once(feeds))
    work.emit({"stage": "choosing ranges"})
    save_tensors_data(calibrator.compute_data(), work.folder / _RANGES)


class _Once:
    """A reader of one batch: all outputs of what a reader gives are held at once."""

    def __init__(self, feeds: dict[str, NDArray[Any]]) -> None:
        self._left = [feeds]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return self._left.pop() if self._left else None


def _feeds(
    work: _Work, graph_input: GraphInput, card: ModelCard
) -> Iterator[dict[str, NDArray[Any]]]:
    """What the graph is fed for each image, prepared as when the model is evaluated."""
    images = EncodedImages([Path(path) for path in work.payload["images"]])
    preprocessor = Preprocessor(card.input)
    for index in range(len(images)):
        work.emit({"stage": "calibrating", "done": index, "total": len(images)})
        (batch,) = preprocessor.by_shape([images.decode(index)]).batches
        tensor = np.repeat(batch.tensor, graph_input.batch or 1, axis=0)
        feeds = {graph_input.name: tensor if graph_input.has_batch_axis else tensor[0]}
        if graph_input.size_input is not None:
            size = np.array([[card.input.width, card.input.height]], np.int64)
            feeds[graph_input.size_input] = np.repeat(size, len(tensor), axis=0)
        yield feeds


def _quantize_static(work: _Work, kept: Kept) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationMethod

    payload = work.payload
    work.emit({"stage": "quantizing"})
    names = {"min_max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    quantize_static(
        str(work.prepared),
        str(work.quantized),
        quant_format=QuantFormat.QDQ,
        per_channel=payload["per_channel"],
        reduce_range=payload["weight_bits"] == 7,
        activation_type={"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}[
            payload["activations"]
        ],
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept.names,
        calibrate_method=CalibrationMethod[names[payload["calibration"]]],
        calibration_cache_path=work.folder / _RANGES,
    )


def _quantize_dynamic(work: _Work, graph: Any, kept: Kept) -> list[str]:
    """Products of matrices; convolutions only where nearly all weights are theirs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    work.emit({"stage": "quantizing"})
    with_conv = _share_of_convolutions(graph) > _MOSTLY
    quantize_dynamic(
        str(work.prepared),
        str(work.quantized),
        op_types_to_quantize=[*_DYNAMIC, *(["Conv"] if with_conv else [])],
        per_channel=work.payload["per_channel"] and not with_conv,
        # Convolutions of integers take several times as long by signed weights.
        weight_type=QuantType.QUInt8 if with_conv else QuantType.QInt8,
        nodes_to_exclude=kept.names,
    )
    if not with_conv:
        return ["Dynamic quantization is of matrix products; convolutions stay in floating point."]
    note = (
        "Most weights are those of convolutions, which ONNX Runtime runs as ConvInteger when their "
        "inputs are quantized while it runs: smaller, and slower than float32. static_int8 is the "
        "one for speed."
    )
    return [note]


def _share_of_convolutions(graph: Any) -> float:
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    found = {"Conv": 0, "other": 0}
    for node in graph.node:
        if node.op_type in WEIGHTED and len(node.input) > 1:
            kind = "Conv" if node.op_type == "Conv" else "other"
            found[kind] += sum(sizes.get(name, 0) for name in node.input[:2])
    return found["Conv"] / max(sum(found.values()), 1)


def _require_weights(counted: dict[str, int], graph: Any, payload: dict[str, Any]) -> None:
    if WEIGHTED & set(counted) or "LSTM" in counted:
        return
    there = sorted({node.op_type for node in graph.node} & WEIGHTED)
    if there and payload["exclude"]:
        hint = "leave some of 'exclude' out"
    elif there:
        hint = "take 'method': 'fp16'"
    else:
        hint = "there is nothing that int8 makes smaller or faster"
    held = f" (it has {', '.join(there)})" if there else ""
    raise ModelError(
        f"None of the model's convolutions and matrix products{held} could be quantized; {hint}."
    )


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn what ONNX Runtime's tools raise, which is anything, into one sentence."""
    try:
        yield
    except VisionDynoError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:_LONGEST_REASON].rstrip(". ")
        raise ModelError(
            f"The model {what} ({type(error).__name__}: {told}); leave nodes out by 'exclude', or "
            "take 'method': 'fp16'."
        ) from error
