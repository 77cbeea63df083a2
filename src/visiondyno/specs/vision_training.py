"""The input of `train` for detectors and image-level classifiers of a library of models."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from visiondyno.specs.operations import OperationInput
from visiondyno.specs.training import Name, Seed
from visiondyno.specs.training_operations import ModelState

Reference = Annotated[str, Field(min_length=1, max_length=4096)]

MAX_ARGUMENT_TEXT = 10_000
"""Characters of `arguments` as JSON."""


class TrainVisionInput(OperationInput):
    """Train a detector, or a classifier at image level, by its library's own trainer.

    Attributes:
        model: `LIBRARY:NAME`, such as `ultralytics:yolov8n`, `torchvision:retinanet_resnet50_fpn`
            or, with `level: image`, `torchvision:efficientnet_b0`.
        data: dataset reference; labelled with boxes.
        validation_data: what each epoch is scored on; never trained on.
        validation_share: without `validation_data`: this share of `data` is held back for it.
        epochs: how many.
        image_size: side that images are brought to, pixels.
        batch_size, learning_rate: the trainer's own if None.
        seed: of weights, order, augmentation and of what is held back.
        device: `auto` is the first GPU where there is one, else the processor.
        threads: of torch on the processor; its own default if None.
        level: `image`: a classifier learns which classes are in an image.
        classes: learn these of the data only, in this order; all if None.
        pretrained: begin with the library's published weights; they are downloaded first.
        model_state: begin with these weights; excludes `pretrained`.
        model_state_format: how they are encoded; None: safetensors, packed or not.
        arguments: more settings of the library's trainer, by its names.
        max_images: of the training data, the first so many.
        skip_bad: leave bad images out and tell how many, instead of stopping.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    operation: Literal["train"] = "train"
    model: Reference
    data: Reference
    validation_data: Reference | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    epochs: Annotated[int, Field(ge=1, le=50_000)] = 1
    image_size: Annotated[int, Field(ge=32, le=4096)] = 640
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    seed: Seed = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    level: Literal["image"] | None = None
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)] | None = None
    pretrained: bool = False
    model_state: ModelState | None = None
    model_state_format: Name | None = None
    arguments: Annotated[dict[Name, Any], Field(default_factory=dict)]
    max_images: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    skip_bad: bool = False

    @field_validator("classes")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = next((name for name in names or () if (names or ()).count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is named twice; name each class once")
        return names

    @field_validator("arguments")
    @classmethod
    def _are_plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if len(repr(arguments)) > MAX_ARGUMENT_TEXT:
            raise ValueError("there is too much in it; settings are a few numbers and names")
        for name, value in arguments.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"'{name}' is {value}; give a finite number")
        return arguments

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.validation_data is not None and self.validation_share is not None:
            raise ValueError("'validation_share' is of 'data': leave it or 'validation_data' out")
        if self.pretrained and self.model_state is not None:
            raise ValueError("'pretrained' and 'model_state' both say what to begin with; give one")
        return self
