"""What a training leaves behind: a folder that is a model reference.

    FOLDER/visiondyno-model.json   a `TrainedModel`
    FOLDER/weights.safetensors     the weights of the best epoch

Nothing in it is ever unpickled.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

RECORD = "visiondyno-model.json"
WEIGHTS = "weights.safetensors"

MAX_LAYERS = 10_000
"""That a record lists as pruned; the largest networks have some thousand layers."""

Family = Literal["ultralytics", "torchvision", "timm", "transformers"]


class TrainedOn(BaseModel):
    """The data that a model learned from.

    Attributes:
        reference: as the user gave it.
        digest: `sha256:…` of images and labels (`Dataset.digest`); how a model is found again for
            the same data, wherever they lie.
        images: how many.
        validation_reference, validation_digest: of what the metrics were measured on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    digest: str
    images: int
    validation_reference: str | None = None
    validation_digest: str | None = None


Width = Annotated[int, Field(ge=1, le=65_536)]


class LayerSize(BaseModel):
    """A layer that is narrower than its architecture makes it.

    Attributes:
        name: of the layer in the network, as in `named_modules`.
        inputs, outputs: channels, or features; of a norm both are what it normalises.
        groups: of a convolution; 1 of others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=300)]
    inputs: Width
    outputs: Width
    groups: Width = 1


class PrunedNetwork(BaseModel):
    """What was removed from a network: with it, the architecture is made as narrow again.

    Attributes:
        ratio: share of each layer's channels that was asked to be removed, the last time.
        importance: by what channels were chosen.
        source_weights_sha256: of the weights that were pruned; None: of a library's.
        parameters_before, parameters_after: of the network, that time.
        epochs_after: how many what was left was trained for; None: the record doesn't say.
        layers: all that differ from the architecture's, whichever time they were pruned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: Annotated[float, Field(gt=0, lt=1)]
    importance: Literal["magnitude", "random"]
    source_weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    parameters_before: Annotated[int, Field(ge=1)]
    parameters_after: Annotated[int, Field(ge=1)]
    epochs_after: Annotated[int, Field(ge=0)] | None = None
    layers: Annotated[tuple[LayerSize, ...], Field(min_length=1, max_length=MAX_LAYERS)]

    @field_validator("layers")
    @classmethod
    def _each_once(cls, layers: tuple[LayerSize, ...]) -> tuple[LayerSize, ...]:
        if len({layer.name for layer in layers}) < len(layers):
            raise ValueError("a layer is listed twice")
        return layers


class TrainedModel(BaseModel):
    """A trained model: how it is built again, and how it came to be.

    Attributes:
        family: the library that the architecture is from.
        name: of the architecture there, such as `yolov8n` or `fasterrcnn_resnet50_fpn_v2`.
        arguments: of the architecture, as its builder takes them (`num_classes` …).
        task: what it does.
        classes: in the order of its output.
        image_size: side of the square, or of the longer side, that it was trained at, pixels.
        level: `image`: a classifier that answers for each class whether any is in the image, by
            sigmoid; None: as `task` says.
        trained_on: the data.
        epochs: that were run; `best_epoch` is the one whose weights these are, from 1.
        metrics: of the best epoch on the validation data, by name (`map_50_95` …).
        weights_sha256: of the weights' file.
        versions: of the packages that trained it.
        license: that the weights are under because of what made them, e.g. `AGPL-3.0`.
        pruned: what was removed from the architecture; None: nothing.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=()
    )

    schema_: Literal["visiondyno.trained-model/1"] = Field(
        "visiondyno.trained-model/1", alias="schema"
    )
    family: Family
    name: str
    arguments: dict[str, Any] = {}
    task: Literal["detection", "classification"]
    classes: tuple[str, ...]
    image_size: Annotated[int, Field(ge=1, le=16384)]
    level: Literal["image"] | None = None
    trained_on: TrainedOn
    epochs: Annotated[int, Field(ge=1)]
    best_epoch: Annotated[int, Field(ge=1)]
    metrics: dict[str, float | None] = {}
    seed: int = 0
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    versions: dict[str, str] = {}
    license: str | None = None
    pruned: PrunedNetwork | None = None
    created_at: str
    """ISO 8601, UTC."""
