"""The training loop."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from depth_training.batches import Scenes, batches
from depth_training.evaluation import errors
from depth_training.losses import depth_loss
from depth_training.network import DepthNetwork, enlarged
from model_training.optimisation import Hyperparameters, OnStep, Optimisation


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthHyperparameters(Hyperparameters):
    """Those of the depth model."""

    learning_rate: float = 3e-3
    warmup_steps: int = 100
    average_decay: float = 0.995


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: from 1.
        loss: mean over its steps.
        val_abs_rel, val_delta1: of the averaged weights on the validation scenes, at half size.
        seconds: since training began.
    """

    epoch: int
    loss: float
    val_abs_rel: float
    val_delta1: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network: averaged weights, in evaluation mode."""

    network: DepthNetwork
    history: list[Epoch]


def train(scenes: Scenes, val: Scenes, settings: Hyperparameters, on_step: OnStep) -> Trained:
    """Train. The same machine, threads and settings give the same weights."""
    run = Optimisation(DepthNetwork, len(scenes), settings)
    source = np.random.default_rng([settings.seed, len(scenes)])

    def loss_of(answer: Tensor, truth: Tensor) -> Tensor:
        return depth_loss(enlarged(answer.float(), 2), truth)

    history = []
    for epoch in range(1, settings.epochs + 1):
        losses = run.epoch(batches(scenes, settings.batch_size, source), loss_of, on_step)
        abs_rel, delta1 = errors(run.averaged, val)
        history.append(Epoch(epoch, float(np.mean(losses)), abs_rel, delta1, run.seconds()))
        print(f"epoch {epoch} of {settings.epochs}, loss {history[-1].loss:.3f}, "
              f"val AbsRel {abs_rel:.4f}, delta1 {delta1:.4f}, {history[-1].seconds:.0f} s",
              flush=True)  # fmt: skip
    return Trained(run.averaged, history)
