"""The training loop."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from model_training.optimisation import Hyperparameters, OnStep, Optimisation
from street_training.assignment import Truth
from street_training.batches import Scenes, batches
from street_training.evaluation import accuracy
from street_training.losses import detection_loss
from street_training.network import DESIGNS, ExportedDetector, StreetDetector


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetHyperparameters(Hyperparameters):
    """Those of the street detectors."""

    learning_rate: float = 2e-3
    warmup_steps: int = 200
    average_decay: float = 0.998


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: from 1.
        loss: mean over its steps.
        first_loss, last_loss: mean over its first and last tenth.
        val_map_50_95: of the averaged weights on the validation scenes.
        seconds: since training began.
    """

    epoch: int
    loss: float
    first_loss: float
    last_loss: float
    val_map_50_95: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained detector: averaged weights, in evaluation mode."""

    network: StreetDetector
    history: list[Epoch]


def train(
    name: str, scenes: Scenes, val: Scenes, settings: Hyperparameters, on_step: OnStep
) -> Trained:
    """Train one of `DESIGNS`. The same machine, threads and settings give the same weights."""
    run = Optimisation(lambda: StreetDetector(DESIGNS[name]), len(scenes), settings)
    source = np.random.default_rng([settings.seed, len(scenes)])

    def loss_of(answer: tuple[Tensor, Tensor], truth: Truth) -> Tensor:
        logits, distances = answer
        return detection_loss(run.network, logits.float(), distances.float(), truth)

    history = []
    for epoch in range(1, settings.epochs + 1):
        losses = run.epoch(batches(scenes, settings.batch_size, source), loss_of, on_step)
        tenth = max(1, len(losses) // 10)
        history.append(
            Epoch(
                epoch,
                float(np.mean(losses)),
                float(np.mean(losses[:tenth])),
                float(np.mean(losses[-tenth:])),
                accuracy(ExportedDetector(run.averaged), val),
                run.seconds(),
            )
        )
        print(f"{name}: epoch {epoch} of {settings.epochs}, loss {history[-1].loss:.3f}, "
              f"val mAP {history[-1].val_map_50_95:.4f}, {history[-1].seconds:.0f} s",
              flush=True)  # fmt: skip
    return Trained(run.averaged, history)
