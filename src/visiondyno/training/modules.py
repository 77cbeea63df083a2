"""`model_config` → a torch module with fresh weights; nothing is ever downloaded."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from visiondyno.errors import MissingExtra, SpecError
from visiondyno.specs.training import (
    CnnConfig,
    ExportedConfig,
    KerasConfig,
    ModelConfig,
    SequentialConfig,
    TimmConfig,
    TorchvisionConfig,
    TransformersConfig,
)
from visiondyno.training.arguments import one_line
from visiondyno.training.cnn import layers_of
from visiondyno.training.exported import load_exported, read_program
from visiondyno.training.keras_models import build_keras
from visiondyno.training.layers import build_sequential
from visiondyno.training.names import find_by_name, suggestion
from visiondyno.training.offline import offline
from visiondyno.training.transformers_config import NOT_TAKEN, check_settings

if TYPE_CHECKING:
    from torch import nn

MAX_WEIGHT_BYTES = 16_000_000_000

# What would fetch weights, or decides where they live: the worker's business.
_REFUSED = {
    "weights": "give 'model_state' to begin with weights of your own",
    "weights_backbone": "give 'model_state' to begin with weights of your own",
    "pretrained": "give 'model_state' to begin with weights of your own",
    "pretrained_backbone": "give 'model_state' to begin with weights of your own",
    "checkpoint_path": "give 'model_state' to begin with weights of your own",
    "pretrained_cfg": "give 'model_state' to begin with weights of your own",
    "pretrained_cfg_overlay": "give 'model_state' to begin with weights of your own",
    "cache_dir": "nothing is downloaded",
}


def build_module(
    config: ModelConfig,
    *,
    seed: int = 0,
    open_blob: Callable[[str], bytes] | None = None,
    max_bytes: int = MAX_WEIGHT_BYTES,
) -> "nn.Module":
    """The module on the processor, in training mode.

    Its weights are those that torch gives it after `torch.manual_seed(seed)` (a model of Keras:
    those that Keras gives it by `seed`); the process's own random state is left as it was.

    Args:
        config: which module.
        seed: of the initial weights.
        open_blob: reads the blob of this name (`sha256:…`), for exported programs.
        max_bytes: of the weights; more is refused before any is allocated, where that can be known.

    Raises:
        SpecError: an unknown layer, model or argument; the message says which, and what there is.
        MissingExtra: torch, timm, transformers or Keras isn't installed.
        Unavailable: this process has loaded Keras with another backend than torch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "Training") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config, seed, open_blob, max_bytes).train()


def _build(
    config: ModelConfig, seed: int, open_blob: Callable[[str], bytes] | None, max_bytes: int
) -> "nn.Module":
    if isinstance(config, CnnConfig):
        config = layers_of(config)
    if isinstance(config, SequentialConfig):
        return build_sequential(config, max_bytes=max_bytes)
    if isinstance(config, ExportedConfig):
        return load_exported(read_program(config.program, open_blob))
    if isinstance(config, KerasConfig):
        return build_keras(config, seed=seed, max_bytes=max_bytes)
    place = f"'model_config.arguments' of {config.name}"
    for name, hint in _REFUSED.items():
        if name in config.arguments:
            raise SpecError(f"{place}: '{name}' can't be given; {hint}.")
    if isinstance(config, TorchvisionConfig):
        return _torchvision(config, place)
    if isinstance(config, TimmConfig):
        return _timm(config, place)
    return _transformers(config, place)


def _torchvision(config: TorchvisionConfig, place: str) -> "nn.Module":
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtra("torch", "A model of torchvision") from error
    builders = {name: models.get_model_builder(name) for name in models.list_models()}
    builder = find_by_name(config.name, builders, "'model_config.name'", "model of torchvision")
    # By their own defaults, detectors fetch the weights of their backbone.
    taken = inspect.signature(builder).parameters
    fresh = {name: None for name in ("weights", "weights_backbone") if name in taken}
    return _called(builder, place, **fresh, **config.arguments)


def _timm(config: TimmConfig, place: str) -> "nn.Module":
    try:
        import timm
    except ImportError as error:
        raise MissingExtra("timm", "A model of timm") from error
    if not timm.is_model(config.name):
        hint = suggestion(config.name, timm.list_models())
        raise SpecError(f"'model_config.name': there is no model of timm '{config.name}'. {hint}")
    return _called(
        timm.create_model, place, model_name=config.name, pretrained=False, **config.arguments
    )


def _transformers(config: TransformersConfig, place: str) -> "nn.Module":
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS,
        )
    except ImportError as error:
        raise MissingExtra("transformers", "A model of transformers") from error
    if "/" in config.name:
        raise SpecError(
            f"'model_config.name': '{config.name}' is a repository, and nothing is downloaded; "
            "give a model type such as 'vit'."
        )
    types = {name: name for name in CLASSIFIERS if name not in NOT_TAKEN}
    kind = find_by_name(config.name, types, "'model_config.name'", "image classifier")
    check_settings(config.arguments, AutoConfig.for_model(kind), place)
    settings = _called(AutoConfig.for_model, place, model_type=kind, **config.arguments)
    return _called(AutoModelForImageClassification.from_config, place, config=settings)


def _called(builder: Callable[..., Any], place: str, **arguments: Any) -> Any:
    """`builder(**arguments)`; whatever a library stumbles over is the arguments' fault."""
    try:
        with offline():
            return builder(**arguments)
    except Exception as error:
        raise SpecError(
            f"{place}: the model can't be made of them: {type(error).__name__}: {one_line(error)}."
        ) from error
