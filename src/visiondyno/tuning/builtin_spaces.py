"""Spaces that need no file, and the trainings that their parameters describe."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from visiondyno.specs.training import CnnConfig
from visiondyno.specs.tuning import ParameterSpec, SpaceSpec
from visiondyno.tuning.data_parts import ImageShape
from visiondyno.tuning.trial import Json

_SGD_MOMENTUM = 0.9

ARCHITECTURE = tuple(
    name for name in CnnConfig.model_fields if name not in ("type", "image_shape", "classes")
)
"""Parameters that describe the model: fields of `CnnConfig`."""


class Recipe(BaseModel):
    """Settings of a training that are one parameter and several hyperparameters.

    Attributes:
        schedule: of the learning rate: up and down again within the training, by batches
            (`one_cycle`, up to `learning_rate`); a half cosine, by epochs; or none.
        label_smoothing: of the cross entropy, in training and in validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["one_cycle", "cosine", "none"] = "one_cycle"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


RECIPE = tuple(Recipe.model_fields)


def builtin_space(mode: Literal["simple", "thorough"], shape: ImageShape) -> SpaceSpec:
    """What `--mode` searches.

    Args:
        mode: `simple` has seven parameters and is enough for small images; `thorough` has sixteen.
        shape: blocks that would only see a single pixel aren't tried.
    """
    most = max(1, min(shape.height, shape.width).bit_length() - 1)
    parameters = _simple(min(3, most)) if mode == "simple" else _thorough(min(4, most))
    return SpaceSpec(parameters={name: ParameterSpec(**one) for name, one in parameters.items()})


def _simple(most_blocks: int) -> dict[str, Json]:
    return {
        "blocks": {"low": 1, "high": most_blocks},
        "width": {"low": 8, "high": 64, "log": True},
        "kernel": {"choices": (3, 5)},
        "dropout": {"low": 0.0, "high": 0.5},
        "optimizer": {"choices": ("adam", "adamw", "sgd")},
        "learning_rate": {"low": 2e-3, "high": 3e-2, "log": True},
        "batch_size": {"choices": (32, 64, 128)},
    }


def _thorough(most_blocks: int) -> dict[str, Json]:
    return {
        "blocks": {"low": 1, "high": most_blocks},
        "convolutions": {"low": 1, "high": 2},
        "width": {"low": 8, "high": 96, "log": True},
        "kernel": {"choices": (3, 5)},
        "batch_norm": {"choices": (True, False)},
        "activation": {"choices": ("relu", "leaky_relu", "silu", "gelu")},
        "dropout": {"low": 0.0, "high": 0.6},
        "hidden": {"choices": (0, 64, 128, 256)},
        "optimizer": {"choices": ("adam", "adamw", "sgd")},
        "momentum": {"low": 0.8, "high": 0.98, "when": {"optimizer": "sgd"}},
        "learning_rate": {"low": 3e-4, "high": 5e-2, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "batch_size": {"choices": (32, 64, 128, 256)},
        "schedule": {"choices": ("one_cycle", "cosine", "none")},
        "label_smoothing": {"low": 0.0, "high": 0.2},
        "gradient_clip_norm": {"choices": (None, 1.0, 5.0)},
    }


def training_fields(params: Mapping[str, Any], shape: ImageShape, epochs: int) -> Json:
    """`model_config` and `hyperparameters` of a training.

    SGD has a momentum of 0.9 where `params` give none. Other hyperparameters that aren't in
    `params` are those of every training.

    Args:
        params: those of `ARCHITECTURE` and `RECIPE`, and fields of `Hyperparameters`.
        shape: of the images.
        epochs: of the training; a cosine ends with the last one.
    """
    recipe = Recipe(**{name: value for name, value in params.items() if name in RECIPE})
    architecture = {name: value for name, value in params.items() if name in ARCHITECTURE}
    hyper = {name: v for name, v in params.items() if name not in (*RECIPE, *ARCHITECTURE)}
    if str(hyper.get("optimizer", "")).lower() == "sgd":
        hyper.setdefault("momentum", _SGD_MOMENTUM)
    if recipe.label_smoothing:
        hyper["loss_arguments"] = {"label_smoothing": recipe.label_smoothing}
    if "scheduler" not in hyper:
        hyper |= _schedule(recipe, hyper.get("learning_rate"), epochs)
    config = {
        "type": "cnn",
        "image_shape": [shape.channels, shape.height, shape.width],
        "classes": shape.classes,
        **architecture,
    }
    hyper = {name: value for name, value in hyper.items() if value is not None}
    return {"model_config": config, "hyperparameters": hyper}


def _schedule(recipe: Recipe, learning_rate: float | None, epochs: int) -> Json:
    if recipe.schedule == "cosine":
        return {"scheduler": "cosine_annealing", "scheduler_arguments": {"T_max": epochs}}
    if recipe.schedule == "none" or learning_rate is None:
        return {}
    arguments = {"max_lr": learning_rate, "cycle_momentum": False}
    return {"scheduler": "one_cycle", "scheduler_arguments": arguments}
