"""What `torchvision:NAME[@WEIGHTS]` names: an architecture, its weights, and how they are built."""

import difflib
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.pytorch.module import reason
from visiondyno.runtimes.weights import WeightsFile
from visiondyno.specs.trained_model import LayerSize
from visiondyno.state.layer_sizes import resize

if TYPE_CHECKING:
    import torch
    from torch import nn

PREFIX = "torchvision:"
RANDOM = "none"
SEED = 0

Kind = Literal["detection", "classification"]

_OTHER_KINDS = {
    "torchvision.models.segmentation": "semantic segmentation",
    "torchvision.models.quantization": "quantised for PyTorch's own int8 kernels",
    "torchvision.models.video": "classification of videos",
    "torchvision.models.optical_flow": "optical flow",
    "torchvision.models.detection.mask_rcnn": "instance segmentation",
    "torchvision.models.detection.keypoint_rcnn": "keypoint detection",
}
_DETECTION = "torchvision.models.detection"
_DOWNLOADING = ("weights", "pretrained")
_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")
_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class TorchvisionName:
    """An architecture of torchvision with weights of its enum, or with none.

    Attributes:
        reference: as the user gave it.
        name: of the builder.
        kind: what the model does.
        weights: the member of the architecture's `WeightsEnum`; None for fresh random ones.
        told_by: the member that tells classes and transforms: `weights`, or the default where they
            are None.
    """

    reference: str
    name: str
    kind: Kind
    weights: Any | None
    told_by: Any

    @property
    def file(self) -> WeightsFile | None:
        """Of the weights; None of random ones."""
        if self.weights is None:
            return None
        url = str(self.weights.url)
        name = url.rsplit("/", 1)[-1]
        digits = _DIGITS_IN_NAME.search(name)
        meta = self.weights.meta
        return WeightsFile(url, name, digits[1] if digits else None, meta.get("license"))


def require_torchvision() -> None:
    """Raise `MissingExtra` unless torchvision can be imported."""
    try:
        import torchvision  # noqa: F401 - only whether it is here
    except (ImportError, RuntimeError) as error:
        # RuntimeError: built for another torch ("operator torchvision::nms does not exist").
        raise MissingExtra("torch", "A model of torchvision") from error


def named(reference: str) -> TorchvisionName:
    """What `reference` names.

    Raises:
        MissingExtra: torchvision isn't installed.
        ModelError: torchvision has no such model or weights, or its kind can't be run here.
    """
    require_torchvision()
    from torchvision.models import get_model_weights

    name, at, weights_name = reference.removeprefix(PREFIX).partition("@")
    name = name.strip().lower()
    kind = _kind(reference, name)
    members = get_model_weights(name).__members__
    if at and weights_name.strip().lower() == RANDOM:
        return TorchvisionName(reference, name, kind, None, members["DEFAULT"])
    weights = members.get(weights_name.strip().upper() if at else "DEFAULT")
    if weights is None:
        known = ", ".join([*members, RANDOM])
        raise ModelError(
            f"torchvision has no weights '{weights_name}' of {name} ({reference}); there are: "
            f"{known}."
        )
    return TorchvisionName(reference, name, kind, weights, weights)


def build(
    name: str,
    kind: Kind,
    weights: Any | None = None,
    state: "Mapping[str, torch.Tensor] | None" = None,
    arguments: Mapping[str, Any] | None = None,
    layers: Iterable[LayerSize] = (),
) -> "nn.Module":
    """The architecture `name` by torchvision's own builder, in evaluation mode on the processor.

    The builder sets up more than the weights (frozen norms and their epsilon, the input's scaling,
    the number of classes): it is called as its own users call it, and given `state` in place of a
    download. Random weights are those of seed 0; torch's generator is left as it was.

    Args:
        name: of the builder.
        kind: what it does.
        weights: a member of its enum, with `state` its content; None for random ones.
        state: with `weights` None too, loaded into the module that was built.
        arguments: more of the builder's.
        layers: that are narrower than the builder makes them.

    Raises:
        ModelError: `state` or `arguments` don't fit the architecture, or would download.
    """
    import torch
    from torchvision.models import get_model

    arguments = dict(arguments or {})
    downloading = next((one for one in arguments if one.startswith(_DOWNLOADING)), None)
    if downloading is not None:
        raise ModelError(
            f"torchvision's {name} takes no '{downloading}' here: it would download weights, and "
            "the model has its own."
        )
    if kind == "detection":
        # By default a backbone's weights are downloaded, to be replaced at once.
        arguments["weights_backbone"] = None
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _given(weights, state):
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(SEED)
            module: nn.Module = get_model(name, weights=weights, **arguments)
        resize(module, layers, f"torchvision:{name}")
        if weights is None and state is not None:
            module.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ModelError(f"torchvision can't build {name}: {reason(error)}") from error
    return module.eval().requires_grad_(False)


def read_state(path: Path, reference: str) -> "dict[str, torch.Tensor]":
    """The state dict in a file of torchvision's; nothing but tensors is unpickled.

    Raises:
        ModelError: it isn't one.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged archives, refused pickles and old formats each raise something else.
        raise ModelError(
            f"The weights of {reference} in {path} can't be read: {reason(error)}. Delete the file "
            f"and fetch it again with: dyno models pull {reference}"
        ) from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ModelError(f"The weights of {reference} in {path} aren't a state dict of tensors.")
    return state


@contextmanager
def _given(weights: Any | None, state: "Mapping[str, torch.Tensor] | None") -> Iterator[None]:
    """Inside, the enum's member answers `state` where it would download."""
    if weights is None:
        yield
        return
    with _BUILDING:
        weights.get_state_dict = lambda *_, **__: state
        try:
            yield
        finally:
            del weights.get_state_dict


def _kind(reference: str, name: str) -> Kind:
    from torchvision.models import get_model_builder, list_models

    try:
        module = get_model_builder(name).__module__
    except ValueError:
        near = difflib.get_close_matches(name, list_models(), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision's list of models."
        raise ModelError(f"torchvision has no model '{name}' ({reference}); {hint}") from None
    other = next((kind for start, kind in _OTHER_KINDS.items() if module.startswith(start)), None)
    if other is not None:
        raise ModelError(
            f"{reference} is a model for another task ({other}); VisionDyno runs torchvision's "
            "detectors and image classifiers."
        )
    return "detection" if module.startswith(_DETECTION) else "classification"
