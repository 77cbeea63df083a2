"""Ultralytics' C2f blocks in a form whose channels can be followed, and back.

A C2f block halves what its first convolution answers: one half goes through the bottlenecks, both
go on. Which channel is in which half depends on how many there are, so none can be removed
from that convolution by itself. Taken apart into one convolution for each half, the block computes
the same, and each half loses as many channels as the other, since they are equally wide: put
together again it is an ordinary C2f block, and the network an ordinary network of its architecture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError
from visiondyno.specs.trained_model import LayerSize
from visiondyno.state.layer_sizes import put_size

if TYPE_CHECKING:
    import torch
    from torch import nn

_TOLERANCE = 1e-4
"""Relative: convolutions of other widths sum in another order."""


@dataclass(frozen=True, slots=True)
class _Apart:
    block: Any
    whole: Any
    """The first convolution with its norm, not part of the network meanwhile."""

    def put_together(self, name: str) -> None:
        first, second = self.block.cv1
        if first.conv.out_channels != second.conv.out_channels:
            raise ModelError(
                f"{name} can't be pruned: the halves of one of its C2f blocks would differ "
                f"({first.conv.out_channels} and {second.conv.out_channels} channels)."
            )
        inputs, outputs = first.conv.in_channels, 2 * first.conv.out_channels
        put_size(self.whole.conv, LayerSize(name="cv1", inputs=inputs, outputs=outputs))
        put_size(self.whole.bn, LayerSize(name="cv1", inputs=outputs, outputs=outputs))
        _copy((first, second), self.whole)
        self.block.cv1 = self.whole
        self.block.c = outputs // 2
        del self.block.forward


@contextmanager
def taken_apart(network: "nn.Module", image: "torch.Tensor", name: str) -> Iterator[None]:
    """The network with the first convolution of each C2f block as two; changed in place.

    Args:
        network: of Ultralytics, in evaluation mode, on the processor.
        image: both forms are compared on noise of its size.
        name: for messages.

    Raises:
        ModelError: the other form computes something else, before or after.
    """
    import torch

    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    before = _answer(network, noise)
    apart = [_apart(block) for block in network.modules() if _is_c2f(block)]
    _check_same(before, _answer(network, noise), name)
    yield
    pruned = _answer(network, noise)
    for one in apart:
        one.put_together(name)
    _check_same(pruned, _answer(network, noise), name)


def _is_c2f(block: "nn.Module") -> bool:
    from ultralytics.nn.modules.block import C2f

    # Not those that go on in another way with what C2f has.
    return isinstance(block, C2f) and type(block).forward is C2f.forward


def _apart(block: Any) -> _Apart:
    import torch
    from torch import nn

    whole = block.cv1
    width = whole.conv.out_channels // 2
    halves = []
    for at in range(2):
        half = deepcopy(whole)
        put_size(half.conv, LayerSize(name="half", inputs=whole.conv.in_channels, outputs=width))
        put_size(half.bn, LayerSize(name="half", inputs=width, outputs=width))
        _copy((whole,), half, slice(at * width, (at + 1) * width))
        halves.append(half)

    class Halves(nn.ModuleList):  # type: ignore[misc] # torch is not typed for us
        """Shown under the first convolution's name."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = [half(x) for half in block.cv1]
        y.extend(inner(y[-1]) for inner in block.m)
        found: torch.Tensor = block.cv2(torch.cat(y, 1))
        return found

    block.cv1 = Halves(halves)
    block.forward = forward
    return _Apart(block, whole)


def _copy(sources: tuple[Any, ...], target: Any, part: slice = slice(None)) -> None:
    """Weights of convolutions with norms, beside each other, into one."""
    import torch

    with torch.no_grad():
        for layer in ("conv", "bn"):
            state = getattr(target, layer).state_dict(keep_vars=True)
            for name, tensor in state.items():
                given = [getattr(getattr(source, layer), name) for source in sources]
                tensor.copy_(torch.cat(given)[part] if tensor.ndim else given[0])


def _answer(network: Any, noise: "torch.Tensor") -> "torch.Tensor":
    import torch

    with torch.no_grad():
        found: torch.Tensor = network(noise)[0]
    return found


def _check_same(one: "torch.Tensor", other: "torch.Tensor", name: str) -> None:
    largest = float(one.abs().max())
    difference = float((one - other).abs().max())
    if not difference <= _TOLERANCE * max(largest, 1.0):
        raise ModelError(
            f"{name} can't be pruned: with its C2f blocks in another form it answers otherwise, by "
            f"{difference:.3g}. Take another architecture, such as ultralytics:yolov8n."
        )
