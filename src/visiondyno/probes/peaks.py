"""The most that this machine computes and moves a second, measured: the two lines of a roofline.

Both are what a program of the same library reaches at best, not what a data sheet promises. The
best of several repeats counts: whatever else runs can only make one slower.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from visiondyno.probes.kernel_files import ROOT, read_text

SIDE = 1024
CHANNELS, IMAGE = 64, 56
CONVOLUTION_FLOP = 2.0 * CHANNELS**2 * 9 * IMAGE**2
_TIMES_CACHE = 4
_LEAST_BYTES = 64 << 20
REPEATS = 7
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Peak:
    """The best of several repeats.

    Attributes:
        per_s: operations, or bytes, a second.
        method: how it was measured, for the report.
    """

    per_s: float
    method: str


def best_rate(
    run: Callable[[], Any],
    work: float,
    repeats: int = REPEATS,
    now_s: Callable[[], float] = time.perf_counter,
) -> float:
    """`work` a second at the best of `repeats`, after one that isn't counted."""
    run()
    best_s = float("inf")
    for _ in range(repeats):
        began_s = now_s()
        run()
        best_s = min(best_s, now_s() - began_s)
    return work / best_s


def memory_peak(threads: int, root: Path = ROOT, most_bytes: int | None = None) -> Peak:
    """Bytes a second of a copy, read and written ones counted (as STREAM does, McCalpin 1995).

    Args:
        threads: that copy at once, each a part of its own.
        root: holds `sys`, where the size of the last-level cache is read.
        most_bytes: of each of the two arrays; an eighth of the free memory if None.
    """
    cache = last_level_cache_bytes(root)
    if most_bytes is None:
        most_bytes = psutil.virtual_memory().available // 8
    size = min(max(_TIMES_CACHE * (cache or 0), _LEAST_BYTES), most_bytes)
    source = np.ones(size, np.uint8)
    target = np.ones(size, np.uint8)
    edges = [size * place // threads for place in range(threads + 1)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

        rate = best_rate(copy, 2 * size)
    times = f", {size / cache:.1f} × the last-level cache" if cache else ""
    return Peak(
        rate,
        f"copy of {size >> 20} MiB{times}, {threads} thread{'s' * (threads > 1)}, bytes read and "
        f"written, best of {REPEATS}",
    )


def last_level_cache_bytes(root: Path = ROOT) -> int | None:
    """Of the first processor this process may use; None where the kernel doesn't say."""
    usable = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    folder = root / f"sys/devices/system/cpu/cpu{usable}/cache"
    found = []
    for path in folder.glob("index*/size"):
        text = (read_text(path) or "").strip()
        if text[-1:] in _UNITS and text[:-1].isdigit():
            found.append(int(text[:-1]) * _UNITS[text[-1]])
    return max(found, default=None)


def compute_peak(threads: int | None) -> Peak:
    """Floating-point operations a second in fp32 by ONNX Runtime, on the processor.

    Args:
        threads: inside one operator; the library's own default if None.
    """
    return best_of(_onnxruntime(threads, SIDE), "onnxruntime", SIDE)


Work = Sequence[tuple[Callable[[], Any], float]]
"""What to run, and how many operations that takes."""


def best_of(work: Work, library: str, side: int) -> Peak:
    """The better of a product of `side`² matrices and the convolution of `CONVOLUTION_FLOP`."""
    return Peak(
        max(best_rate(run, flop) for run, flop in work),
        f"the better of a product of two {side}² matrices and a convolution (3×3, {CHANNELS} "
        f"channels, {IMAGE}²) in fp32 by {library}, best of {REPEATS}",
    )


def _onnxruntime(threads: int | None, side: int) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    work = []
    for graph, feed, flop in graphs(side):
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        work.append((lambda s=session, f=feed: s.run(None, {"x": f}), flop))
    return work


def graphs(side: int) -> list[tuple[bytes, Any, float]]:
    """An ONNX graph, its input `x`, and the operations that it takes."""
    from onnx import TensorProto, helper, numpy_helper

    made = []
    image = (1, CHANNELS, IMAGE, IMAGE)
    for kind, shape, weight, flop, attributes in (
        ("MatMul", (side, side), (side, side), 2.0 * side**3, {}),
        ("Conv", image, (CHANNELS, CHANNELS, 3, 3), CONVOLUTION_FLOP, {"pads": [1, 1, 1, 1]}),
    ):
        node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
        weights = numpy_helper.from_array(np.ones(weight, np.float32), "w")
        graph = helper.make_graph([node], "peak", ends[:1], ends[1:], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        made.append((model.SerializeToString(), np.ones(shape, np.float32), flop))
    return made
