"""What a graph says about the image it takes."""

from dataclasses import dataclass
from typing import Literal

from visiondyno.errors import ModelError
from visiondyno.runtimes.onnx_file import OnnxFacts
from visiondyno.vision.heads import show_shape

InputDtype = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The one image input of a graph.

    Attributes:
        batch: the fixed batch size, or None for any.
        height: in pixels, or None for any.
        width: in pixels, or None for any.
    """

    name: str
    dtype: InputDtype
    layout: Literal["nchw", "nhwc"]
    batch: int | None
    height: int | None
    width: int | None


def image_input(facts: OnnxFacts) -> GraphInput:
    """The graph's image input.

    Raises:
        ModelError: there isn't exactly one input, or it isn't a batch of 3-channel images.
    """
    if len(facts.inputs) != 1:
        listed = ", ".join(f"'{i.name}' {show_shape(i.shape)}" for i in facts.inputs) or "none"
        raise ModelError(
            f"{facts.path} must have exactly one input, an image, but has {len(facts.inputs)} "
            f"({listed}); export it with the others folded in."
        )
    tensor = facts.inputs[0]
    shape = tensor.shape
    shown = f"input '{tensor.name}' is {show_shape(shape)} {tensor.dtype}"
    if len(shape) != 4:
        raise ModelError(
            f"{facts.path} isn't a vision model: its {shown}, where a batch of images has four "
            "axes. Leave it out."
        )
    if tensor.dtype not in ("float32", "float16", "uint8"):
        raise ModelError(
            f"{facts.path} can't be fed: its {shown}; float32, float16 and uint8 images are known."
        )
    dtype: InputDtype = tensor.dtype  # type: ignore[assignment]
    if shape[1] == 3 or (shape[1] is None and shape[3] != 3):
        return GraphInput(tensor.name, dtype, "nchw", shape[0], shape[2], shape[3])
    if shape[3] == 3:
        return GraphInput(tensor.name, dtype, "nhwc", shape[0], shape[1], shape[2])
    raise ModelError(
        f"{facts.path} doesn't take colour images: its {shown}, without an axis of 3 channels."
    )
