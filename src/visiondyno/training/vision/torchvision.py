"""Trains torchvision's detectors: Faster R-CNN, RetinaNet, FCOS, SSD and SSDLite, by name."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import MissingExtra, SpecError
from visiondyno.predictions import Detections, Image, Predictions
from visiondyno.state.layer_sizes import resize
from visiondyno.training.arguments import one_line
from visiondyno.training.names import suggestion
from visiondyno.training.offline import offline
from visiondyno.training.precision import choose_device
from visiondyno.training.vision.augmentation import AugmentedImage
from visiondyno.training.vision.base import Begun, EpochDone, Trained, TrainingPlan, VisionTrainer
from visiondyno.training.vision.process import process_as_it_was, seed_everything
from visiondyno.training.vision.torch_epochs import (
    SETTINGS,
    Learner,
    Recipe,
    TorchEpochs,
    begin_with,
    predicting,
    recipe_of,
)
from visiondyno.vision.preprocess import rgb_planes

if TYPE_CHECKING:
    import torch
    from torch import nn

LOWEST_SCORE = 0.001
"""Of boxes: mAP counts the unlikely ones too."""

_DEFAULTS = Recipe(optimizer="adamw", learning_rate=1e-3, batch_size=8)
_OURS = frozenset({"weights", "weights_backbone", "progress", "num_classes", "backbone", "kwargs"})
_OTHER_TASKS = re.compile(r"mask|keypoint")
_SSD_SIZE = re.compile(r"ssd(?:lite)?(\d+)_")


class TorchvisionTrainer(VisionTrainer):
    """Trains a detector of torchvision, from fresh weights or given ones.

    Class c is label c + 1, 0 is the background. Images are scaled until their longer side is
    `plan.image_size`; SSD and SSDLite have sizes of their own. `plan.arguments` are those of
    torchvision's builder, and of `Recipe`.
    """

    library = "torchvision"

    def train(
        self,
        plan: TrainingPlan,
        on_epoch: Callable[[EpochDone], float | None],
        check: Callable[[], None],
    ) -> Trained:
        """See `VisionTrainer.train`."""
        versions = _versions()
        recipe = recipe_of(plan, _DEFAULTS)
        with process_as_it_was(plan.threads), offline():
            learner, arguments, notes = _begun(plan)
            epochs = TorchEpochs(learner, plan, recipe)
            state = epochs.train(on_epoch, check)
        return Trained(
            state, arguments, epochs.resumed_from_epoch, versions, (*notes, *epochs.notes)
        )

    @contextmanager
    def begun(self, plan: TrainingPlan, check: Callable[[], None]) -> Iterator[Begun]:
        """See `VisionTrainer.begun`."""
        versions = _versions()
        with process_as_it_was(plan.threads), offline():
            learner, arguments, notes = _begun(plan)
            predict = predicting(learner, check)
            yield Begun(learner.module.eval(), arguments, versions, tuple(notes), predict)


class DetectorLearner(Learner):
    """A detector of torchvision between decoded images and boxes."""

    def __init__(self, module: "nn.Module", device: "torch.device") -> None:
        self.module = module
        self._device = device

    def losses(self, images: Sequence[AugmentedImage]) -> "dict[str, torch.Tensor]":
        targets = [self._target(one) for one in images]
        losses: dict[str, torch.Tensor] = self.module(
            [self._tensor(one.pixels) for one in images], targets
        )
        return losses

    def predict(self, images: Sequence[Image]) -> list[Predictions]:
        # One at a time: torchvision pads a batch to its largest image, which changes the answers.
        return [self._detections(image) for image in images]

    def _tensor(self, image: Image) -> "torch.Tensor":
        import torch

        return torch.from_numpy(rgb_planes(image)).to(self._device).float().div_(255)

    def _target(self, image: AugmentedImage) -> "dict[str, torch.Tensor]":
        import torch

        boxes = torch.from_numpy(image.boxes_xyxy.astype(np.float32))
        # A box so thin that float32 has no width for it is refused by torchvision.
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        labels = torch.from_numpy(image.class_ids + 1)
        return {"boxes": boxes[kept].to(self._device), "labels": labels[kept].to(self._device)}

    def _detections(self, image: Image) -> Detections:
        found = self.module([self._tensor(image)])[0]
        scores = found["scores"].float().cpu().numpy()
        best_first = np.argsort(-scores, kind="stable")
        limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        boxes = np.clip(found["boxes"].float().cpu().numpy(), np.float32(0), limit)
        class_ids = found["labels"].cpu().numpy() - 1
        return Detections(boxes[best_first], scores[best_first], class_ids[best_first])


def _begun(plan: TrainingPlan) -> tuple[DetectorLearner, dict[str, Any], list[str]]:
    """The learner with the weights that it begins with, its builder's arguments, and notes."""
    device = choose_device(plan.device)
    arguments = architecture_arguments(plan)
    seed_everything(plan.seed, 0)
    module = _built(plan.name, arguments)
    resize(module, plan.layers, plan.name)
    notes = begin_with(module, plan.initial, plan.name)
    return DetectorLearner(module.to(device), device), arguments, notes


def detectors() -> tuple[str, ...]:
    """Names of torchvision's detectors of boxes."""
    from torchvision.models import detection, list_models

    return tuple(name for name in list_models(module=detection) if not _OTHER_TASKS.search(name))


def architecture_arguments(plan: TrainingPlan) -> dict[str, Any]:
    """What torchvision's builder is given, besides weights.

    Raises:
        SpecError: there is no such detector, it has no such argument, or takes no such size.
    """
    if plan.name not in detectors():
        raise SpecError(
            f"torchvision has no detector '{plan.name}'. {suggestion(plan.name, detectors())}"
        )
    own = {name: value for name, value in plan.arguments.items() if name not in SETTINGS}
    taken = builder_parameters(plan.name)
    for name in own:
        if name not in taken:
            raise SpecError(
                f"'arguments': neither {plan.name} nor its training takes '{name}'. "
                f"{suggestion(name, taken | SETTINGS)}"
            )
    lowest = "box_score_thresh" if "box_score_thresh" in taken else "score_thresh"
    given = {"num_classes": len(plan.classes) + 1, lowest: LOWEST_SCORE}
    fixed = _SSD_SIZE.match(plan.name)
    if fixed is None:
        given |= {"min_size": plan.image_size, "max_size": plan.image_size}
    elif int(fixed[1]) != plan.image_size:
        raise SpecError(
            f"{plan.name} takes images of {fixed[1]} pixels only, and {plan.image_size} were asked "
            f"for; set the image size to {fixed[1]}."
        )
    return {**given, **own}


def builder_parameters(name: str) -> frozenset[str]:
    """Arguments of torchvision's builder and of the class it makes, but for those that are ours.

    Some classes take any word silently, so that a wrong one has to be found beforehand.
    """
    from torchvision.models import get_model_builder

    builder = inspect.signature(get_model_builder(name))
    made = inspect.signature(builder.return_annotation.__init__)
    return frozenset(builder.parameters.keys() | made.parameters.keys()) - _OURS - {"self"}


def _built(name: str, arguments: dict[str, Any]) -> "nn.Module":
    from torchvision.models import get_model

    try:
        module: nn.Module = get_model(name, weights=None, weights_backbone=None, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise SpecError(f"torchvision can't build {name}: {one_line(error)}.") from error
    return module


def _versions() -> dict[str, str]:
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError) as error:
        # RuntimeError: a torchvision that was built for another torch.
        raise MissingExtra("torch", "Training a model of torchvision") from error
    return {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
