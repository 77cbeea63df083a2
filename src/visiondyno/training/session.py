"""A training that can be put away after any epoch and taken up again, bit by bit the same."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError, SpecError
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.arguments import one_line
from visiondyno.training.data import Samples, batch_count
from visiondyno.training.forward import wrapped
from visiondyno.training.health import GradientHealth
from visiondyno.training.loop import (
    OnStep,
    PassOptions,
    evaluate_module,
    step_scheduler,
    train_one_epoch,
)
from visiondyno.training.losses import build_loss
from visiondyno.training.optimizers import (
    build_optimizer,
    build_scheduler,
    needs_closure,
    steps_each_batch,
)
from visiondyno.training.precision import PLACE as PRECISION_PLACE
from visiondyno.training.precision import check_precision, gradient_scaler
from visiondyno.training.state_tree import Tensors, flatten, unflatten

if TYPE_CHECKING:
    import torch
    from torch import nn

EpochRecord = dict[str, Any]
"""`{"epoch": 1, "train_metrics": {…}, "val_metrics": {…}, "health": {…}}`.

`val_metrics` only where there is data, `health` (`GradientHealth.result`) where it is asked for.
"""

_MODULE = "module"


@dataclass(frozen=True)
class SessionState:
    """Where a training stands.

    Attributes:
        tensors: by name: weights, buffers, the optimiser's.
        values: the rest, as JSON keeps it exactly.
    """

    tensors: Tensors
    values: dict[str, Any]


class TrainingSession:
    """A module with all that it learns by.

    Attributes:
        module: on `device`, in training mode.
        epoch: how many are done.
        history: a record of each.
    """

    def __init__(
        self,
        module: "nn.Module",
        hyperparameters: Hyperparameters,
        device: "torch.device",
        *,
        seed: int = 0,
        total_steps: int | None = None,
        health: bool = False,
    ) -> None:
        """Makes optimiser, scheduler and loss.

        Args:
            module: is moved to `device`.
            hyperparameters: how it learns.
            device: where.
            seed: of everything random in an epoch.
            total_steps: of the scheduler in the whole training, for those that end with it.
            health: whether each epoch's record tells how its gradients behaved.

        Raises:
            SpecError: a name or an argument is wrong, or the device can't do what is asked.
        """
        self.module = module.to(device)
        self.hyperparameters = hyperparameters
        self.device = device
        self.seed = seed
        self.epoch = 0
        self.history: list[EpochRecord] = []
        self.loss = build_loss(hyperparameters)
        self.optimizer = build_optimizer(hyperparameters, module)
        self.scheduler = build_scheduler(hyperparameters, self.optimizer, total_steps=total_steps)
        self.scaler = gradient_scaler(hyperparameters.mixed_precision, device)
        self._scheduler_steps = steps_each_batch(hyperparameters, self.scheduler)
        self._check_precision()
        self._forward = wrapped(module, hyperparameters, device)
        self._watches_health = health
        self._health: GradientHealth | None = None

    def train_epoch(self, samples: Samples, on_step: OnStep | None = None) -> dict[str, float]:
        """One more epoch; its metrics. The scheduler's step after an epoch is `end_epoch`'s."""
        hyper = self.hyperparameters
        if self._watches_health:
            steps = batch_count(len(samples), hyper.batch_size, drop_last=hyper.drop_last)
            self._health = GradientHealth(steps, self.device)
        options = replace(self._options(self.epoch + 1), health=self._health)
        return train_one_epoch(
            self.module, samples, self.optimizer, self.scheduler, self.loss, options, on_step
        )

    def end_epoch(
        self, train_metrics: dict[str, float], val_metrics: dict[str, float] | None = None
    ) -> EpochRecord:
        """Counts the epoch, steps the scheduler, and adds to the history."""
        self.epoch += 1
        record: EpochRecord = {"epoch": self.epoch, "train_metrics": train_metrics}
        if val_metrics is not None:
            record["val_metrics"] = val_metrics
        if self._health is not None:
            record["health"] = self._health.result()
        self.history.append(record)
        self._step_scheduler((val_metrics or train_metrics)["loss"])
        return record

    def evaluate(self, samples: Samples, on_step: OnStep | None = None) -> dict[str, float]:
        """Metrics of the module as it is."""
        return evaluate_module(
            self.module, samples, self.loss, self._options(max(self.epoch, 1)), on_step
        )

    def state(self, *, with_module: bool = True, copy: bool = True) -> SessionState:
        """All that a resumed training needs to go on bit by bit the same.

        Everything random is a function of (seed, epoch): there is no generator to keep.

        Args:
            with_module: weights and buffers too; else only what the optimiser knows.
            copy: False shares the session's memory, so that further training changes the state
                too: for one that is written at once.
        """
        tree: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        tensors, values = flatten(tree, "session")
        if with_module:
            tensors |= {f"{_MODULE}/{name}": t for name, t in self.module.state_dict().items()}
        kept = {name: t.detach().clone() if copy else t.detach() for name, t in tensors.items()}
        values = self._identity() | {
            "epoch": self.epoch,
            "history": [dict(record) for record in self.history],
            "tree": values,
        }
        return SessionState(kept, values)

    def load_state(self, state: SessionState) -> None:
        """Goes on from `state`, of a session with the same module and hyperparameters.

        Raises:
            ModelError: it is of another module, optimiser, scheduler or seed, or damaged. The
                session isn't changed then.
        """
        values = state.values
        for name, own in self._identity().items():
            if values.get(name) != own:
                raise ModelError(
                    f"The training state is of another training: its '{name}' is "
                    f"{values.get(name)!r:.200}, and this one's {own!r:.200}. Begin anew without "
                    "it, or give what it was made with."
                )
        weights = {
            name.removeprefix(f"{_MODULE}/"): tensor
            for name, tensor in state.tensors.items()
            if name.startswith(f"{_MODULE}/")
        }
        if weights:
            check_weights(self.module, weights)
        tree = unflatten(dict(state.tensors), values.get("tree"))
        before = copy.deepcopy(self.optimizer.state_dict())
        schedule = None if self.scheduler is None else copy.deepcopy(self.scheduler.state_dict())
        try:
            epoch, history = int(values["epoch"]), [dict(entry) for entry in values["history"]]
            self.optimizer.load_state_dict(tree["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(tree["scheduler"])
            self.scaler.load_state_dict(tree["scaler"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            self.optimizer.load_state_dict(before)
            if self.scheduler is not None:
                self.scheduler.load_state_dict(schedule)
            raise ModelError(
                f"The training state is damaged ({one_line(error)}). Begin anew without it."
            ) from error
        if weights:
            self.module.load_state_dict(weights)
        self.epoch, self.history = epoch, history

    def _identity(self) -> dict[str, Any]:
        """What a state must have in common with the session that takes it up."""
        return {
            "optimizer": type(self.optimizer).__name__,
            "scheduler": None if self.scheduler is None else type(self.scheduler).__name__,
            "mixed_precision": self.hyperparameters.mixed_precision,
            "seed": self.seed,
            "shapes": [
                list(weight.shape)
                for group in self.optimizer.param_groups
                for weight in group["params"]
            ],
        }

    def _check_precision(self) -> None:
        precision = self.hyperparameters.mixed_precision
        check_precision(precision, self.device, self.loss)
        if precision == "fp16" and needs_closure(self.optimizer):
            raise SpecError(
                f"{PRECISION_PLACE}: '{self.hyperparameters.optimizer}' evaluates the loss "
                "several times a step, which can't be scaled for 'fp16'; take 'bf16' or 'none'."
            )

    def _options(self, epoch: int) -> PassOptions:
        return PassOptions(
            self.hyperparameters,
            self.device,
            seed=self.seed,
            epoch=epoch,
            scheduler_steps=self._scheduler_steps,
            scaler=self.scaler,
            forward=self._forward,
        )

    def _step_scheduler(self, watched_loss: float) -> None:
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        if self.scheduler is None or self._scheduler_steps:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            step_scheduler(self.scheduler, watched_loss)
        else:
            step_scheduler(self.scheduler)


def check_weights(module: "nn.Module", weights: Mapping[str, "torch.Tensor"]) -> None:
    """Refuses weights of another module.

    Args:
        module: that is to take them.
        weights: by the names of its `state_dict`.

    Raises:
        ModelError: a name is missing, unknown, or of another shape; names the first.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise ModelError(f"The model state lacks '{name}', which the model has.")
        if weights[name].shape != tensor.shape:
            raise ModelError(
                f"The model state is of another model: '{name}' has shape "
                f"{tuple(weights[name].shape)} there, and {tuple(tensor.shape)} in the model."
            )
    unknown = [name for name in weights if name not in own]
    if unknown:
        raise ModelError(
            f"The model state is of another model: it holds '{unknown[0]}', which the model lacks."
        )
