"""Which module, and how it learns: what the inputs of training are made of.

Names of layers, optimisers, schedulers and losses are those of the worker's own torch, which
these values don't know: the worker checks them before it trains.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_SEED = 2**63 - 1
_MAX_DEPTH = 32

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


def _shallow(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuses what lies too deep to be walked through later."""
    level: list[Any] = [arguments]
    for _ in range(_MAX_DEPTH):
        inner = (e.values() if isinstance(e, dict) else e for e in level)
        level = [v for values in inner for v in values if isinstance(v, dict | list | tuple)]
        if not level:
            return arguments
    raise ValueError(f"lists and objects lie deeper than {_MAX_DEPTH} in each other")


Arguments = Annotated[dict[str, Any], AfterValidator(_shallow)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LayerConfig(BaseModel):
    """One layer: its type in snake_case, and the arguments of its class in `torch.nn`."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    type: Name

    @model_validator(mode="after")
    def _is_shallow(self) -> Self:
        _shallow(self.arguments)
        return self

    @property
    def arguments(self) -> Arguments:
        """What is given beside the type."""
        return dict(self.model_extra or {})


class SequentialConfig(_Part):
    """Layers of `torch.nn`, one after another."""

    type: Literal["sequential"]
    layers: Annotated[tuple[LayerConfig, ...], Field(min_length=1, max_length=10_000)]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("a kernel must be odd, so that it has a middle")
    return value


class CnnConfig(_Part):
    """A plain convolutional image classifier, described in a line: studies search such.

    Blocks of convolution, batch norm, activation and a max pooling that halves the sides; then
    dropout, a hidden linear layer with its activation, dropout, and the linear layer of the
    classes. Convolutions keep the size, and a side of one pixel is halved no further. Batch norm is
    left out where images have become one pixel: a batch of one has no variance there. A side that
    leaves the last block with more than 16 pixels is averaged to 8 to 15.

    Attributes:
        image_shape: channels, height and width.
        classes: outputs.
        blocks: how many.
        width: channels of every convolution.
        convolutions: of a block.
        kernel: side of the convolutions, odd.
        batch_norm: after each convolution.
        activation: after that.
        dropout: probability, before each linear layer.
        hidden: outputs of the hidden layer; 0: there is none.
    """

    type: Literal["cnn"]
    image_shape: Annotated[
        tuple[
            Annotated[int, Field(ge=1, le=64)],
            Annotated[int, Field(ge=1, le=16_384)],
            Annotated[int, Field(ge=1, le=16_384)],
        ],
        Field(description="channels, height, width"),
    ]
    classes: Annotated[int, Field(ge=1, le=1_000_000)]
    blocks: Annotated[int, Field(ge=1, le=8)] = 2
    width: Annotated[int, Field(ge=1, le=4096)] = 32
    convolutions: Annotated[int, Field(ge=1, le=4)] = 1
    kernel: Annotated[int, Field(ge=1, le=31), AfterValidator(_odd)] = 3
    batch_norm: bool = True
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "elu"] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    hidden: Annotated[int, Field(ge=0, le=65_536)] = 0


class TorchvisionConfig(_Part):
    """A model of torchvision by name, with fresh weights."""

    type: Literal["torchvision"]
    name: Name
    arguments: Arguments = {}


class TimmConfig(_Part):
    """A model of timm by name, with fresh weights."""

    type: Literal["timm"]
    name: Name
    arguments: Arguments = {}


class TransformersConfig(_Part):
    """An image classifier of transformers by its model type (`vit`), with fresh weights.

    Attributes:
        name: the model type, not a repository: nothing is downloaded.
        arguments: of its configuration, such as `num_labels` and `image_size`.
    """

    type: Literal["transformers"]
    name: Name
    arguments: Arguments = {}


class ExportedConfig(_Part):
    """Any architecture, as a `torch.export` program.

    Attributes:
        program: what `torch.export.save` wrote, as base64 or the name of a blob.
    """

    type: Literal["exported"]
    program: Annotated[str, Field(min_length=1)]


class KerasConfig(_Part):
    """A model of Keras 3, run by its torch backend, with fresh weights.

    Its loss is `loss_function`, on what it answers: leave a last softmax out for `cross_entropy`,
    as of any torch module. What the model was compiled with isn't used.

    Attributes:
        model: what `keras.Model.to_json` writes of a Sequential or functional model, as an object.
            Code in it (`Lambda`, custom objects) is refused, and what training by torch would
            leave out: regularisers, constraints, quantised layers.
    """

    type: Literal["keras"]
    model: dict[str, Any]


ModelConfig = Annotated[
    SequentialConfig
    | TorchvisionConfig
    | TimmConfig
    | TransformersConfig
    | ExportedConfig
    | KerasConfig
    | CnnConfig,
    Field(discriminator="type"),
]


class Hyperparameters(_Part):
    """How a module learns.

    Attributes:
        optimizer: a class of `torch.optim` in snake_case.
        optimizer_arguments: its own arguments, beside the three below.
        learning_rate, weight_decay, momentum: the optimiser's own default if None; given to one
            that takes none, they are refused.
        loss_function: a loss of `torch.nn` in snake_case, with or without `_loss`.
        loss_arguments: its arguments; lists become tensors where it takes tensors.
        scheduler: a class of `torch.optim.lr_scheduler` in snake_case, with or without `_lr`.
        scheduler_arguments: its arguments.
        scheduler_step: after each `batch` or `epoch`; None is `batch` for `one_cycle` and
            `cyclic`, else `epoch`.
        batch_size, shuffle: how samples are taken.
        drop_last: leave out the samples that don't fill a last batch.
        gradient_clip_norm, gradient_clip_value: bounds of the gradient, by norm before by value.
        mixed_precision: dtype of autocast; `fp16` scales the loss.
        compile: run through `torch.compile`.
        data_parallel: over all GPUs of the worker; None does it where there are several.
        seed: of weights, of the order of samples and of dropout.
    """

    optimizer: Name = "adam"
    optimizer_arguments: Arguments = {}
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    momentum: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    loss_function: Name = "cross_entropy"
    loss_arguments: Arguments = {}
    scheduler: Name | None = None
    scheduler_arguments: Arguments = {}
    scheduler_step: Literal["epoch", "batch"] | None = None
    batch_size: Annotated[int, Field(ge=1, le=2**31 - 1)] = 32
    shuffle: bool = True
    drop_last: bool = False
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None
    gradient_clip_value: Annotated[float, Field(gt=0)] | None = None
    mixed_precision: Literal["none", "fp16", "bf16"] = "none"
    compile: bool = False
    data_parallel: bool | None = None
    seed: Seed | None = None

    @model_validator(mode="after")
    def _arguments_have_an_owner(self) -> Self:
        if self.scheduler is None and (self.scheduler_arguments or self.scheduler_step):
            raise ValueError("'scheduler_arguments' and 'scheduler_step' need a 'scheduler'")
        return self


class EarlyStopping(_Part):
    """Stop when a metric no longer gets better.

    Attributes:
        monitor: `val_` or `train_` and the name of a metric.
        patience: epochs in a row without a better value before it stops.
        min_delta: what counts as better, in units of the metric.
        mode: whether less or more is better; None knows it of every metric there is.
    """

    monitor: Annotated[str, Field(pattern=r"^(val|train)_[a-z][a-z0-9_]*$")] = "val_loss"
    patience: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    mode: Literal["min", "max"] | None = None
