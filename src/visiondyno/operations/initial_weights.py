"""The weights that a vision training begins with."""

from typing import TYPE_CHECKING

from visiondyno.operations.context import OperationContext
from visiondyno.operations.state_exchange import receive_state
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.state import to_tensors
from visiondyno.training.vision.choosing import ChosenTrainer

if TYPE_CHECKING:
    import torch


def initial_weights(
    spec: TrainVisionInput,
    chosen: ChosenTrainer,
    files: WorkerFiles,
    context: OperationContext,
) -> "tuple[dict[str, torch.Tensor] | None, str | None]":
    """The weights by name, and what identifies them; None for fresh ones.

    Raises:
        ModelError: they are damaged, or can't be had.
        Unavailable: they would have to be downloaded and can't be.
    """
    received = receive_state(spec, files)
    if received is None:
        return None, None
    return to_tensors(received.state), received.sha256
