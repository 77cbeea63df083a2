"""What ONNX Runtime's profiler adds to the time of each operator, measured where it runs.

The profiler writes down the shapes of an operator's outputs before it stops that operator's clock
(`KernelScope` in ONNX Runtime's sequential_executor.cc), so some microseconds of its own are in
each operator's time. Of operators that do next to nothing, they are nearly all of it.
"""

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

_NODES, _RUNS, _WARM_UP_RUNS = 200, 100, 20
_SHAPE = (1, 8, 1, 1)
_OPSET, _IR = 17, 9
_FATAL_ONLY = 4


@dataclass(frozen=True, slots=True)
class ProfilerCost:
    """Of one operator, seconds.

    Attributes:
        added_s: what the profiler's own work adds to its time; at least so much.
        least_s: what the smallest operator takes without a profiler, the way to it included.
    """

    added_s: float
    least_s: float


@cache
def profiler_cost() -> ProfilerCost:
    """Measure it on a chain of small operators, with and without the profiler; about a second.

    With: the mean of the operators' times. Without: the run's time over their number, which is
    more than they take by themselves. Medians over the runs of both.
    """
    graph = _chain()
    plain, _ = _timed(graph, None)
    with tempfile.TemporaryDirectory(prefix="visiondyno-profile-") as folder:
        _, profiled = _timed(graph, Path(folder))
    least_s = statistics.median(plain) / _NODES
    return ProfilerCost(max(0.0, statistics.median(profiled) - least_s), least_s)


def _chain() -> bytes:
    kinds = ("Neg", "Floor")  # none undoes the one before: nothing is optimised away
    nodes = [
        helper.make_node(kinds[place % 2], [f"t{place}"], [f"t{place + 1}"], name=f"n{place}")
        for place in range(_NODES)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, _SHAPE)
        for name in ("t0", f"t{_NODES}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    data: bytes = model.SerializeToString()
    return data


def _timed(graph: bytes, folder: Path | None) -> tuple[list[float], list[float]]:
    """Seconds of each run, and with a profile in `folder` the mean operator of each run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1
    if folder is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds = {"t0": np.ones(_SHAPE, np.float32)}
    spent_s = []
    for _ in range(_WARM_UP_RUNS + _RUNS):
        began_ns = time.perf_counter_ns()
        session.run(None, feeds)
        spent_s.append((time.perf_counter_ns() - began_ns) / 1e9)
    if folder is None:
        return spent_s[_WARM_UP_RUNS:], []
    events = json.loads(Path(session.end_profiling()).read_bytes())
    took_us = [event["dur"] for event in events if str(event["name"]).endswith("_kernel_time")]
    per_run = np.asarray(took_us, np.float64).reshape(-1, _NODES).mean(axis=1) / 1e6
    return spent_s[_WARM_UP_RUNS:], per_run[_WARM_UP_RUNS:].tolist()
