"""Trains classifiers to tell which classes are in an image, from data labelled with boxes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import MissingExtra, SpecError
from visiondyno.predictions import Classification, Image, Predictions
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
from visiondyno.training.vision.torchvision import builder_parameters
from visiondyno.vision.image_level_input import image_level_input
from visiondyno.vision.preprocess import Preprocessor

if TYPE_CHECKING:
    import torch
    from torch import nn

Library = Literal["torchvision", "timm"]

_DEFAULTS = Recipe(optimizer="adamw", learning_rate=1e-3, batch_size=16, weight_decay=1e-2)
# Of the plan, or such as have timm read weights of files and addresses.
_OURS = frozenset(
    {"num_classes", "checkpoint_path", "cache_dir", "pretrained"}
    | {f"pretrained_{what}" for what in ("cfg", "cfg_overlay", "strict")}
)
_LARGEST_WEIGHT = 10.0
_AT_ONCE = 32


class ImageLevelTrainer(VisionTrainer):
    """Trains a classifier of torchvision or timm; a class is in an image where a box of it is.

    One logit a class and binary cross-entropy; where few images hold a class, those count more
    (`positive_weights`). The input is `image_level_input`. `plan.arguments` are those of the
    library's builder, and of `Recipe`.
    """

    def __init__(self, library: Library) -> None:
        self.library: Library = library

    def train(
        self,
        plan: TrainingPlan,
        on_epoch: Callable[[EpochDone], float | None],
        check: Callable[[], None],
    ) -> Trained:
        """See `VisionTrainer.train`; `EpochDone.predict` gives a probability for each class."""
        versions = _versions(self.library)
        recipe = recipe_of(plan, _DEFAULTS)
        with process_as_it_was(plan.threads), offline():
            learner, arguments, notes = self._begun(plan)
            notes += _rare(plan)
            epochs = TorchEpochs(learner, plan, recipe)
            state = epochs.train(on_epoch, check)
        return Trained(
            state, arguments, epochs.resumed_from_epoch, versions, (*notes, *epochs.notes)
        )

    @contextmanager
    def begun(self, plan: TrainingPlan, check: Callable[[], None]) -> Iterator[Begun]:
        """See `VisionTrainer.begun`."""
        versions = _versions(self.library)
        with process_as_it_was(plan.threads), offline():
            learner, arguments, notes = self._begun(plan)
            predict = predicting(learner, check)
            yield Begun(learner.module.eval(), arguments, versions, tuple(notes), predict)

    def _begun(self, plan: TrainingPlan) -> "tuple[ClassifierLearner, dict[str, Any], list[str]]":
        """The learner with the weights that it begins with, its builder's arguments, and notes."""
        device = choose_device(plan.device)
        arguments = {n: value for n, value in plan.arguments.items() if n not in SETTINGS}
        _check_names(self.library, plan.name, arguments)
        arguments = {"num_classes": len(plan.classes), **arguments}
        seed_everything(plan.seed, 0)
        module = _built(self.library, plan.name, arguments)
        resize(module, plan.layers, plan.name)
        _check_size(module, plan)
        notes = begin_with(module, plan.initial, plan.name)
        return ClassifierLearner(module.to(device), device, plan), arguments, notes


class ClassifierLearner(Learner):
    """A classifier between decoded images and a probability for each class."""

    def __init__(self, module: "nn.Module", device: "torch.device", plan: TrainingPlan) -> None:
        import torch

        self.module = module
        self._device = device
        self._count = len(plan.classes)
        self._prepare = Preprocessor(image_level_input(plan.image_size))
        weights = torch.from_numpy(positive_weights(plan)).float().to(device)
        self._loss = torch.nn.BCEWithLogitsLoss(pos_weight=weights)

    def losses(self, images: Sequence[AugmentedImage]) -> "dict[str, torch.Tensor]":
        import torch

        present = np.stack([_present(one.class_ids, self._count) for one in images])
        wanted = torch.from_numpy(present).float().to(self._device)
        outputs = self.module(self._tensor([one.pixels for one in images]))
        # Inception and GoogLeNet answer by auxiliary heads too while they learn.
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        return {"loss": self._loss(logits, wanted)}

    def predict(self, images: Sequence[Image]) -> list[Predictions]:
        found: list[Predictions] = []
        for start in range(0, len(images), _AT_ONCE):
            logits = self.module(self._tensor(images[start : start + _AT_ONCE]))
            found += [Classification(row) for row in logits.float().sigmoid().cpu().numpy()]
        return found

    def _tensor(self, images: Sequence[Image]) -> "torch.Tensor":
        import torch

        return torch.from_numpy(self._prepare(images).tensor).to(self._device)


def positive_weights(plan: TrainingPlan) -> NDArray[np.float64]:
    """(classes,): how often an image with the class counts, for once without: no / yes.

    At most ten either way, so that one image alone doesn't rule; 1 where all images agree. So a
    probability of .5 is what lies halfway between yes and no, however many images hold the class.
    """
    yes = _holding(plan)
    no = len(plan.images) - yes
    ratio = np.divide(no, yes, out=np.ones(len(yes)), where=(yes > 0) & (no > 0))
    weights: NDArray[np.float64] = np.clip(ratio, 1 / _LARGEST_WEIGHT, _LARGEST_WEIGHT)
    return weights


def _holding(plan: TrainingPlan) -> NDArray[np.int64]:
    """(classes,) int64: how many images hold each class."""
    count = len(plan.classes)
    held = np.zeros(count, np.int64)
    for one in plan.images:
        held += _present(one.class_ids, count)
    return held


def _present(class_ids: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """(count,) bool: which classes are in an image."""
    return np.isin(np.arange(count), class_ids)


def _rare(plan: TrainingPlan) -> list[str]:
    """Notes on classes that nothing can be learned of."""
    yes = _holding(plan)
    return [
        f"{'No' if yes[place] == 0 else 'Every'} image of the training data holds '{name}', so "
        "that nothing tells it from other images."
        for place, name in enumerate(plan.classes)
        if yes[place] in (0, len(plan.images))
    ]


def _check_names(library: Library, name: str, arguments: dict[str, Any]) -> None:
    known = _classifiers(library)
    if name not in known:
        raise SpecError(f"{library} has no classifier '{name}'. {suggestion(name, known)}")
    # timm's models refuse what they don't know; of torchvision's some take any word.
    taken = builder_parameters(name) if library == "torchvision" else None
    for argument in arguments:
        if argument in _OURS or (taken is not None and argument not in taken):
            raise SpecError(
                f"'arguments': neither {name} nor its training takes '{argument}'. "
                f"{suggestion(argument, (taken or frozenset()) | SETTINGS)}"
            )


def _classifiers(library: Library) -> list[str]:
    if library == "timm":
        import timm

        found: list[str] = timm.list_models()
        return found
    from torchvision import models

    return list(models.list_models(module=models))


def _built(library: Library, name: str, arguments: dict[str, Any]) -> "nn.Module":
    module: nn.Module
    try:
        if library == "timm":
            import timm

            module = timm.create_model(name, pretrained=False, **arguments)
        else:
            from torchvision.models import get_model

            module = get_model(name, weights=None, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise SpecError(f"{library} can't build {name}: {one_line(error)}.") from error
    return module


def _check_size(module: "nn.Module", plan: TrainingPlan) -> None:
    """Before the first epoch, since many architectures take one size only."""
    import torch

    side = plan.image_size
    module.eval()
    try:
        with torch.inference_mode():
            logits = module(torch.zeros(1, 3, side, side))
    except Exception as error:
        # Whatever an architecture stumbles over.
        raise SpecError(
            f"{plan.name} can't take images of {side} pixels: {one_line(error)}. Choose another "
            "image size, or tell the architecture by its arguments."
        ) from error
    if logits.shape != (1, len(plan.classes)):
        raise SpecError(
            f"{plan.name} answers with {tuple(logits.shape)} numbers where {len(plan.classes)} "
            "classes were asked for; it isn't a classifier of images."
        )


def _versions(library: Library) -> dict[str, str]:
    found = {}
    for name in ("torch", "torchvision", "timm") if library == "timm" else ("torch", "torchvision"):
        try:
            found[name] = str(__import__(name).__version__)
        except (ImportError, RuntimeError) as error:
            # RuntimeError: a torchvision that was built for another torch.
            extra = "timm" if name == "timm" else "torch"
            raise MissingExtra(extra, f"Training a model of {library}") from error
    return found
