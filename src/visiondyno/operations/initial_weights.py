"""The weights that a vision training begins with."""

from importlib import import_module
from typing import TYPE_CHECKING

from visiondyno.operations.context import OperationContext
from visiondyno.operations.state_exchange import receive_state
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.state import from_tensors, identity, to_tensors
from visiondyno.training.vision.choosing import ChosenTrainer

if TYPE_CHECKING:
    import torch

    Weights = dict[str, torch.Tensor]


def initial_weights(
    spec: TrainVisionInput,
    chosen: ChosenTrainer,
    files: WorkerFiles,
    context: OperationContext,
) -> "tuple[Weights | None, str | None]":
    """The weights by name, and their identity; None for fresh ones.

    Raises:
        ModelError: they are damaged, or there are none.
        Unavailable: they would have to be downloaded and can't be.
    """
    if spec.pretrained:
        context.fetch_weights(spec.model)
        published = _published(spec.model, chosen)
        return published, identity(from_tensors(published, copy=False))
    received = receive_state(spec, files)
    if received is None:
        return None, None
    return to_tensors(received.state), received.sha256


def _published(reference: str, chosen: ChosenTrainer) -> "Weights":
    runtime = import_module(f"visiondyno.runtimes.pytorch.{chosen.family}")
    state: Weights = runtime.pretrained_state(reference)
    return state
