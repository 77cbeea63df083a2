"""`train` of a model reference: detectors and image-level classifiers, by their library's trainer.

The library trains; we give it decoded data, score each epoch alike whatever the library, keep
checkpoints and stop it between batches.
"""

import datetime
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno import __version__
from visiondyno.operations.context import OperationContext
from visiondyno.operations.epoch_scores import MAIN, EpochScores
from visiondyno.operations.initial_weights import initial_weights
from visiondyno.operations.state_exchange import answer_whole
from visiondyno.operations.training_setup import (
    BETWEEN_STEPS_TOLD_S,
    kept_to_its_share,
    torch_of_a_job,
)
from visiondyno.operations.vision_checkpoints import (
    CheckpointFolder,
    EpochRecord,
    checkpoint_folder,
    checkpoint_key,
)
from visiondyno.operations.vision_training_data import TrainingImages, open_training_images
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.trained_model import LayerSize, TrainedModel, TrainedOn
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.state import from_tensors
from visiondyno.training.precision import choose_device
from visiondyno.training.vision.base import EpochDone, Trained, TrainingPlan, VisionTrainer
from visiondyno.training.vision.choosing import ChosenTrainer, choose_trainer
from visiondyno.vision.ultralytics_library import LICENSE as ULTRALYTICS_LICENSE

if TYPE_CHECKING:
    import torch


def run(spec: TrainVisionInput, context: OperationContext) -> dict[str, Any]:
    """`epochs` epochs over `data`, each scored on the validation data where there are any.

    Progress after each epoch is its record; within one it comes at most every two seconds.

    Returns:
        `history`, the weights of the best epoch (`model_state`, see `state_exchange`),
        `trained_model` (`specs.trained_model.TrainedModel` as JSON), `epochs_run`, `best_epoch`,
        `resumed_from_epoch` (0: it wasn't), `device`, `threads`, `torch`, `notes`.

    Raises:
        SpecError: there is no such model, or a setting is wrong.
        DatasetError: the data can't be read, or aren't labelled with boxes.
        ClassMismatch: a class isn't in the data.
        ModelError: the weights to begin with are damaged.
        Unavailable: there is no such device, or the library isn't installed.
        Diverged: the loss isn't finite.
        OperationFailed: the memory is full.
    """
    files = WorkerFiles.of_this_worker()

    def begin(job: TrainingJob) -> Beginning:
        return Beginning(*initial_weights(spec, job.chosen, files, context))

    return train_from(spec, context, begin, files)


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a training is of, before it has weights.

    Attributes:
        spec: as asked for.
        chosen: who trains.
        trainer: that.
        data: to learn from and to score on.
        device: as torch names it.
    """

    spec: TrainVisionInput
    chosen: ChosenTrainer
    trainer: VisionTrainer
    data: TrainingImages
    device: str

    def plan(self, folder: Path, beginning: "Beginning") -> TrainingPlan:
        """As the trainer is given it; `folder` is its own."""
        spec = self.spec
        return TrainingPlan(
            name=self.chosen.name,
            classes=self.data.classes,
            images=self.data.images,
            image_size=spec.image_size,
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            learning_rate=spec.learning_rate,
            seed=spec.seed,
            device=self.device,
            threads=spec.threads,
            initial=beginning.weights,
            folder=folder,
            arguments=spec.arguments,
            layers=beginning.layers,
        )


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a training begins with.

    Attributes:
        weights: by name, on the processor; None for fresh ones.
        identity: of them; part of what decides the result.
        layers: that are narrower than the architecture makes them.
    """

    weights: "Mapping[str, torch.Tensor] | None"
    identity: str | None
    layers: tuple[LayerSize, ...] = ()


def train_from(
    spec: TrainVisionInput,
    context: OperationContext,
    begin: Callable[[TrainingJob], Beginning],
    files: WorkerFiles,
) -> dict[str, Any]:
    """Train as `run` does, from what `begin` makes of the job; see there."""
    chosen = choose_trainer(spec.model, spec.level)
    trainer = chosen.make()
    chosen_device = choose_device(spec.device)
    device = str(chosen_device)
    for note in kept_to_its_share(chosen_device):
        context.progress("preparing the model", log=note)
    data = open_training_images(spec, context)
    job = TrainingJob(spec, chosen, trainer, data, device)
    with torch_of_a_job(spec.threads, context):
        import torch

        decided = _Decided(device, torch.get_num_threads(), torch.__version__)
        beginning = begin(job)
        held_digest = None if data.held is None else data.held.digest
        narrower = [layer.model_dump() for layer in beginning.layers]
        key = checkpoint_key(
            spec,
            {
                **vars(decided),
                "initial": beginning.identity,
                "trainer": trainer.library,
                **({"layers": narrower} if narrower else {}),
            },
            [data.digest, held_digest],
        )
        with checkpoint_folder(files.cache, key, context) as folder:
            training = _Training(job, decided, folder, context)
            plan = job.plan(folder.trainer, beginning)
            trained = trainer.train(plan, training.on_epoch, training.check)
            return training.answer(trained, files)


@dataclass(frozen=True)
class _Decided:
    device: str
    threads: int
    torch: str


@dataclass
class _Training:
    """One job's training, epoch by epoch."""

    job: TrainingJob
    decided: _Decided
    folder: CheckpointFolder
    context: OperationContext
    clock: Callable[[], float] = time.monotonic
    history: list[EpochRecord] = field(default_factory=list)
    _begun: bool = False
    _told_s: float = 0.0

    def __post_init__(self) -> None:
        self.spec, self.chosen, self.data = self.job.spec, self.job.chosen, self.job.data
        held = self.data.held
        self._score = None if held is None else EpochScores(held, self.data.classes, self.context)
        self._told_s = self.clock()

    def check(self) -> None:
        """Between batches."""
        self.context.check()
        now_s = self.clock()
        if now_s - self._told_s >= BETWEEN_STEPS_TOLD_S:
            self._told_s = now_s
            self.context.progress("training", epoch=len(self.history) + 1, epochs=self.spec.epochs)

    def on_epoch(self, done: EpochDone) -> float | None:
        """Score the epoch, tell it, keep its record; its score."""
        if not self._begun:
            self._go_on_after(done.epoch - 1)
        record: EpochRecord = {
            "epoch": done.epoch,
            "train_metrics": {**done.train_metrics, "samples_processed": len(self.data.images)},
        }
        if self._score is not None:
            record["val_metrics"] = self._score(done.predict, done.epoch)
        self.history.append(record)
        # Told first: of an epoch that is in the checkpoint, nobody would be told again.
        self.context.progress("epoch", **record, epochs=self.spec.epochs)
        self.folder.keep(self.history)
        return self._main(record)

    def answer(self, trained: Trained, files: WorkerFiles) -> dict[str, Any]:
        if not self._begun:  # it was killed after its last epoch
            self._go_on_after(trained.resumed_from_epoch)
        epochs = self.spec.epochs
        self.context.progress("sending the state", epoch=epochs, epochs=epochs)
        state, sha256 = answer_whole(
            from_tensors(trained.state, copy=False),
            files,
            beside_bytes=len(json.dumps(self.history)),
        )
        best = self._best()
        return {
            "operation": "train",
            "status": "success",
            "history": self.history,
            **state,
            "epochs_run": len(self.history),
            "best_epoch": best["epoch"],
            "resumed_from_epoch": trained.resumed_from_epoch,
            "trained_model": self._record(trained, best, sha256).model_dump(
                mode="json", by_alias=True
            ),
            **vars(self.decided),
            "visiondyno": __version__,
            "notes": [*dict.fromkeys((*self.data.notes, *trained.notes, *self._unscored(best)))],
        }

    def _unscored(self, best: EpochRecord) -> list[str]:
        if self._main(best) is not None:
            return []
        why = (
            "there are no validation data"
            if self.data.held is None
            else f"{self.data.held.reference} has no object that could be found"
        )
        return [f"No epoch was scored, as {why}: the weights are those of the last epoch."]

    def _go_on_after(self, epoch: int) -> None:
        self._begun = True
        self.history = self.folder.history(epoch)
        if epoch:
            self.context.progress("resumed", epoch=epoch, epochs=self.spec.epochs)

    def _main(self, record: EpochRecord) -> float | None:
        value: float | None = record.get("val_metrics", {}).get(MAIN[self.chosen.task])
        return value

    def _best(self) -> EpochRecord:
        """As trainers choose it: the last of the best; the last of all where none was scored."""
        scored = [record for record in self.history if self._main(record) is not None]
        if not scored:
            return self.history[-1]
        return max(scored, key=lambda record: (self._main(record), record["epoch"]))

    def _record(self, trained: Trained, best: EpochRecord, sha256: str) -> TrainedModel:
        spec, data, chosen = self.spec, self.data, self.chosen
        return TrainedModel(
            family=chosen.family,
            name=chosen.name,
            arguments=trained.arguments,
            task=chosen.task,
            classes=data.classes,
            image_size=spec.image_size,
            level=spec.level,
            trained_on=TrainedOn(
                reference=spec.data,
                digest=data.digest,
                images=len(data.images),
                validation_reference=None if data.held is None else data.held.reference,
                validation_digest=None if data.held is None else data.held.digest,
            ),
            epochs=spec.epochs,
            best_epoch=best["epoch"],
            metrics=best.get("val_metrics", {}),
            seed=spec.seed,
            weights_sha256=sha256,
            versions={**trained.versions, "visiondyno": __version__},
            license=ULTRALYTICS_LICENSE if chosen.family == "ultralytics" else None,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
