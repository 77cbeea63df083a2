"""What is pruned: a trained model's folder, or a library's weights, as the trainer takes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.operations.context import OperationContext
from visiondyno.operations.initial_weights import initial_weights
from visiondyno.operations.train_vision import Beginning
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trained_models import read_trained, read_weights
from visiondyno.specs.model_changes import PruneInput
from visiondyno.specs.operations import parse
from visiondyno.specs.trained_model import RECORD, TrainedModel
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.state import to_tensors
from visiondyno.training.vision.choosing import ChosenTrainer, choose_trainer

if TYPE_CHECKING:
    import torch

_OF_THE_TRAINER = frozenset({"nc", "num_classes"})
_FILES = (".pt", ".yaml", ".yml")
_SIZES = frozenset({"min_size", "max_size"})
_ALIKE = ("epochs", "batch_size", "learning_rate", "seed", "device", "threads", "max_images")
_OF_DATA = ("validation_data", "validation_share", "skip_bad")


@dataclass(frozen=True, slots=True)
class PruningSource:
    """What is pruned.

    Attributes:
        reference: as the user gave it.
        record: of the trained model; None of a library's weights.
        folder: of the trained model.
        training: the training that goes on from it; its `data` mean nothing where none were given.
        chosen: who trains it.
    """

    reference: str
    record: TrainedModel | None
    folder: Path | None
    training: TrainVisionInput
    chosen: ChosenTrainer

    def beginning(self, files: WorkerFiles, context: OperationContext) -> Beginning:
        """The weights as they are before the pruning, with the sizes of their layers.

        Raises:
            ModelError: they can't be read.
            Unavailable: they would have to be downloaded and can't be.
        """
        if self.record is None or self.folder is None:
            return Beginning(*initial_weights(self.training, self.chosen, files, context))
        weights: Mapping[str, torch.Tensor] = to_tensors(read_weights(self.folder, self.record))
        layers = self.record.pruned.layers if self.record.pruned else ()
        return Beginning(weights, self.record.weights_sha256, layers)


def pruning_source(spec: PruneInput) -> PruningSource:
    """What a job names, and how it is trained on.

    Raises:
        SpecError: such a model can't be pruned, or the job lacks something.
        ModelError: there is no such model, or its record is damaged.
    """
    folder = _trained_folder(spec.model)
    if folder is None:
        return _published(spec)
    record = read_trained(folder)
    if record.family == "transformers" or (
        record.task == "classification" and record.level is None
    ):
        raise SpecError(
            f"{spec.model} can't be pruned: it is a model of {record.family} for "
            f"{record.task}. What was trained by 'dyno train' as a detector or with 'level': "
            "'image' can."
        )
    if spec.level not in (None, record.level):
        raise SpecError(f"'level': {spec.model} is a detector; leave it out.")
    fields = {
        "model": f"{record.family}:{record.name}",
        "level": record.level,
        "classes": record.classes,
        "image_size": spec.image_size or record.image_size,
        "arguments": _arguments(spec, record.arguments, record.family),
    }
    return _made(spec, record, folder, fields)


def _trained_folder(reference: str) -> Path | None:
    folder = resolve_reference(reference).path
    return folder if folder is not None and (folder / RECORD).is_file() else None


def _published(spec: PruneInput) -> PruningSource:
    library, _, name = spec.model.partition(":")
    if library not in ("ultralytics", "torchvision", "timm") or name.endswith(_FILES):
        raise SpecError(
            f"'model': {spec.model} can't be pruned. Give the folder of a model that 'dyno train' "
            "made, or published weights such as ultralytics:yolov8n or torchvision:resnet18 with "
            "'level': 'image'."
        )
    if spec.data is None or spec.epochs == 0:
        raise SpecError(
            f"Pruning {spec.model} needs 'data' and 'epochs' of at least 1: published weights are "
            "pruned for the classes of the data, which have to be learned."
        )
    fields: dict[str, Any] = {
        "model": spec.model,
        "level": spec.level,
        "pretrained": True,
        "arguments": _arguments(spec, {}, library),
    }
    if spec.image_size is not None:
        fields["image_size"] = spec.image_size
    return _made(spec, None, None, fields)


def _made(
    spec: PruneInput, record: TrainedModel | None, folder: Path | None, fields: dict[str, Any]
) -> PruningSource:
    alike = {name: getattr(spec, name) for name in _ALIKE}
    of_data = {name: getattr(spec, name) for name in _OF_DATA if spec.data is not None}
    training = parse(
        TrainVisionInput,
        {
            **alike,
            **of_data,
            **fields,
            "data": spec.data or "none",
            "epochs": max(spec.epochs, 1),
        },
        "The training after the pruning",
    )
    chosen = choose_trainer(training.model, training.level)
    return PruningSource(spec.model, record, folder, training, chosen)


def _arguments(spec: PruneInput, own: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The architecture's as they were, then what was asked for."""
    left_out = _OF_THE_TRAINER | (_SIZES if spec.image_size is not None else frozenset())
    kept = {name: value for name, value in own.items() if name not in left_out}
    # Norms that saw all channels have other statistics than what is left.
    norms = {} if family == "ultralytics" else {"freeze_norms": False}
    return {**json.loads(json.dumps(kept)), **norms, **spec.arguments}
