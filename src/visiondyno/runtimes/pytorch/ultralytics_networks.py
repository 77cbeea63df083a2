"""Networks of Ultralytics, built from an architecture that is checked first.

Ultralytics builds what an architecture names: any function of one of its modules, an activation
that is a piece of Python. So nothing but layers may be named.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from visiondyno.errors import ModelError
from visiondyno.runtimes.pytorch.module import reason
from visiondyno.runtimes.pytorch.ultralytics_checkpoint import Checkpoint
from visiondyno.runtimes.pytorch.ultralytics_names import (
    OTHER_HEADS,
    Task,
    architecture_file,
    not_covered,
)
from visiondyno.vision.ultralytics_library import quiet, size_of

if TYPE_CHECKING:
    import torch
    from torch import nn

_ACTIVATION = re.compile(r"(?:torch\.)?nn\.([A-Z]\w*)\((?:[\d.]*|inplace=(?:True|False))\)")
_MOST_PARAMETERS = 1_000_000_000
_MOST_LAYERS = 10_000
_DOWNLOADS = frozenset({"TorchVision"})
_HEADS: dict[str, Task] = {
    "Detect": "detection",
    "v10Detect": "detection",
    "Classify": "classification",
}


def named_architecture(name: str, reference: str) -> dict[str, Any]:
    """The package's own architecture of this name, without `.yaml`.

    Raises:
        ModelError: there is none.
    """
    path, size = architecture_file(name, reference)
    return _read(path, size)


def architecture_of_file(path: Path) -> dict[str, Any]:
    """A user's own architecture; the size is taken from the file's name.

    Raises:
        ModelError: the file can't be read or isn't an architecture.
    """
    return _read(path, size_of(path.stem))


def task_of(architecture: Mapping[str, Any], reference: str) -> Task:
    """Check an architecture, whoever wrote it, and tell what it is for.

    Raises:
        ModelError: it isn't an architecture, names what isn't a layer, isn't for colour images, or
            is of a task that isn't covered.
    """
    channels = architecture.get("channels", architecture.get("ch", 3))
    if channels != 3:
        raise ModelError(f"{reference} takes images of {channels} channels; 3 are covered.")
    activation = architecture.get("activation")
    if activation is not None and not _is_activation(activation):
        raise ModelError(
            f"{reference}: its activation '{str(activation)[:60]}' isn't one of torch.nn; write it "
            "as nn.SiLU()."
        )
    layers = _layers(architecture, reference)
    for layer in layers:
        if not _is_layer(layer):
            raise ModelError(
                f"{reference}: '{layer[:60]}' in its architecture isn't a layer that ultralytics "
                "or torch.nn has, or downloads weights of its own."
            )
    last = layers[-1]
    if last in OTHER_HEADS:
        raise not_covered(reference, OTHER_HEADS[last])
    if last not in _HEADS:
        raise ModelError(
            f"{reference} ends in a layer {last}; one that finds or classifies ends in Detect or "
            "Classify."
        )
    return _HEADS[last]


def build_network(
    architecture: Mapping[str, Any], classes: int | None, reference: str
) -> "nn.Module":
    """A network of fresh weights, by seed 0; torch's random numbers go on as if nothing was.

    Args:
        architecture: as in its YAML file; it isn't changed.
        classes: how many; None: as the architecture says.
        reference: for messages.

    Raises:
        ModelError: the architecture may not or can't be built.
    """
    import torch

    task = task_of(architecture, reference)
    with quiet():
        from ultralytics.nn.modules.head import Detect
        from ultralytics.nn.tasks import ClassificationModel, DetectionModel

        make = DetectionModel if task == "detection" else ClassificationModel
        legacy = Detect.legacy
        try:
            with torch.random.fork_rng(devices=[]), _no_giant():
                torch.manual_seed(0)
                network = make(deepcopy(dict(architecture)), ch=3, nc=classes, verbose=False)
        except Exception as error:
            # Layers that don't fit each other raise what comes.
            raise ModelError(
                f"{reference} can't be built: {reason(error)}. Correct its architecture."
            ) from error
        finally:
            # Set on the class while building, for whoever builds next.
            Detect.legacy = legacy
    built: nn.Module = network
    return built


@contextmanager
def _no_giant() -> Iterator[None]:
    """Inside, no module grows beyond all networks that there are, whose memory a machine may lack.

    Weights are counted when they are announced, before any is written and so takes memory.

    Raises:
        ValueError: it has too many.
    """
    from torch.nn.modules import module as modules

    here, total = threading.get_ident(), 0

    def counted(_module: "nn.Module", _name: str, parameter: "nn.Parameter | None") -> None:
        nonlocal total
        if parameter is not None and threading.get_ident() == here:
            total += parameter.numel()
            if total > _MOST_PARAMETERS:
                raise ValueError(f"it has over {_MOST_PARAMETERS:,} weights")

    hook = modules.register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def network_of(checkpoint: Checkpoint, reference: str) -> "nn.Module":
    """The network of a checkpoint, with its weights as float32.

    Raises:
        ModelError: the checkpoint's layers or weights aren't those of its architecture.
    """
    if task_of(checkpoint.architecture, reference) != checkpoint.task:
        raise ModelError(f"{reference}: its network isn't what its architecture says.")
    network = build_network(checkpoint.architecture, len(checkpoint.classes), reference)
    for name, module in network.named_modules():
        kind = checkpoint.layers.get(name)
        # The same layer, renamed since.
        if kind not in (None, type(module).__name__, "Silence"):
            raise ModelError(
                f"{reference}: its layer {name} is a {kind}, where this version of ultralytics "
                f"builds a {type(module).__name__}; export it to ONNX with the version that "
                "trained it."
            )
        for key, value in checkpoint.settings.get(name, {}).items():
            if hasattr(module, key):
                setattr(module, key, value)
    put_state(network, checkpoint.state, reference)
    return network


def put_state(network: "nn.Module", state: "Mapping[str, torch.Tensor]", reference: str) -> None:
    """Copy weights into a network, all of them.

    Raises:
        ModelError: they don't fit.
    """
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights of {reference} don't fit its architecture: {reason(error)}. Export it to "
            "ONNX with the version of ultralytics that trained it."
        ) from error


def _read(path: Path, size: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(
            f"The architecture {path} can't be read as YAML: {reason(error)}"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} isn't an architecture of Ultralytics (a YAML of its layers).")
    if size in (content.get("scales") or {}):
        content["scale"] = size
    return content


def _layers(architecture: Mapping[str, Any], reference: str) -> list[str]:
    try:
        layers = [row[2] for part in ("backbone", "head") for row in architecture[part]]
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{reference} isn't an architecture of Ultralytics: 'backbone' and 'head' must be "
            "lists of [from, repeats, layer, arguments]."
        ) from error
    if _most_layers(architecture) > _MOST_LAYERS:
        raise ModelError(f"{reference} isn't an architecture: it has over {_MOST_LAYERS:,} layers.")
    if not layers or not all(isinstance(layer, str) for layer in layers):
        raise ModelError(f"{reference} isn't an architecture of Ultralytics: a layer has no name.")
    return layers


def _most_layers(architecture: Mapping[str, Any]) -> float:
    """Of its largest size; what isn't a number fails when it is built."""
    scales = architecture.get("scales")
    sizes = scales.values() if isinstance(scales, dict) else ()
    depths = [
        architecture.get("depth_multiple"),
        *(size[0] for size in sizes if isinstance(size, list) and size),
    ]
    deepest = max([1.0, *(depth for depth in depths if isinstance(depth, int | float))])
    rows = [row for part in ("backbone", "head") for row in architecture[part]]
    return sum(max(row[1] * deepest, 1) for row in rows if isinstance(row[1], int | float))


def _is_activation(activation: Any) -> bool:
    from torch import nn

    match = _ACTIVATION.fullmatch(activation) if isinstance(activation, str) else None
    return match is not None and _is_module(getattr(nn, match[1], None))


def _is_layer(layer: str) -> bool:
    import ultralytics.nn.modules
    from torch import nn
    from ultralytics.nn import tasks

    if layer.startswith("nn."):
        return _is_module(getattr(nn, layer[3:], None))
    found = getattr(tasks, layer, None)
    is_own = _is_module(found) and found.__module__.startswith(ultralytics.nn.modules.__name__)
    return is_own and layer not in _DOWNLOADS


def _is_module(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)
