"""Ultralytics' training loop with our data, scores, checkpoints and ways to stop it."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from visiondyno.errors import Diverged
from visiondyno.predictions import Image, Predictions
from visiondyno.training.session import SessionState
from visiondyno.training.state_tree import flatten, unflatten
from visiondyno.training.vision.base import EpochDone, LabelledImage, TrainingPlan
from visiondyno.training.vision.checkpoint import FolderCheckpoint
from visiondyno.training.vision.process import seed_everything
from visiondyno.training.vision.ultralytics_images import images_class
from visiondyno.training.vision.ultralytics_predict import predict

_MODEL, _AVERAGE, _GRADIENTS = "model/", "average/", "gradients/"
_NO_RETRIES_LEFT = 3


class _Training:
    """Overrides what the library's trainer does with files, scores and checkpoints."""

    # What the library's trainer sets.
    args: Any
    ema: Any
    loss: Any
    tloss: Any
    model: Any
    optimizer: Any
    scaler: Any
    train_loader: Any
    accumulate: int
    epoch: int
    start_epoch: int
    _oom_retries: int

    def prepare(
        self,
        plan: TrainingPlan,
        model: Any,
        checkpoint: FolderCheckpoint,
        resumed: SessionState | None,
        on_epoch: Callable[[EpochDone], float | None],
        check: Callable[[], None],
    ) -> None:
        """Give it what it trains; before `train`."""
        self._plan, self._check, self._on_epoch = plan, check, on_epoch
        self._checkpoint, self._resumed = checkpoint, resumed
        self.model = model
        self.data: dict[str, Any] = {
            "train": list(plan.images),
            "val": [],
            "names": dict(enumerate(plan.classes)),
            "nc": len(plan.classes),
            "channels": 3,
        }
        self._batch = 0
        self._last_step = -1
        self._pending: dict[str, Any] = {}

    # Instead of files.

    def check_resume(self, overrides: Any) -> None:  # noqa: ARG002 - the library's signature
        self.resume = False

    def get_dataset(self) -> dict[str, Any]:
        return {}  # `prepare` gives it

    def get_dataloader(
        self,
        dataset_path: Sequence[LabelledImage],
        batch_size: int = 16,
        rank: int = 0,
        mode: str = "train",
    ) -> Any:
        if mode == "val":  # is asked for, and never read
            return self.train_loader
        loader: Any = super().get_dataloader(dataset_path, batch_size, rank, mode)  # type: ignore[misc]
        return loader

    def build_dataset(
        self,
        img_path: Sequence[LabelledImage],
        mode: str = "train",  # noqa: ARG002 - the library's signature
        batch: int | None = None,
    ) -> Any:
        return images_class()(
            img_path=img_path,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=True,
            hyp=self.args,
            cache=self.args.cache,
            stride=int(max(self.model.stride)),
            pad=0.0,
            task="detect",
            data=self.data,
        )

    def save_metrics(self, metrics: Any) -> None:
        """Ours are told."""

    def save_model(self) -> bool:
        return False

    def final_eval(self) -> None:
        """Each epoch was scored."""

    # Instead of its own scores.

    def get_validator(self) -> Any:
        return SimpleNamespace(metrics=SimpleNamespace(keys=[]), dataloader=None)

    def validate(self) -> tuple[dict[str, float], None]:
        """Tell the epoch, take its score, keep a checkpoint."""
        number = self.epoch + 1
        done = EpochDone(number, self._metrics(), self._predict)
        score = self._on_epoch(done)
        self._checkpoint.scored(score, self.ema.ema.state_dict)
        self._checkpoint.keep(self._state, is_last=number == self._plan.epochs)
        return {}, None

    def _predict(self, images: Sequence[Image]) -> list[Predictions]:
        plan = self._plan
        return predict(self.ema.ema, images, plan.classes, plan.image_size, self._check)

    def _metrics(self) -> dict[str, float]:
        parts = {name.removesuffix("_loss"): float(value) for name, value in self.tloss.items()}
        return {"loss": sum(parts.values()), **{f"{name}_loss": x for name, x in parts.items()}}

    def _handle_nan_recovery(self, epoch: int) -> bool:  # noqa: ARG002 - the library's signature
        return False  # `_end_batch` has raised

    # Step by step.

    def run_callbacks(self, event: str) -> None:
        """The loop's moments; nobody else's callbacks run."""
        if event == "on_train_epoch_start":
            self._begin_epoch()
        elif event == "on_train_batch_start":
            self._check()
        elif event == "on_train_batch_end":
            self._end_batch()

    def _begin_epoch(self) -> None:
        # The library halves the batch where a GPU's memory is full; asked for is asked for.
        self._oom_retries = _NO_RETRIES_LEFT
        self._batch = 0
        seed_everything(self._plan.seed, self.epoch + 1)
        import torch

        # A new iterator draws once before it shuffles: so each epoch has its own.
        self.train_loader.reset()
        self.train_loader.generator.manual_seed(torch.initial_seed())
        for name, parameter in self.model.named_parameters():
            if name in self._pending:
                parameter.grad = self._pending[name].to(parameter.device)
        self._pending = {}

    def _end_batch(self) -> None:
        number = self._batch
        if not math.isfinite(float(self.loss.detach())):
            raise Diverged(
                f"The loss is no longer a finite number in epoch {self.epoch + 1}, batch "
                f"{number + 1}. Take a smaller learning rate.",
                stage="training",
            )
        # The loop counts anew when a training is resumed; steps must not fall elsewhere then.
        done = self.epoch * len(self.train_loader) + number
        if done - self._last_step >= self.accumulate:
            super().optimizer_step()  # type: ignore[misc]
            self._last_step = done
        self._batch += 1

    def optimizer_step(self) -> None:
        """Left to `_end_batch`."""

    # Checkpoints.

    def _state(self) -> SessionState:
        optimizer, values = flatten(self.optimizer.state_dict(), "optimizer")
        tensors = {
            **_named(_MODEL, self.model.state_dict()),
            **_named(_AVERAGE, self.ema.ema.state_dict()),
            **_named(_GRADIENTS, _gradients(self.model)),
            **optimizer,
        }
        kept = {
            "epoch": self.epoch + 1,
            "optimizer": values,
            "average_updates": self.ema.updates,
            "last_step": self._last_step,
        }
        return SessionState(tensors, kept)

    def resume_training(self, ckpt: Any) -> None:  # noqa: ARG002 - the library's signature
        """Take up our own checkpoint."""
        if self._resumed is None:
            return
        tensors, values = self._resumed.tensors, self._resumed.values
        self.model.load_state_dict(_under(_MODEL, tensors))
        self.ema.ema.load_state_dict(_under(_AVERAGE, tensors))
        self.ema.updates = values["average_updates"]
        self.optimizer.load_state_dict(unflatten(tensors, values["optimizer"]))
        self.start_epoch = int(values["epoch"])
        self._last_step = int(values["last_step"])
        self._pending = _under(_GRADIENTS, tensors)
        # The weights of end-to-end detectors' two losses move with the epochs.
        self.model.criterion = self.model.init_criterion()
        if hasattr(self.model.criterion, "update"):
            self.model.criterion.updates = self.start_epoch - 1
            self.model.criterion.update()


@cache
def training_class() -> type[Any]:
    """The library's trainer of detectors with our overrides."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    return type("Training", (_Training, DetectionTrainer), {})


def _named(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def _gradients(model: Any) -> dict[str, Any]:
    """Those that wait for the next step."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
