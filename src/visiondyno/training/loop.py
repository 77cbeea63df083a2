"""One pass over labelled samples: training and evaluation.

The order of samples and everything random in an epoch are pure functions of (seed, epoch): on a
processor, an epoch gives the same bits whatever ran before it in the process.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visiondyno.errors import (
    Diverged,
    OperationFailed,
    SpecError,
    TimeLimitExceeded,
    VisionDynoError,
)
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.arguments import one_line
from visiondyno.training.checks import logits_of
from visiondyno.training.data import Samples, batch_count, batches, epoch_seeds
from visiondyno.training.health import GradientHealth, gradient_norm
from visiondyno.training.labels import fit_labels
from visiondyno.training.losses import Loss
from visiondyno.training.memory import is_out_of_memory
from visiondyno.training.metrics import PassMetrics
from visiondyno.training.optimizers import needs_closure
from visiondyno.training.precision import autocast, gradient_scaler

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

OnStep = Callable[[int, int], None]
"""Called after each batch with its number, from 1, and how many there are. It may raise."""


@dataclass(frozen=True)
class PassOptions:
    """How one pass runs.

    Attributes:
        hyperparameters: batch size, shuffling, clipping and precision are used.
        device: where the module is.
        seed: of the order of samples and of dropout.
        epoch: which one it is, from 1.
        scheduler_steps: whether the scheduler steps after each batch.
        scaler: of gradients; one of this pass alone if None.
        forward: what is called in the module's place (compiled, or over several GPUs).
        health: is told of each step's gradient; None: it costs nothing.
    """

    hyperparameters: Hyperparameters
    device: "torch.device"
    seed: int = 0
    epoch: int = 1
    scheduler_steps: bool = False
    scaler: "torch.amp.GradScaler | None" = None
    forward: Callable[..., Any] | None = None
    health: GradientHealth | None = None


def train_one_epoch(
    module: "nn.Module",
    samples: Samples,
    optimizer: "Optimizer",
    scheduler: "LRScheduler | None",
    loss: Loss,
    options: PassOptions,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Every sample once; the module, the optimiser and the scheduler are changed.

    Returns:
        Metrics as in `PassMetrics`, of the outputs that each batch was trained by: they are those
        of the module as it was learning, in training mode.

    Raises:
        Diverged: the loss or a weight is NaN or infinite: names epoch and batch.
        OperationFailed: torch gave up: names them too.
    """
    hyper = options.hyperparameters
    scaler = options.scaler or gradient_scaler(hyper.mixed_precision, options.device)
    order, noise = epoch_seeds(options.seed, options.epoch)
    steps = batch_count(len(samples), hyper.batch_size, drop_last=hyper.drop_last)
    metrics = PassMetrics(loss)
    learner = _Learner(module, optimizer, loss, options, scaler)
    module.train()
    with _seeded(noise, options.device):
        for number, indices in enumerate(
            batches(
                len(samples),
                hyper.batch_size,
                order_seed=order if hyper.shuffle else None,
                drop_last=hyper.drop_last,
            ),
            start=1,
        ):
            with named(f"epoch {options.epoch}, batch {number} of {steps}"):
                metrics.add(*learner.learn(samples.features(indices), samples.labels[indices]))
                if scheduler is not None and options.scheduler_steps:
                    step_scheduler(scheduler)
            if on_step is not None:
                on_step(number, steps)
    with named(f"epoch {options.epoch}, batch {steps} of {steps}"):
        learner.check_weights()
    return metrics.result()


def evaluate_module(
    module: "nn.Module",
    samples: Samples,
    loss: Loss,
    options: PassOptions,
    on_step: OnStep | None = None,
) -> dict[str, float]:
    """Every sample once, in evaluation mode; nothing learns, and the module's mode is restored.

    Raises:
        Diverged: the loss is NaN or infinite: names the batch.
        OperationFailed: torch gave up: names it too.
    """
    import torch

    hyper = options.hyperparameters
    steps = batch_count(len(samples), hyper.batch_size)
    metrics = PassMetrics(loss)
    learner = _Learner(module, None, loss, options, None)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for number, indices in enumerate(batches(len(samples), hyper.batch_size), start=1):
                with named(f"evaluation, batch {number} of {steps}"):
                    features, labels = samples.features(indices), samples.labels[indices]
                    value, outputs, labels = learner.forward(features, labels)
                    metrics.add(learner.finite(value, labels), outputs, labels)
                if on_step is not None:
                    on_step(number, steps)
    finally:
        module.train(was_training)
    return metrics.result()


Batch = tuple[float, "torch.Tensor", "torch.Tensor"]


class _Learner:
    """Forward, backward and step of one batch."""

    def __init__(
        self,
        module: "nn.Module",
        optimizer: "Optimizer | None",
        loss: Loss,
        options: PassOptions,
        scaler: "torch.amp.GradScaler | None",
    ) -> None:
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._module = module if options.forward is None else options.forward
        self._optimizer = optimizer
        self._loss = loss
        self._hyper = options.hyperparameters
        self._device = options.device
        self._scaler = scaler
        self._health = options.health
        self._function = loss.function.to(options.device)

    def learn(self, features: "torch.Tensor", labels: "torch.Tensor") -> Batch:
        """One step; the loss, outputs and labels before it."""
        assert self._optimizer is not None
        assert self._scaler is not None
        if needs_closure(self._optimizer):
            return self._learn_by_closure(features, labels)
        self._optimizer.zero_grad(set_to_none=True)
        value, outputs, labels = self.forward(features, labels)
        shown = self.finite(value, labels)
        self._scaler.scale(value).backward()
        if self._clips or self._health is not None:
            self._scaler.unscale_(self._optimizer)
            self._look_and_clip(self._health)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return shown, outputs, labels

    def forward(
        self, features: "torch.Tensor", labels: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """The loss, the outputs, and the labels as the loss takes them."""
        features, labels = features.to(self._device), labels.to(self._device)
        with autocast(self._hyper.mixed_precision, self._device):
            outputs = logits_of(self._module(features))
            labels = fit_labels(labels, outputs, self._loss)
            return self._function(outputs, labels), outputs, labels

    def finite(self, value: "torch.Tensor", labels: "torch.Tensor") -> float:
        """The loss of these labels as a number, if it is one."""
        number = float(value.detach())
        if not math.isfinite(number):
            if self._loss.ignore_index is not None and bool(
                (labels == self._loss.ignore_index).all()
            ):
                raise OperationFailed(
                    f"each label is {self._loss.ignore_index}, which doesn't count, so the loss "
                    "has no mean. Take a larger 'batch_size', leave such samples out, or set "
                    '\'loss_arguments\': {"reduction": "sum"}',
                    stage="train",
                )
            raise Diverged(
                f"the loss is {number}. Take a smaller 'learning_rate', or set "
                "'gradient_clip_norm'",
                stage="train",
            )
        return number

    def check_weights(self) -> None:
        """What the last step did: no loss comes after it."""
        if not all(bool(weight.isfinite().all()) for weight in self._weights):
            raise Diverged(
                "a weight is no longer a finite number after its step. Take a smaller "
                "'learning_rate', or set 'gradient_clip_norm'",
                stage="train",
            )

    def _learn_by_closure(self, features: "torch.Tensor", labels: "torch.Tensor") -> Batch:
        seen: list[Batch] = []

        def closure() -> "torch.Tensor":
            assert self._optimizer is not None
            self._optimizer.zero_grad(set_to_none=True)
            value, outputs, fitted = self.forward(features, labels)
            seen.append((self.finite(value, fitted), outputs, fitted))
            value.backward()
            # The optimiser looks ahead: what counts is where the step began.
            self._look_and_clip(self._health if len(seen) == 1 else None)
            return value

        assert self._optimizer is not None
        self._optimizer.step(closure)
        return seen[0]

    @property
    def _clips(self) -> bool:
        hyper = self._hyper
        return hyper.gradient_clip_norm is not None or hyper.gradient_clip_value is not None

    def _look_and_clip(self, health: GradientHealth | None) -> None:
        from torch import nn

        norm = None
        if self._hyper.gradient_clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._weights, self._hyper.gradient_clip_norm)
        if health is not None:
            health.note(gradient_norm(self._weights) if norm is None else norm)
        if self._hyper.gradient_clip_value is not None:
            nn.utils.clip_grad_value_(self._weights, self._hyper.gradient_clip_value)


def step_scheduler(scheduler: "LRScheduler", *watched: float) -> None:
    """One step; `watched` is the loss, of schedulers that look at it.

    Raises:
        SpecError: it was told of fewer steps than there are, or can't compute with its arguments.
    """
    try:
        scheduler.step(*watched)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise SpecError(f"'hyperparameters.scheduler_arguments': {one_line(error)}.") from error


@contextlib.contextmanager
def _seeded(seed: int, device: "torch.device") -> Iterator[None]:
    """Torch's own generators start from `seed`, and are afterwards as they were."""
    import torch

    devices = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def named(place: str) -> Iterator[None]:
    """Inside, errors of torch, and of ours about a number, say where they happened: `place`."""
    try:
        yield
    except TimeLimitExceeded:
        raise
    except OperationFailed as error:
        kind = Diverged if isinstance(error, Diverged) else OperationFailed
        raise kind(f"In {place}: {error.message}.", stage=error.stage) from error
    except VisionDynoError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            said = "the memory is full. Take a smaller 'batch_size' or 'mixed_precision'"
        else:
            said = f"{type(error).__name__}: {one_line(error)}"
        raise OperationFailed(f"In {place}: {said}.", stage="train") from error
