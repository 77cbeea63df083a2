"""Inference on memory that was bound before: inputs and outputs of an ONNX Runtime session."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

MOST_SHAPES = 8
"""Of inputs that memory is kept for; each holds its inputs (and captured graph) on the device."""

_GRAPH_ID = "gpu_graph_id"
_NO_CAPTURE = "-1"

_Key = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...], str], ...]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Memory for feeds of one set of shapes.

    Attributes:
        inputs: on the device, by name, written in place.
        binding: of inputs and outputs.
        run_options: say which captured graph is meant.
        outputs: names to bind anew before each run; none where outputs have memory of their own.
    """

    inputs: dict[str, Any]
    binding: Any
    run_options: Any
    outputs: tuple[str, ...]


class BoundSession:
    """Runs a session on inputs and outputs that lie on its device (ONNX Runtime's IO binding).

    Feeds are copied into memory that stays where it is, one place for each set of shapes, and
    outputs are copied to the host once all of them are there: the two copies that inference needs.
    `InferenceSession.run` would allocate anew for each.

    With `captures`, the session was made with `enable_cuda_graph`: the first inference of a shape
    runs plainly (its outputs tell their shapes), the second is captured by ONNX Runtime after its
    own warm-up run, and all others replay it. Of at most `MOST_SHAPES` shapes: others run
    uncaptured. Outputs whose shape depends on the data can't be captured.

    The answers are those of `InferenceSession.run`, in arrays of their own. From one thread at a
    time.
    """

    def __init__(
        self, session: Any, device: str, device_id: int = 0, *, captures: bool = False
    ) -> None:
        """`session`: of ONNX Runtime; `device`: `cuda`, or `cpu` with the same answers."""
        self._session = session
        self._device = device
        self._device_id = device_id
        self._captures = captures
        self._graphs = 0
        self._places: OrderedDict[_Key, _Place] = OrderedDict()

    @property
    def captured(self) -> int:
        """How many shapes have memory for a captured graph."""
        return self._graphs

    def run(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs called `wanted`, in that order; raises what ONNX Runtime raises.

        Args:
            wanted: names of outputs.
            feeds: a numeric array for each input.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        key = (
            tuple(wanted),
            tuple((name, array.shape, array.dtype.str) for name, array in contiguous.items()),
        )
        place = self._places.get(key)
        if place is None:
            return self._first(key, contiguous)
        self._places.move_to_end(key)
        for name, array in contiguous.items():
            place.inputs[name].update_inplace(array)
        return self._answered(place)

    def close(self) -> None:
        """Let go of the memory and the session."""
        self._places.clear()
        self._session = None

    def _first(self, key: _Key, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The answer to feeds of new shapes; memory for them is kept if they can be run."""
        inputs = {}
        for name, array in feeds.items():
            inputs[name] = self._memory(array)
            inputs[name].update_inplace(array)
        place = self._place(inputs, key[0], _NO_CAPTURE if self._captures else None)
        answer = self._answered(place)
        if self._captures and self._graphs < MOST_SHAPES:
            self._graphs += 1
            place = self._capturing(inputs, dict(zip(key[0], answer, strict=True)))
        elif len(self._places) >= MOST_SHAPES:
            self._forget_one()
        self._places[key] = place
        return answer

    def _place(self, inputs: dict[str, Any], outputs: Sequence[str], graph: str | None) -> _Place:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        run_options = onnxruntime.RunOptions()
        if graph is not None:
            run_options.add_run_config_entry(_GRAPH_ID, graph)
        return _Place(inputs, binding, run_options, tuple(outputs))

    def _capturing(self, inputs: dict[str, Any], answer: Mapping[str, NDArray[Any]]) -> _Place:
        """Replaying writes to the addresses of the capture, so outputs get memory of their own."""
        place = self._place(inputs, (), str(self._graphs))
        for name, array in answer.items():
            place.binding.bind_ortvalue_output(name, self._memory(array))
        return place

    def _answered(self, place: _Place) -> list[NDArray[Any]]:
        # An output that was allocated by an earlier run would be taken for memory of that shape.
        for name in place.outputs:
            place.binding.bind_output(name, self._device, self._device_id)
        self._session.run_with_iobinding(place.binding, place.run_options)
        found: list[NDArray[Any]] = place.binding.copy_outputs_to_cpu()
        return found

    def _memory(self, like: NDArray[Any]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(like.shape), like.dtype.type, self._device, self._device_id
        )

    def _forget_one(self) -> None:
        """Free the memory least recently used of those without a captured graph, if any."""
        for key, place in self._places.items():
            if place.outputs:
                del self._places[key]
                return
