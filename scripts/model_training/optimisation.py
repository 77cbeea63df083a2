"""The steps of a training: AdamW, its rate's course, the moving average of the weights."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Truth = TypeVar("Truth")

OnStep = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """Everything about a run that can be chosen, beside the network's design.

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
    learning_rate: float
    weight_decay: float = 0.02
    warmup_steps: int
    average_decay: float
    seed: int = 1


class Optimisation(Generic[Network]):
    """A network being trained, and the moving average of its weights in `averaged`.

    The same machine, threads and settings give the same weights.
    """

    def __init__(
        self, design: Callable[[], Network], scenes: int, settings: Hyperparameters
    ) -> None:
        """Make the network by `design`, to see `scenes` scenes an epoch."""
        torch.manual_seed(settings.seed)
        torch.use_deterministic_algorithms(mode=True)
        # Channels-last is what the CPU's convolutions compute in.
        self.network = design().to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).eval()
        self._settings = settings
        self._optimizer = _optimizer(self.network, settings)
        self._step = 0
        self._total = settings.epochs * (scenes // settings.batch_size)
        self._began = time.perf_counter()

    def seconds(self) -> float:
        """Since training began."""
        return time.perf_counter() - self._began

    def epoch(
        self,
        batches: Iterable[tuple[Tensor, Truth]],
        loss_of: Callable[[Any, Truth], Tensor],
        on_step: OnStep,
    ) -> list[float]:
        """Take one step a batch; gives their losses.

        Args:
            batches: images (n, 3, height, width) and what is true of them.
            loss_of: of the network's answer and the truth, called out of autocast.
            on_step: called after each step.
        """
        self.network.train()
        losses = []
        for images, truth in batches:
            _set_rate(self._optimizer, self._settings, self._step, self._total)
            with torch.autocast("cpu", torch.bfloat16):
                answer = self.network(images.contiguous(memory_format=torch.channels_last))
            loss = loss_of(answer, truth)
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
            self._optimizer.step()
            self._step += 1
            decay = self._settings.average_decay * (1 - math.exp(-self._step / 100))
            _follow(self.averaged, self.network, decay)
            losses.append(float(loss.detach()))
            on_step(self._step, self._total, losses[-1])
        return losses


def _optimizer(network: nn.Module, settings: Hyperparameters) -> torch.optim.AdamW:
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


def _follow(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    mine, theirs = averaged.state_dict(), network.state_dict()
    with torch.no_grad():
        for key, value in mine.items():
            if value.dtype.is_floating_point:
                value.lerp_(theirs[key], 1 - decay)
            else:
                value.copy_(theirs[key])
