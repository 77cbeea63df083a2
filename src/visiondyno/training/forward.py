"""What is called in a module's place: compiled, or spread over the GPUs of the worker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.specs.training import Hyperparameters

if TYPE_CHECKING:
    import torch
    from torch import nn


def wrapped(
    module: "nn.Module", hyperparameters: Hyperparameters, device: "torch.device"
) -> Callable[..., Any] | None:
    """The wrapper, which shares the module's weights; None where the module itself is called.

    Raises:
        SpecError: several GPUs are asked for where there aren't, or together with `compile`.
    """
    import torch
    from torch import nn
    from torch.fx import GraphModule

    count = torch.cuda.device_count() if device.type == "cuda" else 0
    asked = hyperparameters.data_parallel
    if asked and count < 2:
        raise SpecError(
            "'hyperparameters.data_parallel': this training runs on "
            f"{'one GPU' if count else 'the processor'}; leave it out, or take a worker with "
            "several GPUs."
        )
    if asked and hyperparameters.compile:
        raise SpecError(
            "'hyperparameters.data_parallel': it can't be combined with 'compile'; choose one."
        )
    if hyperparameters.compile:
        compiled: Callable[..., Any] = torch.compile(module)
        if isinstance(module, GraphModule):
            return _compiled_in_training(compiled, module)
        return compiled
    if count > 1 and asked is not False and (device.index or 0) == 0:
        parallel: Callable[..., Any] = nn.DataParallel(module)
        return parallel
    return None


@contextmanager
def compiler_of_its_own() -> Iterator[None]:
    """Torch's compiler without memory of earlier models, and without a trace afterwards.

    It counts how often it has compiled the same function, such as `Sequential.forward`, whatever
    model it belongs to; from the eighth time on it would run models uncompiled, and say nothing.
    """
    import torch

    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


def _compiled_in_training(compiled: Callable[..., Any], module: "nn.Module") -> Callable[..., Any]:
    """An exported program changes its graph for evaluation, which the compiler doesn't see."""

    def forward(features: "torch.Tensor") -> Any:
        return compiled(features) if module.training else module(features)

    return forward
