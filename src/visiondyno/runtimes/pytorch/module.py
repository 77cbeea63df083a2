"""A torch module whose input and output a model card describes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.runtimes.base import ModelDescription, Precision
from visiondyno.runtimes.card_model import CardModel
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.specs.model_card import ModelCard
from visiondyno.vision.heads import Output

if TYPE_CHECKING:
    import torch
    from torch import nn

_LONGEST_REASON = 200
_SCRIPT_FAILED = "The following operation failed in the TorchScript interpreter"


class TorchModel(CardModel):
    """Everything but making the module: what `_run` gives is what the card's head reads."""

    def __init__(
        self,
        description: ModelDescription,
        module: "Callable[[torch.Tensor], Any]",
        on: TorchDevice,
        output_names: Sequence[str] = (),
    ) -> None:
        """`module`: on its device and in evaluation mode, from one tensor to one or several."""
        super().__init__(description, output_names)
        self._module: Callable[[torch.Tensor], Any] | None = module
        self._on = on
        self.operator_times = on.operator_times()

    def _run(self, tensor: NDArray[Any]) -> list[Output]:
        assert self._module is not None
        with self._on.running(), no_surprise(self.description.reference):
            outputs = self._module(self._on.moved(tensor))
            # Reading them waits for the GPU: the time taken is that of the computation.
            arrays = [_as_array(output) for output in flat_tensors(outputs)]
        # Names are for messages; a module need not say any.
        self._output_names += [f"output {n}" for n in range(len(self._output_names), len(arrays))]
        return arrays

    def _free(self) -> None:
        self._module = None
        release_cached(self._on)


def flat_tensors(outputs: Any) -> "list[torch.Tensor]":
    """The tensors in what a module returned, in order: of tuples, lists and mappings alike."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for output in outputs for tensor in flat_tensors(output)]
    return []


def release_cached(on: TorchDevice) -> None:
    """Give back what torch keeps of a GPU's memory for later use."""
    import torch

    if on.device.type == "cuda":
        torch.cuda.empty_cache()


def described(
    module: "nn.Module",
    on: TorchDevice,
    reference: str,
    library: str,
    card_in_use: tuple[ModelCard, dict[str, str]],
    notes: tuple[str, ...] = (),
) -> ModelDescription:
    """A module of a library; digest and size of its weights are added by whoever read them.

    Args:
        module: as it will run.
        on: where.
        reference: of the model.
        library: and its version.
        card_in_use: see `native_card.card_in_use`.
        notes: before those of the device.
    """
    card, sources = card_in_use
    return ModelDescription(
        reference=reference,
        runtime=f"{library}, torch {on.version}",
        device=on.name,
        precision=precision_of(module),
        provider=on.provider,
        card=card,
        card_source=sources,
        batch_size=None,
        parameters=parameter_count(module),
        file_bytes=0,
        digest="",
        notes=(*notes, *on.notes),
    )


def parameter_count(module: "nn.Module") -> int:
    """Number of weights; buffers aren't weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def precision_of(module: "nn.Module") -> Precision:
    """Of the weights: their dtype, `mixed` where they have several."""
    import torch

    names: dict[torch.dtype, Precision] = {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.int8: "int8",
        torch.qint8: "int8",
    }
    found = {names.get(one.dtype, "mixed") for one in module.parameters()}
    return found.pop() if len(found) == 1 else ("mixed" if found else "fp32")


@contextmanager
def no_surprise(reference: str) -> Iterator[None]:
    """Whatever torch or a library stumbles over inside becomes a `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        # Libraries of models raise what comes: KeyError, RuntimeError, AssertionError …
        raise ModelError(f"{reference} stopped while running: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The telling part of an error of torch in one line, without its C++ and TorchScript frames."""
    text = str(error).split("\nException raised from")[0]
    if text.startswith(_SCRIPT_FAILED):
        text = re.split(r"\n[\w.]*Error: ", text)[-1]
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + "…"
    return text or type(error).__name__


def _as_array(tensor: "torch.Tensor") -> NDArray[Any]:
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return np.ascontiguousarray(array)
