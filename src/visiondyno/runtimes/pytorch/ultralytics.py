"""The Ultralytics runtime: detectors and classifiers of YOLOv3u to YOLO26, run by torch.

`PATH.pt`, `ultralytics:PATH.pt`, `ultralytics:yolov8n` (published weights, fetched beforehand), and
`ultralytics:yolov8n.yaml` or an architecture of one's own (fresh weights, for trying out).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from visiondyno.class_names import COCO_80
from visiondyno.errors import ModelError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.ultralytics_checkpoint import read_checkpoint
from visiondyno.runtimes.pytorch.ultralytics_models import Source, loaded
from visiondyno.runtimes.pytorch.ultralytics_names import Task, pretrained_name, weights_file
from visiondyno.runtimes.pytorch.ultralytics_networks import (
    architecture_of_file,
    build_network,
    named_architecture,
    network_of,
    put_state,
    task_of,
)
from visiondyno.runtimes.references import ResolvedReference, resolve_reference
from visiondyno.runtimes.weights import fetch_weights, find_weights, verify
from visiondyno.specs.trained_model import TrainedModel
from visiondyno.state.layer_sizes import resize
from visiondyno.vision.ultralytics_library import import_ultralytics

if TYPE_CHECKING:
    import torch

_ARCHITECTURE = (".yaml", ".yml")
_SIZES: dict[Task, int] = {"detection": 640, "classification": 224}
_RANDOM_NOTE = (
    "RANDOM WEIGHTS: an architecture was named, not weights. Its speed is real; what it finds "
    "means nothing."
)


class UltralyticsRuntime(Runtime):
    """Runs Ultralytics' networks as its own `predict` does: fused, in float32."""

    name = "ultralytics"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:
        """See `Runtime.fetch`; does nothing for files and architectures.

        Raises:
            MissingExtra: ultralytics isn't installed, which says where its weights are.
        """
        resolved = resolve_reference(reference)
        if resolved.path is None and not resolved.name.endswith(_ARCHITECTURE):
            name = pretrained_name(resolved.name, reference)
            import_ultralytics(f"The model {reference}")
            fetch_weights(weights_file(name), reference, on_progress)

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Read the weights or build the architecture, fuse it, and put it on `options.device`.

        Raises:
            MissingExtra: ultralytics or torch isn't installed.
            ModelError: there is no such model, it can't be read, or is of another task; its
                weights aren't here.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here.
        """
        on = TorchDevice(options, f"The model {reference}")
        package = import_ultralytics(f"The model {reference}")
        source = _source(resolve_reference(reference))
        return loaded(source, reference, options, on, str(package.__version__))


def build_trained(
    record: TrainedModel, state: "Mapping[str, torch.Tensor]", options: LoadOptions, folder: Path
) -> LoadedModel:
    """The model that a training left.

    Args:
        record: of family `ultralytics`; `name` is that of an architecture.
        state: its weights.
        options: how to load it.
        folder: of the record, for messages.

    Raises:
        ModelError: the record or the weights don't fit the architecture.
        MissingExtra, SpecError, Unavailable: as `UltralyticsRuntime.load`.
    """
    reference = str(folder)
    on = TorchDevice(options, f"The model {reference}")
    package = import_ultralytics(f"The model {reference}")
    architecture = named_architecture(record.name.removesuffix(".yaml"), reference)
    task = task_of(architecture, reference)
    if task != record.task or record.level is not None:
        raise ModelError(
            f"{reference} says that {record.name} does {record.level or record.task}, and it does "
            f"{task}; train it again."
        )
    network = build_network(architecture, len(record.classes), reference)
    if record.pruned:
        resize(network, record.pruned.layers, reference)
    put_state(network, state, reference)
    size = (record.image_size, record.image_size)
    source = Source(network, task, record.classes, size, "training")
    return loaded(source, reference, options, on, str(package.__version__))


def pretrained_state(reference: str) -> "dict[str, torch.Tensor]":
    """The weights of a `.pt` file or a published name, on the processor, to train on from.

    Raises:
        MissingExtra, ModelError, Unavailable: as `UltralyticsRuntime.load`.
    """
    import_ultralytics(f"The model {reference}")
    path = _weights_path(resolve_reference(reference))
    return {name: tensor.float() for name, tensor in read_checkpoint(path).state.items()}


def _source(resolved: ResolvedReference) -> Source:
    named = resolved.path.name if resolved.path else resolved.name
    if named.endswith(_ARCHITECTURE):
        return _random(resolved)
    path = _weights_path(resolved)
    checkpoint = read_checkpoint(path)
    size = checkpoint.image_size or (_SIZES[checkpoint.task],) * 2
    return Source(
        network_of(checkpoint, resolved.reference),
        checkpoint.task,
        checkpoint.classes,
        size,
        "checkpoint",
        (path,),
        checkpoint.mean,
        checkpoint.std,
    )


def _weights_path(resolved: ResolvedReference) -> Path:
    if resolved.path is not None:
        if not resolved.path.is_file():
            raise ModelError(f"{resolved.path} isn't a file; give a .pt file of Ultralytics.")
        return resolved.path
    if "/" in resolved.name:
        raise ModelError(f"There is no model file {resolved.name}; check the path.")
    file = weights_file(pretrained_name(resolved.name, resolved.reference))
    path = find_weights(file, resolved.reference)
    verify(file, resolved.reference)
    return path


def _random(resolved: ResolvedReference) -> Source:
    if resolved.path is not None:
        architecture = architecture_of_file(resolved.path)
    else:
        architecture = named_architecture(resolved.name.rpartition(".")[0], resolved.reference)
    task = task_of(architecture, resolved.reference)
    network = build_network(architecture, None, resolved.reference)
    count = len(network.names)
    named = count == len(COCO_80) and task == "detection"
    classes = COCO_80 if named else tuple(f"class {index}" for index in range(count))
    size = (_SIZES[task],) * 2
    return Source(network, task, classes, size, "assumed", notes=(_RANDOM_NOTE,))
