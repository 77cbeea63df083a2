"""The timm runtime: classifiers of PyTorch Image Models, prepared by timm's own transforms."""

import difflib
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import MissingExtra, ModelError, VisionDynoError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.native_card import card_in_use
from visiondyno.runtimes.pytorch import hub
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.logit_classifier import (
    LogitClassifier,
    Transform,
    card_transform,
)
from visiondyno.runtimes.pytorch.module import described, reason
from visiondyno.runtimes.pytorch.timm_transforms import config_of, own_transform
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.weights import missing
from visiondyno.specs.model_card import InputCard, ModelCard
from visiondyno.specs.trained_model import TrainedModel
from visiondyno.state import from_module, identity
from visiondyno.state.layer_sizes import resize
from visiondyno.vision.image_level_input import image_level_input
from visiondyno.whole_file import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

_RANDOM = "none"
_READING = ("checkpoint", "pretrained", "cache_dir")
_SEED = 0
_WEIGHTS = "model.safetensors"
_OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True, slots=True)
class _Named:
    """A model of timm as a reference names it.

    Attributes:
        reference: as the user gave it.
        name: with its tag, where one was given.
        is_random: fresh weights instead of pretrained ones.
    """

    reference: str
    name: str
    is_random: bool


class TimmRuntime(Runtime):
    """Loads `timm:NAME[.TAG]` and `timm:NAME@none`.

    Weights are the safetensors that timm publishes on the hub, in the hub's own cache.
    """

    name = "timm"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:
        """See `Runtime.fetch`."""
        named = _named(reference)
        if named.is_random:
            return
        weights = _published(named)
        try:
            _weights_file(weights)
        except ModelError:
            hub.fetch(weights, weights.patterns[0], on_progress)

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`."""
        named = _named(reference)
        on = TorchDevice(options, f"'{reference}'")
        weights = None if named.is_random else _weights_file(_published(named))
        module = _made(named, weights)
        if not getattr(module, "num_classes", 0):
            raise ModelError(
                f"{reference} has no classifier: it gives features only. Take a model whose tag "
                "names what it was trained to tell apart, such as a …_in1k one."
            )
        card, unnamed = _card_of(module)
        notes = [unnamed] if unnamed else []
        if named.is_random:
            notes.insert(0, "Random weights (seed 0), nothing was learned: for timing only.")
            # Timm tells that of the weights which it publishes.
            card = card.model_copy(update={"license": None})
        if card.license:
            notes.append(f"Its weights are under {card.license}.")
        model = _loaded(module, card, own_transform(module), on, reference, options)
        digest = file_sha256(weights) if weights else identity(from_module(module))
        model.description = replace(
            model.description,
            file_bytes=weights.stat().st_size if weights else 0,
            digest=f"sha256:{digest}",
            notes=(*notes, *on.notes),
        )
        model.files = (weights,) if weights else ()
        return model


def build_trained(
    record: TrainedModel,
    state: "Mapping[str, torch.Tensor]",
    options: LoadOptions,
    folder: Path,
) -> LoadedModel:
    """The model of a training's record and weights.

    Raises:
        ModelError: this timm has no such architecture, or the weights don't fit it.
    """
    reference = str(folder)
    timm = _library(reference)
    on = TorchDevice(options, f"'{reference}'")
    arguments = {"num_classes": len(record.classes), **record.arguments}
    check_arguments(arguments, record.name)
    with _reading(reference), hub.no_connections():
        _require_known(timm, record.name, reference)
        module = timm.create_model(record.name, pretrained=False, **arguments)
        if record.pruned:
            resize(module, record.pruned.layers, reference)
        module.load_state_dict(dict(state))
        module.eval()
    if record.level == "image":
        shown = image_level_input(record.image_size)
        transform = card_transform(shown)
    else:
        size = (3, record.image_size, record.image_size)
        transform, shown = own_transform(module, size), _input_of(module, size)
    card = ModelCard(
        task="classification",
        head="native",
        classes=record.classes,
        input=shown,
        activation="sigmoid" if record.level == "image" else "softmax",
        license=record.license,
    )
    return _loaded(module, card, transform, on, reference, options)


def check_arguments(arguments: Mapping[str, Any], name: str) -> None:
    """Refuse what has `timm.create_model` read files of its own, or download.

    Raises:
        ModelError: names what it was.
    """
    reading = next((one for one in arguments if one.startswith(_READING)), None)
    if reading is not None:
        raise ModelError(
            f"timm's {name} takes no '{reading}' here: it would read weights from elsewhere, and "
            "the model has its own."
        )


def pretrained_state(reference: str) -> "dict[str, torch.Tensor]":
    """The published weights of a model by the names of its module, to train on from.

    Raises:
        MissingExtra, ModelError: as `TimmRuntime.load`.
    """
    named = _named(reference)
    module = _made(named, _weights_file(_published(named)))
    return dict(module.state_dict())


def _named(reference: str) -> _Named:
    """Raises `ModelError` for what can't be a name of timm."""
    resolved = resolve_reference(reference)
    name, _, weights = resolved.name.partition("@")
    if resolved.path is not None or not name or weights not in ("", _RANDOM):
        raise ModelError(
            f"'{reference}' names no model of timm; write timm:NAME, timm:NAME.TAG, or "
            "timm:NAME@none for random weights."
        )
    return _Named(reference, name, weights == _RANDOM)


def _library(reference: str) -> Any:
    try:
        import timm
        import timm.data
        import timm.models
    except ImportError as error:
        raise MissingExtra("timm", f"'{reference}'") from error
    return timm


def _require_known(timm: Any, name: str, reference: str) -> None:
    architecture = name.partition(".")[0]
    if timm.is_model(architecture):
        return
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()."
    raise ModelError(f"timm {timm.__version__} has no model '{name}' ({reference}); {hint}")


def _published(named: _Named) -> hub.Repository:
    """Where the weights are.

    Raises:
        ModelError: there is no such model or tag, or it has no weights on the hub.
    """
    timm = _library(named.reference)
    _require_known(timm, named.name, named.reference)
    try:
        config = timm.models.get_pretrained_cfg(named.name)
    except RuntimeError as error:
        architecture = named.name.partition(".")[0]
        known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ModelError(
            f"timm {timm.__version__} has no weights '{named.name}'; there are: {known}."
        ) from error
    if config is None or not config.hf_hub_id:
        raise ModelError(
            f"timm publishes no weights of {named.name} on the hub; use {named.reference}@none for "
            "random ones."
        )
    special = "open_clip" in (config.hf_hub_filename or "")
    file = _OPEN_CLIP_WEIGHTS if special else _WEIGHTS
    return hub.repository(config.hf_hub_id, named.reference, (file,), "timm")


def _weights_file(weights: hub.Repository) -> Path:
    file = hub.find(weights) / weights.patterns[0]
    if not file.is_file():
        raise missing(weights.reference)
    return file


def _made(named: _Named, weights: Path | None) -> "nn.Module":
    """The module in evaluation mode, by timm's own loading of a local file."""
    import torch

    timm = _library(named.reference)
    _require_known(timm, named.name, named.reference)
    overlay = {"file": str(weights)} if weights else {}
    with _reading(named.reference), hub.no_connections(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module: nn.Module = timm.create_model(
            named.name, pretrained=weights is not None, pretrained_cfg_overlay=overlay
        )
    return module.eval()


@contextmanager
def _reading(reference: str) -> "Iterator[None]":
    try:
        yield
    except VisionDynoError:
        raise
    except Exception as error:
        # safetensors, torch and the architectures each raise errors of their own.
        raise ModelError(f"{reference} can't be made: {reason(error)}") from error


def _loaded(
    module: "nn.Module",
    card: ModelCard,
    transform: Transform,
    on: TorchDevice,
    reference: str,
    options: LoadOptions,
) -> LogitClassifier:
    import timm

    in_use = card_in_use(card, options.card, reference)
    description = described(module, on, reference, f"timm {timm.__version__}", in_use)
    return LogitClassifier(description, module, on, transform)


def _card_of(module: Any) -> tuple[ModelCard, str | None]:
    """The card, and a note where the classes have no names."""
    classes, note = _classes(module)
    card = ModelCard(
        task="classification",
        head="native",
        classes=classes,
        input=_input_of(module),
        activation="softmax",
        license=module.pretrained_cfg.get("license"),
    )
    return card, note


def _classes(module: Any) -> tuple[tuple[str, ...], str | None]:
    """Names by the weights themselves, else of the ImageNet subset with as many classes."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config, count = module.pretrained_cfg, module.num_classes
    names = config.get("label_names")
    if isinstance(names, list | tuple) and len(names) == count:
        described = config.get("label_descriptions") or {}
        return tuple(str(described.get(name, name)) for name in names), None
    subset = infer_imagenet_subset(module)
    if subset is None:
        unnamed = f"{count} unnamed classes: called 'class 0' to 'class {count - 1}'."
        return tuple(f"class {index}" for index in range(count)), unnamed
    info = ImageNetInfo(subset)
    words = info.label_descriptions()
    times = Counter(words)
    # There are two kinds of crane, for one: their WordNet numbers tell them apart.
    named = zip(words, info.label_names(), strict=True)
    return tuple(f"{one} ({number})" if times[one] > 1 else one for one, number in named), None


def _input_of(module: Any, size: tuple[int, int, int] | None = None) -> InputCard:
    config = config_of(module, size)
    _, height, width = config["input_size"]
    return InputCard(
        height=height,
        width=width,
        resize="shortest_side_crop",
        interpolation="linear" if config["interpolation"] == "bilinear" else "cubic",
        crop_from=max(int(max(height, width) / config["crop_pct"]), height, width),
        mean=config["mean"],
        std=config["std"],
    )
