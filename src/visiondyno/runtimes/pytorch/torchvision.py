"""torchvision's detectors and image classifiers: `torchvision:NAME[@WEIGHTS]`.

`WEIGHTS` is a member of the architecture's enum (`IMAGENET1K_V2`), the default one where nothing
is said; `none` makes random weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import IntArray
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription, Progress, Runtime
from visiondyno.runtimes.native_card import card_in_use
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.logit_classifier import (
    LogitClassifier,
    Transform,
    card_transform,
)
from visiondyno.runtimes.pytorch.module import described
from visiondyno.runtimes.pytorch.torchvision_classifiers import preset_card, preset_transform
from visiondyno.runtimes.pytorch.torchvision_detectors import (
    PROPOSALS_NOTE,
    TorchvisionDetector,
    detection_card,
    input_card,
    is_two_stage,
    named_labels,
)
from visiondyno.runtimes.pytorch.torchvision_names import (
    SEED,
    TorchvisionName,
    build,
    named,
    read_state,
    require_torchvision,
)
from visiondyno.runtimes.weights import fetch_weights, find_weights, verify
from visiondyno.specs.model_card import ModelCard
from visiondyno.specs.trained_model import TrainedModel
from visiondyno.state import from_tensors, identity
from visiondyno.vision.image_level_input import image_level_input

if TYPE_CHECKING:
    import torch
    from torch import nn

_THRESHOLDS = frozenset({"confidence", "nms_iou", "max_detections"})
_NEEDED_FOR = "A model of torchvision"


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a module came from, for its description."""

    reference: str
    card_source: str = "metadata"
    digest: str = ""
    file_bytes: int = 0
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


class TorchvisionRuntime(Runtime):
    """Runs torchvision's models by torch, with torchvision's own steps around the network."""

    name = "torchvision"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:
        """See `Runtime.fetch`; weights come from the address in torchvision's enum."""
        file = named(reference).file
        if file is not None:
            fetch_weights(file, reference, on_progress)

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`.

        Raises:
            ModelError: torchvision has no such model, its weights aren't here or are damaged, or
                the card given doesn't fit.
            MissingExtra: torch or torchvision isn't installed.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here.
        """
        on = TorchDevice(options, _NEEDED_FOR)
        choice = named(reference)
        module, origin = _built(choice)
        if choice.kind == "detection":
            categories = choice.told_by.meta["categories"]
            return _detector(module, *named_labels(categories), origin, on, options)
        preset = choice.told_by.transforms()
        card = ModelCard(
            task="classification",
            head="native",
            classes=tuple(choice.told_by.meta["categories"]),
            input=preset_card(preset),
            activation="softmax",
            license=choice.file.license if choice.file else None,
        )
        return _classifier(module, card, preset_transform(preset), origin, on, options)


def build_trained(
    record: TrainedModel,
    state: "Mapping[str, torch.Tensor]",
    options: LoadOptions,
    folder: Path,
) -> LoadedModel:
    """A model that was trained here, of family `torchvision`.

    `record.arguments` go to torchvision's builder as they are. Detectors' label 0 is the
    background, and class c is label c + 1, of every architecture; those that take any size get
    `record.image_size` unless the arguments say sizes. Classifiers get the whole image, stretched.

    Args:
        record: what it is.
        state: its weights, on the processor.
        options: as for `Runtime.load`.
        folder: where it lies, for messages.

    Raises:
        ModelError: record and weights don't fit each other or torchvision.
        MissingExtra: torch or torchvision isn't installed.
        SpecError: the device's name is wrong.
        Unavailable: the device isn't here.
    """
    on = TorchDevice(options, _NEEDED_FOR)
    require_torchvision()
    # Only whether torchvision has it, and of what kind; its weights are the record's.
    choice = named(f"torchvision:{record.name}")
    if choice.kind != record.task:
        raise ModelError(
            f"The trained model in {folder} says it does {record.task}, and torchvision's "
            f"{record.name} does {choice.kind}; its record is damaged: train it again."
        )
    origin = _Origin(str(folder), card_source="training record")
    if choice.kind == "detection":
        return _trained_detector(record, state, origin, on, options)
    return _trained_classifier(record, state, origin, on, options)


def pretrained_state(reference: str) -> "dict[str, torch.Tensor]":
    """The published weights of a model by the names of its module, to train on from.

    Raises:
        MissingExtra, ModelError: as `TorchvisionRuntime.load`.
    """
    file = named(reference).file
    if file is None:
        raise ModelError(f"{reference} has random weights; name published ones to begin with.")
    path = find_weights(file, reference)
    verify(file, reference)
    return read_state(path, reference)


def _trained_classifier(
    record: TrainedModel,
    state: "Mapping[str, torch.Tensor]",
    origin: _Origin,
    on: TorchDevice,
    options: LoadOptions,
) -> LoadedModel:
    count = len(record.classes)
    arguments = {"num_classes": count, **record.arguments}
    if arguments["num_classes"] != count:
        raise ModelError(
            f"The trained model in {origin.reference} was built for {arguments['num_classes']} "
            f"classes and names {count}; train it again."
        )
    layers = record.pruned.layers if record.pruned else ()
    module = build(record.name, "classification", state=state, arguments=arguments, layers=layers)
    card = ModelCard(
        task="classification",
        head="native",
        classes=record.classes,
        input=image_level_input(record.image_size),
        activation="sigmoid" if record.level == "image" else "softmax",
        license=record.license,
    )
    return _classifier(module, card, card_transform(card.input), origin, on, options)


def _trained_detector(
    record: TrainedModel,
    state: "Mapping[str, torch.Tensor]",
    origin: _Origin,
    on: TorchDevice,
    options: LoadOptions,
) -> LoadedModel:
    count = len(record.classes)
    arguments: dict[str, Any] = {"num_classes": count + 1, **record.arguments}
    if arguments["num_classes"] != count + 1:
        raise ModelError(
            f"The trained model in {origin.reference} was built for {arguments['num_classes']} "
            f"labels; its {count} classes and the background need {count + 1}: train it again."
        )
    if not record.name.startswith("ssd"):
        # SSD's sizes are its architecture's.
        arguments = {"min_size": record.image_size, "max_size": record.image_size, **arguments}
    layers = record.pruned.layers if record.pruned else ()
    module = build(record.name, "detection", state=state, arguments=arguments, layers=layers)
    label_to_class = np.arange(-1, count, dtype=np.int64)
    return _detector(module, record.classes, label_to_class, origin, on, options)


def _built(choice: TorchvisionName) -> "tuple[nn.Module, _Origin]":
    file = choice.file
    if file is None:
        module = build(choice.name, choice.kind)
        digest = f"sha256:{identity(from_tensors(module.state_dict(), copy=False))}"
        note = (
            f"Random weights (seed {SEED}): {choice.name} was asked for with '@none'; its answers "
            "have no meaning."
        )
        return module, _Origin(choice.reference, digest=digest, notes=(note,))
    path = find_weights(file, choice.reference)
    digest = verify(file, choice.reference)
    state = read_state(path, choice.reference)
    module = build(choice.name, choice.kind, choice.weights, state)
    notes = (f"Licence of the weights: {file.license}.",) if file.license else ()
    size_bytes = path.stat().st_size
    return module, _Origin(
        choice.reference, digest=digest, file_bytes=size_bytes, files=(path,), notes=notes
    )


def _detector(
    module: "nn.Module",
    classes: tuple[str, ...],
    label_to_class: IntArray,
    origin: _Origin,
    on: TorchDevice,
    options: LoadOptions,
) -> LoadedModel:
    own = ModelCard(
        task="detection",
        head="native",
        classes=classes,
        input=input_card(module),
        detection=detection_card(module),
    )
    if is_two_stage(module):
        origin = replace(origin, notes=(*origin.notes, PROPOSALS_NOTE))
        settable = _THRESHOLDS
    else:
        settable = _THRESHOLDS | {"max_candidates"}
    description = _description(module, own, settable, origin, on, options)
    model = TorchvisionDetector(description, module, on, label_to_class)
    model.files = origin.files
    return model


def _classifier(
    module: "nn.Module",
    own: ModelCard,
    transform: Transform,
    origin: _Origin,
    on: TorchDevice,
    options: LoadOptions,
) -> LoadedModel:
    description = _description(module, own, frozenset(), origin, on, options)
    model = LogitClassifier(description, module, on, transform)
    model.files = origin.files
    return model


def _description(
    module: "nn.Module",
    own: ModelCard,
    thresholds: frozenset[str],
    origin: _Origin,
    on: TorchDevice,
    options: LoadOptions,
) -> ModelDescription:
    import torchvision

    in_use = card_in_use(
        own, options.card, origin.reference, source=origin.card_source, thresholds=thresholds
    )
    library = f"torchvision {torchvision.__version__}"
    description = described(module, on, origin.reference, library, in_use, origin.notes)
    return replace(description, digest=origin.digest, file_bytes=origin.file_bytes)
