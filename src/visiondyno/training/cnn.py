"""A convolutional classifier as the sequence of layers that it is."""

from typing import Any

from visiondyno.specs.training import CnnConfig, SequentialConfig

_MAX_FINAL_SIDE = 16
_FINAL_SIDE = 8

Layer = dict[str, Any]


def layers_of(config: CnnConfig) -> SequentialConfig:
    """The layers, as `CnnConfig` describes them."""
    layers: list[Layer] = []
    channels, height, width = config.image_shape
    for _ in range(config.blocks):
        for _ in range(config.convolutions):
            layers += _convolution(config, channels, is_pixel=height * width == 1)
            channels = config.width
        factors = (min(2, height), min(2, width))
        layers += _pooled("max_pool2d", factors)
        height, width = height // factors[0], width // factors[1]
    factors = (_shrinking(height), _shrinking(width))
    layers += [*_pooled("avg_pool2d", factors), {"type": "flatten"}]
    inputs = channels * (height // factors[0]) * (width // factors[1])
    if config.hidden:
        layers += [*_dropout(config), _linear(inputs, config.hidden), {"type": config.activation}]
        inputs = config.hidden
    layers += [*_dropout(config), _linear(inputs, config.classes)]
    return SequentialConfig.model_validate({"type": "sequential", "layers": layers})


def _convolution(config: CnnConfig, channels: int, *, is_pixel: bool) -> list[Layer]:
    convolution: Layer = {
        "type": "conv2d",
        "in_channels": channels,
        "out_channels": config.width,
        "kernel_size": config.kernel,
        "padding": config.kernel // 2,
    }
    has_norm = config.batch_norm and not is_pixel
    norm = [{"type": "batch_norm2d", "num_features": config.width}] if has_norm else []
    return [convolution, *norm, {"type": config.activation}]


def _pooled(kind: str, factors: tuple[int, int]) -> list[Layer]:
    return [] if factors == (1, 1) else [{"type": kind, "kernel_size": list(factors)}]


def _shrinking(side: int) -> int:
    return 1 if side <= _MAX_FINAL_SIDE else side // _FINAL_SIDE


def _dropout(config: CnnConfig) -> list[Layer]:
    return [{"type": "dropout", "p": config.dropout}] if config.dropout else []


def _linear(inputs: int, outputs: int) -> Layer:
    return {"type": "linear", "in_features": inputs, "out_features": outputs}
