"""From decoded images to the input of timm's models: by timm's own transforms."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.predictions import Image
from visiondyno.runtimes.pytorch.logit_classifier import Transform

if TYPE_CHECKING:
    import torch


def config_of(module: Any, size: tuple[int, int, int] | None = None) -> dict[str, Any]:
    """What timm knows of the model's input: `input_size`, `mean`, `std`, `crop_pct` and more."""
    from timm.data import resolve_data_config

    found: dict[str, Any] = resolve_data_config({"input_size": size} if size else {}, model=module)
    return found


def own_transform(module: Any, size: tuple[int, int, int] | None = None) -> Transform:
    """Exactly timm's own, on images of Pillow; `size`: channels, height and width."""
    import torch
    from PIL import Image as PillowImage
    from timm.data import create_transform

    transform = create_transform(**config_of(module, size), is_training=False)

    def prepared(images: Sequence[Image]) -> "torch.Tensor":
        return torch.stack([transform(as_pillow(image, PillowImage)) for image in images])

    return prepared


def as_pillow(image: Image, pillow: Any) -> Any:
    """An image of Pillow, RGB, of one of ours; `pillow` is its module `Image`."""
    height, width = image.shape[:2]
    # Copies and turns the channels in one pass.
    return pillow.frombuffer(
        "RGB", (width, height), np.ascontiguousarray(image), "raw", "BGR", 0, 1
    )
