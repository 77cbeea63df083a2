"""What OpenVINO's performance counters say of a compiled model: how long each of its nodes took."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from visiondyno.measurements.operators import OperatorRun, OperatorTensor
from visiondyno.runtimes.onnx_profile import scope_of

_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "uint8",
          "i32": "int32", "i64": "int64", "f64": "float64", "boolean": "bool"}  # fmt: skip


class OpenVinoProfile:
    """The counters of every inference since it was made; nodes that were fused away have none."""

    def __init__(self, compiled: Any) -> None:
        """`compiled` with `PERF_COUNT`; shapes are of its own graph, after fusing."""
        self._shapes = {
            node.get_friendly_name(): (_tensors(node.inputs()), _tensors(node.outputs()))
            for node in compiled.get_runtime_model().get_ordered_ops()
        }
        self._runs: list[list[tuple[str, str, str, float]]] = []

    def add(self, counters: Iterable[Any]) -> None:
        """Take an inference's `profiling_info`; it is written anew by the next one."""
        self._runs.append(
            [
                (one.node_name, one.node_type, one.exec_type, one.real_time.total_seconds())
                for one in counters
                if one.status == type(one).Status.EXECUTED
            ]
        )

    def operators(self) -> list[OperatorRun]:
        """The nodes' executions, in order."""
        return [
            self._operator(run, *counted)
            for run, counters in enumerate(self._runs)
            for counted in counters
        ]

    def _operator(self, run: int, name: str, kind: str, kernel: str, seconds: float) -> OperatorRun:
        inputs, outputs = self._shapes.get(name, ((), ()))
        return OperatorRun(
            run, name, kind, seconds, inputs, outputs, path=scope_of(name), kernel=kernel
        )


def _tensors(ports: Iterable[Any]) -> tuple[OperatorTensor, ...]:
    """None at all where a size is known at run time only."""
    found = []
    for port in ports:
        shape = port.get_partial_shape()
        if shape.is_dynamic:
            return ()
        name = port.get_element_type().get_type_name()
        found.append(OperatorTensor(_TYPES.get(name, name), tuple(shape.to_shape())))
    return tuple(found)


def openvino_runs(
    graphs: Iterable[tuple[bytes, Any, float]], threads: int | None
) -> list[tuple[Callable[[], Any], float]]:
    """What runs each ONNX graph on its one input in float32, with what was said of the graph.

    Args:
        graphs: bytes of the file, its input, and anything.
        threads: OpenVINO's own default if None.
    """
    import openvino

    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": openvino.Type.f32,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    found: list[tuple[Callable[[], Any], float]] = []
    for graph, feed, said in graphs:
        request = core.compile_model(core.read_model(graph), "CPU", config).create_infer_request()
        found.append((partial(request.infer, [feed]), said))
    return found
