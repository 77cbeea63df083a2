"""Depth maps on disk: `.npy` of metres, or a 16-bit PNG of millimetres, to metres."""

import io
import struct
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.header import read_header
from visiondyno.errors import DatasetError
from visiondyno.predictions import DepthTruth

METRES_PER_UNIT = {".npy": 1.0, ".png": 0.001}
"""What one unit is, by the suffix of the file."""

_PNG_HEADER_BYTES = 26
_GREY_16 = (16, 0)


def read_depth(truth: DepthTruth) -> NDArray[np.float32]:
    """The depth map of one image.

    Returns:
        (height, width) float32 metres; NaN where nothing was measured (0, NaN or infinity in the
        file).

    Raises:
        DatasetError: the file is missing, damaged, of another form, or has negative depth.
    """
    stored = _read_npy(truth.path) if truth.path.suffix.lower() == ".npy" else _read_png(truth.path)
    metres = stored.astype(np.float32) * np.float32(truth.metres_per_unit)
    if np.any(metres < 0):
        raise DatasetError(f"Depth {truth.path} has negative values; metres were expected")
    metres[~np.isfinite(metres) | (metres == 0)] = np.nan
    return metres


def summarise_depth(truths: Iterable[DepthTruth]) -> dict[str, float]:
    """What depth maps hold.

    Returns:
        measured_share (pixels with depth, 0–1), nearest_m, farthest_m, median_m (the median of the
        maps' medians).

    Raises:
        DatasetError: a map can't be read.
    """
    pixels = measured = 0
    nearest, farthest = np.inf, -np.inf
    medians = []
    for truth in truths:
        depth = read_depth(truth)
        known = depth[~np.isnan(depth)]
        pixels += depth.size
        measured += known.size
        nearest, farthest = min(nearest, known.min()), max(farthest, known.max())
        medians.append(np.median(known))
    return {
        "measured_share": measured / pixels,
        "nearest_m": float(nearest),
        "farthest_m": float(farthest),
        "median_m": float(np.median(medians)),
    }


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"Depth {path} can't be read: {error.strerror}") from None


def _read_npy(path: Path) -> NDArray[np.floating]:
    data = io.BytesIO(_bytes(path))
    try:
        version = np.lib.format.read_magic(data)
        read_array_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, kind = read_array_header(data)
    except (ValueError, SyntaxError, EOFError, struct.error) as error:
        raise DatasetError(f"Depth {path} isn't a .npy file: {error!s:.120}") from None
    if kind.kind != "f" or len(shape) != 2 or 0 in shape:
        raise DatasetError(
            f"Depth {path} must hold (height, width) floating-point metres, but holds "
            f"{kind} {'×'.join(map(str, shape)) or 'of no shape'}"
        )
    values = data.read()
    # Checked before any array of the announced size is made.
    if len(values) != shape[0] * shape[1] * kind.itemsize:
        raise DatasetError(f"Depth {path} is truncated: it doesn't hold the values it announces")
    depth: NDArray[np.floating] = np.frombuffer(values, kind)
    if fortran_order:
        return depth.reshape(shape[::-1]).T
    return depth.reshape(shape)


def _read_png(path: Path) -> NDArray[np.uint16]:
    data = _bytes(path)
    header = read_header(path)
    kind = struct.unpack_from("BB", data, 24) if len(data) >= _PNG_HEADER_BYTES else None
    if not data.startswith(b"\x89PNG") or kind != _GREY_16:
        raise DatasetError(
            f"Depth {path} must be a 16-bit grey PNG of millimetres. Convert it, or save metres "
            "as .npy"
        )
    decoded: NDArray[np.uint16] | None = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
    )
    if decoded is None or decoded.shape != (header.height, header.width):
        raise DatasetError(f"Depth {path} is damaged and can't be decoded")
    return decoded
