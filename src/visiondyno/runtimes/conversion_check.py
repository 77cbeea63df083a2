"""The last step of a conversion, in the child: compare, and write down how it went."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from visiondyno.runtimes.conversion import METADATA_KEY

FREE_SIDE = 224
"""Of images that a model takes of any size, pixels."""
_IMAGES = 2

Answer = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""The original's outputs for one batch of images, in the order of the ONNX file's."""


class ConversionError(Exception):
    """Why a model can't be converted, as a sentence for its user."""


def finish(path: Path, answer: Answer, by: str, extra: dict[str, str] | None = None) -> None:
    """Compare the file with the original on noise, and write into it what was found.

    Args:
        path: of the ONNX file, which gets `METADATA_KEY`.
        answer: runs the original.
        by: what converted it.
        extra: more metadata.
    """
    model = onnx.load(path)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    noise = _noise(session.get_inputs()[0])
    found = session.run(None, {session.get_inputs()[0].name: noise})
    difference = largest_difference(answer(noise), found)
    said = {METADATA_KEY: json.dumps({"by": by, "difference": difference})} | (extra or {})
    for key, value in said.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def largest_difference(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """The largest difference of any output, in shares of that output's largest value.

    Infinite where the outputs have other shapes, or one of them holds NaN.
    """
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape or np.isnan(other).any() or np.isnan(one).any():
            return float("inf")
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0)
        worst = max(worst, float(apart) / max(float(np.abs(one).max(initial=0.0)), 1e-12))
    return worst


def _noise(value: Any) -> NDArray[Any]:
    shape = [size if isinstance(size, int) and size > 0 else FREE_SIDE for size in value.shape]
    if shape and not isinstance(value.shape[0], int):
        shape[0] = _IMAGES
    random = np.random.default_rng(0)
    if value.type == "tensor(uint8)":
        return random.integers(0, 256, shape, dtype=np.uint8)
    dtype = np.float16 if value.type == "tensor(float16)" else np.float32
    return random.uniform(0, 1, shape).astype(dtype)
