"""`prune`: remove channels of a trained network, and train what is left on."""

import datetime
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno import __version__
from visiondyno.errors import ModelError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.epoch_scores import EpochScores, Metrics
from visiondyno.operations.pruning_source import PruningSource, pruning_source
from visiondyno.operations.state_exchange import answer_whole
from visiondyno.operations.train_vision import Beginning, TrainingJob, train_from
from visiondyno.operations.training_setup import torch_of_a_job
from visiondyno.operations.vision_training_data import TrainingImages, open_training_images
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.model_changes import PruneInput
from visiondyno.specs.trained_model import LayerSize, PrunedNetwork, TrainedModel
from visiondyno.state import from_tensors, identity
from visiondyno.training.precision import choose_device
from visiondyno.training.vision.base import Begun
from visiondyno.training.vision.pruning import HowToPrune, Pruned, prune, same_answers

if TYPE_CHECKING:
    import torch


def run(spec: PruneInput, context: OperationContext) -> dict[str, Any]:
    """Prune, score, train on; progress is that of `train`.

    Returns:
        As `train_vision.run`, and `pruning`: `ratio`, `importance`, `parameters_before` and
        `_after`, `parameters_removed` (share), `flops_before` and `_after` (for one image of the
        model's size, of `flops_of`), `layers` (`name`, `channels_before`, `channels_after`),
        `metrics_before` (of the source) and `metrics_pruned` (before any training): null where
        there are no validation data, or where the source knows none of the classes. `trained_model`
        says in `pruned` what was removed. With 0 epochs `history` is empty and `best_epoch` null.

    Raises:
        SpecError: such a model can't be pruned, or a setting is wrong.
        ModelError: the model can't be read, or its network can't be pruned.
        MissingExtra: torch-pruning, or the model's library, isn't installed.
        DatasetError, ClassMismatch, Unavailable, Diverged, OperationFailed: as `train_vision.run`.
    """
    source = pruning_source(spec)
    files = WorkerFiles.of_this_worker()
    pruning = _Pruning(spec, source, files, context)
    if spec.epochs:
        answer = train_from(source.training, context, pruning.begin, files)
    else:
        answer = pruning.only()
    return {**answer, "operation": "prune", **pruning.told(answer)}


@dataclass
class _Pruning:
    """One job's pruning."""

    spec: PruneInput
    source: PruningSource
    files: WorkerFiles
    context: OperationContext
    _pruned: Pruned | None = None
    _before: Metrics | None = None
    _after: Metrics | None = None
    _source_sha256: str | None = None
    _layers: tuple[LayerSize, ...] = ()
    _notes: tuple[str, ...] = ()

    def begin(self, job: TrainingJob) -> Beginning:
        """The pruned weights; what there is to tell of them is kept."""
        given = self.source.beginning(self.files, self.context)
        held = job.data.held
        score = None if held is None else EpochScores(held, job.data.classes, self.context)
        with tempfile.TemporaryDirectory(prefix="visiondyno-") as folder:
            self.context.progress("building the network")
            with job.trainer.begun(job.plan(Path(folder), given), self.context.check) as begun:
                self._take_notes(begun)
                if score is not None:
                    self._before = self._score(score, begun, "scoring the model as it is")
                beginning = self._prune(begun, job, given)
                plan = job.plan(Path(folder), beginning)
                with job.trainer.begun(plan, self.context.check) as narrow:
                    self._check_same(begun, narrow, job)
                    if score is not None:
                        self._after = self._score(score, narrow, "scoring the pruned model")
        return beginning

    def only(self) -> dict[str, Any]:
        """Nothing is trained: as `train` answers, with an empty history."""
        import torch

        record = self.source.record
        assert record is not None  # published weights are always trained on
        spec = self.source.training
        data = self._data(record)
        device = str(choose_device(spec.device))
        job = TrainingJob(spec, self.source.chosen, self.source.chosen.make(), data, device)
        with torch_of_a_job(spec.threads, self.context):
            beginning = self.begin(job)
            threads = torch.get_num_threads()
        assert beginning.weights is not None
        state, sha256 = answer_whole(from_tensors(beginning.weights, copy=False), self.files)
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        changed = {
            "weights_sha256": sha256,
            "metrics": self._metrics_of(record, data),
            "image_size": spec.image_size,
            "created_at": made,
        }
        return {
            "status": "success",
            "history": [],
            **state,
            "epochs_run": 0,
            "best_epoch": None,
            "resumed_from_epoch": 0,
            "trained_model": record.model_copy(update=changed).model_dump(
                mode="json", by_alias=True
            ),
            "device": device,
            "threads": threads,
            "torch": torch.__version__,
            "visiondyno": __version__,
            "notes": [*data.notes, "Nothing was trained after the pruning."],
        }

    def _metrics_of(self, record: TrainedModel, data: TrainingImages) -> Metrics:
        """Of the record, which says on what data they were measured: none of other data."""
        held = data.held
        if held is None or held.digest != record.trained_on.validation_digest:
            return {}
        return self._after or {}

    def told(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """`pruning`, and what the answer's record and notes say of it."""
        pruned, spec = self._pruned, self.spec
        assert pruned is not None
        before, after = pruned.parameters
        record = PrunedNetwork(
            ratio=spec.ratio,
            importance=spec.importance,
            source_weights_sha256=self._source_sha256,
            parameters_before=before,
            parameters_after=after,
            epochs_after=len(answer["history"]),
            layers=self._layers,
        )
        model = {**answer["trained_model"], "pruned": record.model_dump(mode="json")}
        # It decides which channels belong together.
        model["versions"] = {**model["versions"], "torch_pruning": version("torch-pruning")}
        layers = [
            {"name": name, "channels_before": had, "channels_after": has}
            for name, had, has in pruned.narrowed
        ]
        return {
            "trained_model": model,
            "pruning": {
                "ratio": spec.ratio,
                "multiple_of": spec.multiple_of,
                "importance": spec.importance,
                "parameters_before": before,
                "parameters_after": after,
                "parameters_removed": 1 - after / before,
                "flops_before": pruned.flops[0],
                "flops_after": pruned.flops[1],
                "flops_of": pruned.counted,
                "image_size": self.source.training.image_size,
                "layers": layers,
                "metrics_before": self._before,
                "metrics_pruned": self._after,
            },
            "notes": [*answer["notes"], *pruned.notes, *self._notes],
        }

    def _prune(self, begun: Begun, job: TrainingJob, given: Beginning) -> Beginning:
        spec = self.spec
        self.context.progress("removing channels")
        how = HowToPrune(spec.ratio, spec.multiple_of, spec.importance, spec.keep_layers, spec.seed)
        network = begun.module.to("cpu")
        name, family = job.chosen.name, job.chosen.family
        pruned = prune(network, family, name, job.spec.image_size, how)
        kept = {layer.name: layer for layer in given.layers}
        # In the order of the network, whichever time they were pruned.
        kept |= {layer.name: layer for layer in pruned.layers}
        self._pruned, self._layers = pruned, tuple(kept.values())
        record = self.source.record
        self._source_sha256 = None if record is None else record.weights_sha256
        weights: dict[str, torch.Tensor] = {
            at: tensor.detach().clone() for at, tensor in network.state_dict().items()
        }
        return Beginning(weights, identity(from_tensors(weights, copy=False)), self._layers)

    def _take_notes(self, begun: Begun) -> None:
        if begun.notes:
            unscored = "The model is scored after the training alone: it hadn't these classes."
            self._notes = (*begun.notes, unscored)

    def _score(self, score: EpochScores, begun: Begun, stage: str) -> Metrics | None:
        if self._notes:  # a part of it is fresh: what it finds means nothing
            return None
        self.context.progress(stage)
        return score(begun.predict, 0)

    def _check_same(self, begun: Begun, narrow: Begun, job: TrainingJob) -> None:
        network = narrow.module.to("cpu")
        if not same_answers(begun.module, network, job.spec.image_size):
            raise ModelError(
                f"{self.source.reference} can't be pruned: built again from what was removed, it "
                "answers otherwise. Take another architecture."
            )
        network.to(job.device)

    def _data(self, record: TrainedModel) -> TrainingImages:
        if self.spec.data is not None:
            return open_training_images(self.source.training, self.context)
        on = record.trained_on
        return TrainingImages(on.reference, on.digest, record.classes, (), None, ())
