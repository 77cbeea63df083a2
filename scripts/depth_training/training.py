"""The training loop."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from depth_training.batches import Scenes, batches
from depth_training.evaluation import errors
from depth_training.losses import depth_loss
from depth_training.network import DepthNetwork, enlarged


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Everything about a run that can be chosen.

    Attributes:
        epochs: passes over the training scenes.
        batch_size: images a step.
        learning_rate: the highest, after warm-up; falls to 1 % of it along a cosine.
        weight_decay: of AdamW, on weights that multiply.
        warmup_steps: steps of linear rise.
        average_decay: of the moving average of the weights, which is what is shipped.
        seed: of weights, order and variations.
    """

    epochs: int
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    average_decay: float = 0.995
    seed: int = 1


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

    def history_json(self) -> list[dict[str, Any]]:
        """The history as plain values."""
        return [asdict(epoch) for epoch in self.history]


OnStep = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the loss."""


def train(scenes: Scenes, val: Scenes, settings: Hyperparameters, on_step: OnStep) -> Trained:
    """Train. The same machine, threads and settings give the same weights."""
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(mode=True)
    source = np.random.default_rng([settings.seed, len(scenes)])
    # Channels-last is what the CPU's convolutions compute in.
    network = DepthNetwork().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).eval()
    optimizer = _optimizer(network, settings)
    total = settings.epochs * (len(scenes) // settings.batch_size)
    began, step, history = time.perf_counter(), 0, []
    for epoch in range(1, settings.epochs + 1):
        network.train()
        losses = []
        for images, truth in batches(scenes, settings.batch_size, source):
            _set_rate(optimizer, settings, step, total)
            with torch.autocast("cpu", torch.bfloat16):
                answer = network(images.contiguous(memory_format=torch.channels_last))
            loss = depth_loss(enlarged(answer.float(), 2), truth)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            step += 1
            _follow(averaged, network, settings.average_decay * (1 - math.exp(-step / 100)))
            losses.append(float(loss.detach()))
            on_step(step, total, losses[-1])
        abs_rel, delta1 = errors(averaged, val)
        seconds = time.perf_counter() - began
        history.append(Epoch(epoch, float(np.mean(losses)), abs_rel, delta1, seconds))
        print(f"epoch {epoch} of {settings.epochs}, loss {history[-1].loss:.3f}, "
              f"val AbsRel {abs_rel:.4f}, delta1 {delta1:.4f}, {seconds:.0f} s",
              flush=True)  # fmt: skip
    return Trained(averaged, history)


def _optimizer(network: DepthNetwork, settings: Hyperparameters) -> torch.optim.AdamW:
    weights = [p for p in network.parameters() if p.ndim > 1]
    # Decaying a norm's scale or a bias changes what the network can say, not how simply.
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _set_rate(
    optimizer: torch.optim.AdamW, settings: Hyperparameters, step: int, total: int
) -> None:
    rise = min(1.0, (step + 1) / settings.warmup_steps)
    fall = 0.01 + 0.99 * (1 + math.cos(math.pi * step / total)) / 2
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * rise * fall


def _follow(averaged: DepthNetwork, network: DepthNetwork, decay: float) -> None:
    mine, theirs = averaged.state_dict(), network.state_dict()
    with torch.no_grad():
        for key, value in mine.items():
            if value.dtype.is_floating_point:
                value.lerp_(theirs[key], 1 - decay)
            else:
                value.copy_(theirs[key])
