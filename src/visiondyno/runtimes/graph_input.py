"""What a graph says about the image it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from visiondyno.errors import ModelError
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.specs.model_card import Quantisation
from visiondyno.vision.heads import Shape, show_shape

InputDtype = Literal["float32", "float16", "uint8", "int8"]
_DTYPES: dict[str, InputDtype] = {
    "float32": "float32",
    "float16": "float16",
    "uint8": "uint8",
    "int8": "int8",
}
SIZE_INPUTS = ("orig_target_sizes",)
"""Second inputs that ask for the width and height to which boxes are scaled (RT-DETR, D-FINE)."""


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The image input of a graph.

    Attributes:
        batch: the fixed batch size, or None for any.
        height: in pixels, or None for any.
        width: in pixels, or None for any.
        has_batch_axis: False where the graph takes a single image of three axes (torchvision).
        quantisation: of an integer input that the graph begins by dequantising.
        size_input: name of a second input (n, 2) int64 for width and height, where there is one.
    """

    name: str
    dtype: InputDtype
    layout: Literal["nchw", "nhwc"]
    batch: int | None
    height: int | None
    width: int | None
    has_batch_axis: bool = True
    quantisation: Quantisation | None = None
    size_input: str | None = None


def image_input(facts: GraphFacts) -> GraphInput:
    """The graph's image input.

    Raises:
        ModelError: there isn't exactly one input (but for `SIZE_INPUTS`), or it isn't a batch of
            3-channel images.
    """
    sizes = [one for one in facts.inputs if one.name in SIZE_INPUTS and one.dtype == "int64"]
    images = [one for one in facts.inputs if one not in sizes]
    if len(images) != 1 or len(sizes) > 1:
        listed = ", ".join(f"'{i.name}' {show_shape(i.shape)}" for i in facts.inputs) or "none"
        raise ModelError(
            f"{facts.path} must have exactly one input, an image, but has {len(facts.inputs)} "
            f"({listed}); export it with the others folded in."
        )
    tensor = images[0]
    shown = f"input '{tensor.name}' is {show_shape(tensor.shape)} {tensor.dtype}"
    axes = len(tensor.shape)
    if axes not in (3, 4) or (axes == 3 and 3 not in (tensor.shape[0], tensor.shape[2])):
        raise ModelError(
            f"{facts.path} isn't a vision model: its {shown}, where a batch of images has four "
            "axes. Leave it out."
        )
    if tensor.dtype not in _DTYPES:
        raise ModelError(
            f"{facts.path} can't be fed: its {shown}; float32, float16, uint8 and int8 images are "
            "known."
        )
    # A single image is a batch of one whose first axis the graph leaves out.
    batch, *sides = tensor.shape if axes == 4 else (1, *tensor.shape)
    layout = _layout(sides)
    if layout is None:
        raise ModelError(
            f"{facts.path} doesn't take colour images: its {shown}, without an axis of 3 channels."
        )
    height, width = sides[1:] if layout == "nchw" else sides[:2]
    return GraphInput(
        name=tensor.name,
        dtype=_DTYPES[tensor.dtype],
        layout=layout,
        batch=batch,
        height=height,
        width=width,
        has_batch_axis=axes == 4,
        quantisation=tensor.quantisation,
        size_input=sizes[0].name if sizes else None,
    )


def output_shapes(facts: GraphFacts, graph_input: GraphInput) -> list[Shape]:
    """The outputs' shapes as heads see them: with an axis of images where the graph has none."""
    shapes = [output.shape for output in facts.outputs]
    return shapes if graph_input.has_batch_axis else [(1, *shape) for shape in shapes]


def _layout(sides: Sequence[int | None]) -> Literal["nchw", "nhwc"] | None:
    if sides[0] == 3 or (sides[0] is None and sides[2] != 3):
        return "nchw"
    return "nhwc" if sides[2] == 3 else None
