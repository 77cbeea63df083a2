"""What ONNX Runtime's own profiler says of a session: how long each node's kernel took, by run."""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from visiondyno.errors import StorageFull, Unavailable
from visiondyno.measurements.operators import OperatorRun, OperatorTensor
from visiondyno.runtimes.base import Device
from visiondyno.runtimes.onnx_packed_weights import nodes_of, weights_by_node, with_weight
from visiondyno.runtimes.onnx_profiler_cost import ProfilerCost, profiler_cost

_TYPES = {"float": "float32", "double": "float64"}
_KERNEL = "_kernel_time"
_MOVED = re.compile(r"_nchwc|_token_\d+$")
"""What ONNX Runtime puts behind the name of a node whose layout it changed."""


class OnnxProfile:
    """The profile of one session, from the options it is made with to its end.

    ONNX Runtime writes it to a file, in a temporary folder that `close` removes. It keeps a
    million events at most, and counts in whole microseconds. What the profiler itself adds to each
    operator's time is measured, and taken off; see `note`.
    """

    def __init__(self, path: Path, device: Device) -> None:
        """`path`: of the ONNX file, which says what the profile doesn't: sizes of windows.

        Raises:
            Unavailable: on a GPU its events are of the processor, which only starts kernels there.
        """
        if device != "cpu":
            raise Unavailable(
                f"ONNX Runtime's profiler can't time operators on '{device}': it sees the "
                "processor start them, and not the GPU run them. Profile it on cpu, or a model of "
                f"torch on {device}."
            )
        self._facts = node_facts(path)
        self._cost = profiler_cost()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="visiondyno-profile-")
        except OSError as error:
            raise StorageFull(
                f"There is no room for a profile in {tempfile.gettempdir()} ({error.strerror}); "
                "make some, or set TMPDIR to a folder that has."
            ) from error

    def apply(self, session_options: Any) -> None:
        """Have a session that is made with these options write its profile here."""
        session_options.enable_profiling = True
        session_options.profile_file_prefix = str(Path(self._folder.name) / "profile")

    def operators(self, session: Any) -> list[OperatorRun]:
        """End the profile, and read it."""
        events = json.loads(Path(session.end_profiling()).read_bytes())
        self.close()
        return without_profiler(operators_of(events, self._facts), self._cost)

    @property
    def note(self) -> str:
        """What a reader of the times must know."""
        return (
            f"ONNX Runtime's profiler adds {self._cost.added_s * 1e6:.1f} µs to the time of each "
            "operator, as a graph of small ones shows; so much is taken off, but never more than "
            "leaves an operator the time of the smallest."
        )

    def close(self) -> None:
        """Remove the file; again: nothing."""
        self._folder.cleanup()


def without_profiler(found: Sequence[OperatorRun], cost: ProfilerCost) -> list[OperatorRun]:
    """The times without what the profiler added to them.

    From each of an operator's runs the same is taken, so that they differ as they did.
    """
    fastest: dict[str, float] = {}
    for one in found:
        fastest[one.name] = min(one.seconds, fastest.get(one.name, math.inf))
    added = {
        name: max(0.0, min(cost.added_s, seconds - cost.least_s))
        for name, seconds in fastest.items()
    }
    return [replace(one, seconds=one.seconds - added[one.name]) for one in found]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the file says of a node and the profile doesn't; see `OperatorRun`."""

    name: str
    window: int | None = None
    mode: str | None = None
    weight: OperatorTensor | None = None


def node_facts(path: Path) -> dict[str, NodeFacts]:
    """Of each node, those of loops and branches too, by its name and by that of its first output.

    ONNX Runtime calls nodes that it moved to its blocked layout after what they write.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = weights_by_node(graph)
    found: dict[str, NodeFacts] = {}
    for node in nodes_of(graph):
        said = {attribute.name: attribute for attribute in node.attribute}
        window = mode = None
        if "kernel_shape" in said and "Pool" in node.op_type:
            window = math.prod(said["kernel_shape"].ints)
        if node.op_type in ("Resize", "Upsample"):
            mode = said["mode"].s.decode() if "mode" in said else "nearest"
        facts = NodeFacts(node.name, window, mode, weights.get(node.name or node.output[0]))
        for name in {node.name, node.output[0]} - {""}:
            found.setdefault(name, facts)  # the outer graph comes first
    return found


def operators_of(
    events: Iterable[Mapping[str, Any]], facts: Mapping[str, NodeFacts]
) -> list[OperatorRun]:
    """The nodes' executions in a profile, in order, each without those inside it (of a Loop).

    Args:
        events: of the profile's file, in its order: a node's own after those inside it, a run's
            after its nodes.
        facts: see `node_facts`.
    """
    found: list[OperatorRun] = []
    run = 0
    waiting: list[tuple[int, int]] = []  # start and duration of nodes that may lie inside another
    for event in events:
        if event.get("name") == "model_run":
            run += 1
            waiting = []
        if event.get("cat") != "Node" or not str(event["name"]).endswith(_KERNEL):
            continue
        began, took = int(event["ts"]), int(event["dur"])
        inside = 0
        while waiting and waiting[-1][0] >= began:
            inside += waiting.pop()[1]
        waiting.append((began, took))
        found.append(_operator(event, run, max(0, took - inside), facts))
    return found


def _operator(
    event: Mapping[str, Any], run: int, took_us: int, facts: Mapping[str, NodeFacts]
) -> OperatorRun:
    said = event["args"]
    name = str(event["name"]).removesuffix(_KERNEL)
    known = facts.get(name) or facts.get(_MOVED.split(name)[0]) or NodeFacts(name)
    outputs = _tensors(said.get("output_type_shape", ()))
    told = _tensors(said.get("input_type_shape", ()))
    kind = str(said["op_name"])
    return OperatorRun(
        run=run,
        name=name,
        kind=kind,
        seconds=took_us / 1e6,
        inputs=with_weight(kind, told, outputs, known.weight),
        outputs=outputs,
        path=scope_of(known.name or name),
        kernel=str(said.get("provider", "")).removesuffix("ExecutionProvider"),
        window=known.window,
        mode=known.mode,
    )


def _tensors(said: Iterable[Mapping[str, Any]]) -> tuple[OperatorTensor, ...]:
    return tuple(
        OperatorTensor(_TYPES.get(dtype, dtype), tuple(int(size) for size in shape))
        for one in said
        for dtype, shape in one.items()
    )


def scope_of(name: str) -> tuple[str, ...]:
    """`/model.0/conv/Conv` → model, 0, conv, Conv: exporters write scopes with / and with dots."""
    return tuple(part for part in name.replace(".", "/").split("/") if part) or (name,)
