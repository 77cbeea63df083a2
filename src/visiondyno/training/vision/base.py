"""The seam of vision trainers: what they are given, and what they hand back after each epoch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.predictions import Image, Predictions
from visiondyno.specs.trained_model import LayerSize

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image to learn from.

    Attributes:
        path: of the encoded image.
        width, height: in pixels.
        boxes_xyxy: (n, 4) float64, pixels: left, top, right, bottom; crowds are left out.
        class_ids: (n,) int64, index into the classes.
    """

    path: Path
    width: int
    height: int
    boxes_xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is to be trained.

    Attributes:
        name: of the architecture in its library.
        classes: in the order of the output.
        images: to learn from.
        image_size: side that images are brought to, pixels.
        epochs: how many.
        batch_size, learning_rate: the trainer's own default if None.
        seed: of weights, order and augmentation.
        device: `cpu`, `cuda` or `cuda:N`; never another than asked.
        threads: of torch on the processor; its own default if None.
        initial: weights to begin with: `state_dict` arrays by name; fresh ones if None. What
            doesn't fit the number of classes is left fresh, and told in `notes`.
        folder: the trainer's own, for its checkpoints; it outlives a killed process, and a trainer
            that finds its own checkpoint there goes on from it.
        arguments: more of the library's own settings, by its names.
        layers: that are narrower than the architecture makes them, with `initial` as narrow.
    """

    name: str
    classes: tuple[str, ...]
    images: Sequence[LabelledImage]
    image_size: int
    epochs: int
    batch_size: int | None
    learning_rate: float | None
    seed: int
    device: str
    threads: int | None
    initial: "Mapping[str, torch.Tensor] | None"
    folder: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[LayerSize, ...] = ()


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch that is trained; it is in the checkpoint once the callback has returned its score.

    Attributes:
        epoch: from 1.
        train_metrics: means over the epoch, by name: `loss` always, its parts where there are any.
        predict: the model as it is now, from decoded images to predictions; callable until the
            callback returns. Scores of detectors from .001 up.
    """

    epoch: int
    train_metrics: dict[str, float]
    predict: Callable[[Sequence[Image]], list[Predictions]]


@dataclass(frozen=True, slots=True)
class Begun:
    """A network as a training of its plan would begin.

    Attributes:
        module: on the plan's device, in evaluation mode.
        arguments: of the architecture, as of `Trained`.
        versions, notes: as of `Trained`.
        predict: as of `EpochDone`; it runs `module` as it is at that moment.
    """

    module: "nn.Module"
    arguments: dict[str, Any]
    versions: dict[str, str]
    notes: tuple[str, ...]
    predict: Callable[[Sequence[Image]], list[Predictions]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a trainer hands back.

    Attributes:
        state: the weights of the best epoch (of the last one where nobody scored), on the
            processor.
        arguments: of the architecture, as the runtime of that library builds it again.
        resumed_from_epoch: 0: it wasn't.
        versions: of the packages that decide the result.
        notes: what a reader of the result must know.
    """

    state: "Mapping[str, torch.Tensor]"
    arguments: dict[str, Any]
    resumed_from_epoch: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


class VisionTrainer(ABC):
    """Trains one architecture of one library.

    Contract: `train` runs epochs `resumed + 1 … epochs` and calls `on_epoch` after each; that
    returns the epoch's score (higher is better; None: not scored), by which the best weights are
    kept, across a resume too. Same plan, same machine, same packages: same weights; a training
    that was killed and taken up again included, as far as the library allows (else a note says
    so). What `on_epoch` or `check` raises passes through and leaves the checkpoint usable. Nothing
    is downloaded and nothing is written outside `plan.folder`; global settings of torch (seeds,
    threads, default dtype) are afterwards as they were. No pickle of anybody else's is read.
    """

    library: str

    @abstractmethod
    def train(
        self,
        plan: TrainingPlan,
        on_epoch: Callable[[EpochDone], float | None],
        check: Callable[[], None],
    ) -> Trained:
        """Train; `check` is called at least once a batch and raises to stop.

        Raises:
            SpecError: there is no such architecture, or a setting is wrong.
            MissingExtra: the library isn't installed.
            Unavailable: the device isn't here.
            Diverged: the loss isn't finite.
        """

    @abstractmethod
    def begun(self, plan: TrainingPlan, check: Callable[[], None]) -> AbstractContextManager[Begun]:
        """The network before its first step, for as long as the context lasts.

        The process is as in `train` meanwhile. Checkpoints in `plan.folder` aren't looked at.

        Raises:
            SpecError, MissingExtra, Unavailable: as `train`.
        """
