"""Epochs of a vision training in plain torch: what detectors and classifiers have in common."""

import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import Diverged, SpecError
from visiondyno.predictions import Image, Predictions
from visiondyno.training.data import batches, epoch_seeds
from visiondyno.training.loop import named
from visiondyno.training.session import SessionState
from visiondyno.training.state_tree import flatten, unflatten
from visiondyno.training.vision.augmentation import AugmentedImage, augmented
from visiondyno.training.vision.base import EpochDone, TrainingPlan
from visiondyno.training.vision.batch_norms import norms, several_values, without_single
from visiondyno.training.vision.checkpoint import FolderCheckpoint
from visiondyno.training.vision.process import seed_everything

if TYPE_CHECKING:
    import torch
    from torch import nn

_LAST_SHARE_OF_RATE = 0.01
_SETTLING_BATCHES = 20
_MODULE, _OPTIMIZER = "module/", "optimizer"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a module learns.

    Attributes:
        optimizer: `sgd` (with Nesterov's momentum) or `adamw`.
        learning_rate: the highest: the rate rises to it linearly and falls as a cosine.
        batch_size: of all batches but the last, which holds what is left. One image that is left
            joins the batch before it where batch norms learn: they can't learn from one.
        weight_decay: of matrices and kernels; biases and norms have none.
        momentum: of SGD.
        warmup_epochs: in which the rate rises.
        gradient_clip_norm: the longest gradient.
        flip: share of images that are mirrored.
        brightness: pixels are multiplied by a factor from 1 ± this.
        freeze_norms: batch norms keep the statistics and weights they begin with; None: where
            weights to begin with were given, as small batches would spoil them.
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    weight_decay: float = 1e-4
    momentum: float = 0.9
    warmup_epochs: float = 1.0
    gradient_clip_norm: float = 10.0
    flip: float = 0.5
    brightness: float = 0.3
    freeze_norms: bool | None = None


_TYPES: dict[str, tuple[type, ...]] = {
    "optimizer": (str,),
    "weight_decay": (int, float),
    "momentum": (int, float),
    "warmup_epochs": (int, float),
    "gradient_clip_norm": (int, float),
    "flip": (int, float),
    "brightness": (int, float),
    "freeze_norms": (bool,),
}
SETTINGS = frozenset(_TYPES)
"""What of `TrainingPlan.arguments` is a recipe's; the rest is the architecture's."""


def recipe_of(plan: TrainingPlan, defaults: Recipe) -> Recipe:
    """The plan's recipe: what it doesn't say is as in `defaults`.

    Raises:
        SpecError: a setting is of another type, or out of range.
    """
    given = {name: plan.arguments[name] for name in SETTINGS & plan.arguments.keys()}
    for name, value in given.items():
        is_flag = isinstance(value, bool)
        if not isinstance(value, _TYPES[name]) or is_flag != (name == "freeze_norms"):
            raise SpecError(f"'arguments.{name}': {value!r:.100} isn't a value for it.")
    fields = {
        "optimizer": defaults.optimizer,
        "learning_rate": plan.learning_rate or defaults.learning_rate,
        "batch_size": plan.batch_size or defaults.batch_size,
        **given,
    }
    recipe = Recipe(**fields)
    if recipe.optimizer not in ("sgd", "adamw"):
        raise SpecError(f"'arguments.optimizer': '{recipe.optimizer}' is neither sgd nor adamw.")
    if not (0 <= recipe.flip <= 1 and 0 <= recipe.brightness < 1 and 0 <= recipe.momentum < 1):
        raise SpecError("'arguments': flip is from 0 to 1; brightness and momentum below 1.")
    if recipe.weight_decay < 0 or recipe.warmup_epochs < 0 or recipe.gradient_clip_norm <= 0:
        raise SpecError(
            "'arguments': weight_decay and warmup_epochs aren't negative, and gradient_clip_norm "
            "is above 0."
        )
    return recipe


class Learner(ABC):
    """What one architecture adds to the epochs.

    Attributes:
        module: on its device.
    """

    module: "nn.Module"

    @abstractmethod
    def losses(self, images: Sequence[AugmentedImage]) -> "dict[str, torch.Tensor]":
        """The parts of a batch's loss by name, each of shape (); they are added up."""

    @abstractmethod
    def predict(self, images: Sequence[Image]) -> list[Predictions]:
        """Of the module, which is in evaluation mode."""


class TorchEpochs:
    """A training from its checkpoint to its last epoch.

    Attributes:
        resumed_from_epoch: how many epochs the checkpoint had.
        notes: what a reader of the result must know.
    """

    def __init__(self, learner: Learner, plan: TrainingPlan, recipe: Recipe) -> None:
        """Takes up the checkpoint in the plan's folder, if it is of this training."""
        self.resumed_from_epoch = 0
        self.notes: list[str] = []
        self._learner = learner
        self._plan = plan
        self._recipe = recipe
        frozen = recipe.freeze_norms
        self._freezes_norms = plan.initial is not None if frozen is None else frozen
        self._freeze_norms(also_weights=True)
        self._weights = [w for w in learner.module.parameters() if w.requires_grad]
        self._optimizer = _optimizer(learner.module, recipe)
        self._learns_norms = not self._freezes_norms and bool(norms(learner.module))
        self._steps = len(self._batches(0))
        self._checkpoint = FolderCheckpoint(plan.folder)
        self._take_up()

    def train(
        self, on_epoch: Callable[[EpochDone], float | None], check: Callable[[], None]
    ) -> "dict[str, torch.Tensor]":
        """Every epoch that is left; the weights of the best one, on the processor.

        Raises:
            Diverged: the loss or a weight is no finite number.
            OperationFailed: torch gave up; names epoch and batch.
            DatasetError: an image can't be read.
        """
        module, last = self._learner.module, self._plan.epochs
        for epoch in range(self.resumed_from_epoch + 1, last + 1):
            seed_everything(self._plan.seed, epoch)
            metrics = self._epoch(epoch, check)
            self._settle_norms(epoch, check)
            module.eval()
            score = on_epoch(EpochDone(epoch, metrics, predicting(self._learner, check)))
            self._checkpoint.scored(score, module.state_dict)
            self._checkpoint.keep(partial(self._state, epoch), is_last=epoch == last)
        self.notes += self._checkpoint.notes
        return dict(self._checkpoint.best)

    def _epoch(self, epoch: int, check: Callable[[], None]) -> dict[str, float]:
        """The means of the losses over the epoch's images."""
        plan = self._plan
        self._learner.module.train()
        self._freeze_norms()
        order, noise = epoch_seeds(plan.seed, epoch)
        drawn = np.random.default_rng(noise)
        totals: dict[str, float] = defaultdict(float)
        for number, chosen in enumerate(self._batches(order), start=1):
            check()
            images = self._images(chosen, drawn)
            rate = self._rate((epoch - 1) * self._steps + number)
            with named(f"epoch {epoch}, batch {number} of {self._steps}"):
                for name, value in self._step(images, rate).items():
                    totals[name] += value * len(images)
        with named(f"epoch {epoch}, batch {self._steps} of {self._steps}"):
            self._check_weights()
        return {name: total / len(plan.images) for name, total in totals.items()}

    def _settle_norms(self, epoch: int, check: Callable[[], None]) -> None:
        """Measure what batch norms subtract and divide by anew, with the weights as they are now.

        Their running means are of weights that were: at the rates and batch sizes of small
        trainings, the module then finds nothing in evaluation mode that it finds in training mode
        (Wu and Johnson 2021, Rethinking "Batch" in BatchNorm). In training mode they aren't used.
        """
        import torch

        if not self._learns_norms:
            return
        found = norms(self._learner.module)
        momenta = [norm.momentum for norm in found]
        for norm in found:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        order, noise = epoch_seeds(self._plan.seed, epoch)
        drawn = np.random.default_rng(noise + 1)
        chosen = islice(self._batches(order), _SETTLING_BATCHES)
        with torch.no_grad():
            for number, indices in enumerate(chosen, start=1):
                check()
                images = self._images(indices, drawn)
                with named(f"epoch {epoch}, batch {number} for norms"):
                    self._losses(images)
        for norm, momentum in zip(found, momenta, strict=True):
            norm.momentum = momentum

    def _batches(self, order_seed: int) -> "list[torch.Tensor]":
        recipe, count = self._recipe, len(self._plan.images)
        found = batches(count, recipe.batch_size, order_seed=order_seed)
        return without_single(found) if self._learns_norms else list(found)

    def _losses(self, images: Sequence[AugmentedImage]) -> "dict[str, torch.Tensor]":
        with several_values(self._plan.name, self._plan.image_size):
            return self._learner.losses(images)

    def _images(self, chosen: "torch.Tensor", drawn: np.random.Generator) -> list[AugmentedImage]:
        recipe = self._recipe
        return [
            augmented(self._plan.images[at], drawn, recipe.flip, recipe.brightness)
            for at in chosen.tolist()
        ]

    def _step(self, images: Sequence[AugmentedImage], rate: float) -> dict[str, float]:
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        self._check_weights()
        parts = self._losses(images)
        total = torch.stack(list(parts.values())).sum()
        if not math.isfinite(float(total)):
            raise _diverged(f"the loss is {float(total)}")
        total.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, self._recipe.gradient_clip_norm)
        self._optimizer.step()
        found = {name: float(part.detach()) for name, part in parts.items()}
        return {"loss": float(total.detach()), **(found if len(found) > 1 else {})}

    def _rate(self, step: int) -> float:
        """Of step 1 …: a straight rise, then half a cosine down to a hundredth."""
        recipe, total = self._recipe, self._steps * self._plan.epochs
        rising = min(recipe.warmup_epochs * self._steps, total / 2)
        if step <= rising:
            return recipe.learning_rate * step / rising
        along = (step - rising) / max(total - rising, 1)
        cosine = (1 + math.cos(math.pi * along)) / 2
        return recipe.learning_rate * (_LAST_SHARE_OF_RATE + (1 - _LAST_SHARE_OF_RATE) * cosine)

    def _check_weights(self) -> None:
        """Before a forward pass: what detectors do with NaN is an error of any kind, or none."""
        import torch

        largest = torch.stack([weight.detach().abs().max() for weight in self._weights]).max()
        # Their squares are summed, so that the largest that can be computed with is this.
        if not float(largest) < torch.finfo(torch.float32).max ** 0.5:
            raise _diverged("a weight is too large to compute with")

    def _freeze_norms(self, *, also_weights: bool = False) -> None:
        if not self._freezes_norms:
            return
        for norm in norms(self._learner.module):
            norm.eval()
            if also_weights:
                norm.requires_grad_(requires_grad=False)

    def _state(self, epoch: int) -> SessionState:
        tensors, tree = flatten(self._optimizer.state_dict(), _OPTIMIZER)
        weights = self._learner.module.state_dict()
        tensors |= {f"{_MODULE}{name}": tensor for name, tensor in weights.items()}
        return SessionState(tensors, {"epoch": epoch, "tree": tree, "plan": self._identity()})

    def _take_up(self) -> None:
        state = self._checkpoint.take_up()
        if state is None:
            return
        if state.values.get("plan") != self._identity():
            self._checkpoint = FolderCheckpoint(self._plan.folder)
            self.notes.append(
                "The checkpoint in the training's folder is of another training, so this one began "
                "anew."
            )
            return
        weights = {
            name.removeprefix(_MODULE): tensor
            for name, tensor in state.tensors.items()
            if name.startswith(_MODULE)
        }
        self._learner.module.load_state_dict(weights)
        self._optimizer.load_state_dict(unflatten(dict(state.tensors), state.values["tree"]))
        self.resumed_from_epoch = int(state.values["epoch"])

    def _identity(self) -> dict[str, Any]:
        """What decides the result, as JSON keeps it; the folder stands for the images."""
        plan = self._plan
        parts = {
            "name": plan.name,
            "classes": plan.classes,
            "images": [one.path.name for one in plan.images],
            "image_size": plan.image_size,
            "epochs": plan.epochs,
            "batch_size": self._recipe.batch_size,
            "learning_rate": self._recipe.learning_rate,
            "seed": plan.seed,
            "device": plan.device,
            "arguments": dict(plan.arguments),
            "has_initial": plan.initial is not None,
            "layers": [layer.model_dump() for layer in plan.layers],
        }
        found: dict[str, Any] = json.loads(json.dumps(parts, default=str))
        return found


def predicting(
    learner: Learner, check: Callable[[], None]
) -> Callable[[Sequence[Image]], list[Predictions]]:
    """What `EpochDone.predict` is; `check` is called before each call's images."""
    import torch

    def predict(images: Sequence[Image]) -> list[Predictions]:
        check()
        with torch.inference_mode():
            return learner.predict(images)

    return predict


def begin_with(
    module: "nn.Module", initial: "Mapping[str, torch.Tensor] | None", name: str
) -> list[str]:
    """Load what fits of the weights to begin with; notes on what doesn't.

    Raises:
        SpecError: they are of another architecture.
    """
    if initial is None:
        return []
    own = module.state_dict()
    fitting = {
        at: tensor for at, tensor in initial.items() if at in own and own[at].shape == tensor.shape
    }
    counted = [at for at, tensor in own.items() if tensor.ndim]
    fresh = [at for at in counted if at not in fitting]
    if len(fresh) > len(counted) / 2:
        raise SpecError(
            f"The weights to begin with are of another model than {name}: {len(fresh)} of its "
            f"{len(counted)} tensors aren't among them, or of another shape, first '{fresh[0]}'."
        )
    module.load_state_dict(fitting, strict=False)
    listed = f"{', '.join(fresh[:6])}{' …' if len(fresh) > 6 else ''}"
    count = f"{len(fresh)} of {len(counted)} tensors"
    return [f"{count} began fresh, as those given don't fit: {listed}."] if fresh else []


def _optimizer(module: "nn.Module", recipe: Recipe) -> "torch.optim.Optimizer":
    import torch

    weights = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov
    )


def _diverged(what: str) -> Diverged:
    return Diverged(f"{what}; take a smaller learning_rate", stage="train")
