"""Changes of an ONNX graph that leave its answers alone: card, opset, batch size, input size."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError
from visiondyno.runtimes.made_model import MADE_KEY, MadeOf
from visiondyno.runtimes.model_cards import METADATA_KEY
from visiondyno.specs.model_card import ModelCard

if TYPE_CHECKING:
    import onnx

_LONGEST_REASON = 200
BATCH = "batch"
"""What a free batch size is called."""


def carry_card(graph: "onnx.ModelProto", card: ModelCard) -> None:
    """Write the card into the graph's metadata, in place of another one there."""
    _carry(graph, METADATA_KEY, card.model_dump_json(by_alias=True))


def carry_origin(graph: "onnx.ModelProto", made: MadeOf) -> None:
    """Write what the graph was made of into its metadata, in place of an earlier origin."""
    _carry(graph, MADE_KEY, made.model_dump_json(by_alias=True, exclude_none=True))


def carry_metadata(graph: "onnx.ModelProto", source: "onnx.ModelProto") -> None:
    """Give the graph the metadata of its source, and no other."""
    kept = list(source.metadata_props)
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)


def _carry(graph: "onnx.ModelProto", key: str, value: str) -> None:
    kept = [prop for prop in graph.metadata_props if prop.key != key]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    graph.metadata_props.add(key=key, value=value)


def opset_of(graph: "onnx.ModelProto") -> int:
    """The version of ONNX's own operators that the graph is written in."""
    versions: dict[str, int] = {entry.domain: entry.version for entry in graph.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def in_opset(graph: "onnx.ModelProto", opset: int | None, what: str) -> "onnx.ModelProto":
    """The graph in another opset, by ONNX's own converter.

    Args:
        graph: it isn't changed.
        opset: None, and its own: the graph as it is.
        what: the model is, for messages.

    Raises:
        ModelError: an operator can't be written in that opset.
    """
    from onnx import version_converter

    own = opset_of(graph)
    if opset in (None, own):
        return graph
    try:
        converted = version_converter.convert_version(graph, opset)
    except Exception as error:  # the converter raises whatever it stumbles over
        told = " ".join(str(error).split())[:_LONGEST_REASON].rstrip(". ")
        raise ModelError(
            f"'opset': {what} is written in opset {own} and can't be converted to {opset} "
            f"({told}); take another one, or leave 'opset' out."
        ) from error
    return converted


def set_batch(graph: "onnx.ModelProto", inputs: tuple[str, ...], size: int | None) -> bool:
    """Make the batch size free, or fix it; the caller must check that the answers stay.

    Args:
        graph: it is changed.
        inputs: those whose first dimension is the batch.
        size: None: free.

    Returns:
        Whether a fixed size was made another: the graph may have learnt it by heart elsewhere.
    """
    ours = [one for one in graph.graph.input if one.name in inputs]
    first = ours[0].type.tensor_type.shape.dim[0]
    before = first.dim_value if first.HasField("dim_value") else None
    name = first.dim_param
    for tensor in (*ours, *graph.graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if not dims:
            continue
        is_batch = tensor in ours or (
            dims[0].dim_value == before if before is not None else dims[0].dim_param == name != ""
        )
        if is_batch:
            _set_dim(dims[0], size)
    if before in (None, size):
        return False
    # Sizes of what lies between were told for the old batch.
    del graph.graph.value_info[:]
    _free_reshapes(graph, before)
    return True


def set_size(
    graph: "onnx.ModelProto", name: str, height: int, width: int, *, is_nchw: bool
) -> None:
    """Fix the free height and width of the input `name`, a batch of images."""
    (tensor,) = [one for one in graph.graph.input if one.name == name]
    dims = tensor.type.tensor_type.shape.dim
    first = 2 if is_nchw else 1
    for dim, value in ((dims[first], height), (dims[first + 1], width)):
        dim.dim_value = value
    del graph.graph.value_info[:]


def _set_dim(dim: Any, size: int | None) -> None:
    if size is None:
        dim.dim_param = BATCH
    else:
        dim.dim_value = size


def _free_reshapes(graph: "onnx.ModelProto", batch: int) -> None:
    """Let each Reshape whose constant shape begins with the batch take it from its input."""
    from onnx import numpy_helper

    constants = dict(_constants(graph))
    for number, node in enumerate(graph.graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if not len(shape) or shape[0] != batch:
            continue
        shape[0] = 0 if -1 in shape[1:] else -1
        # A tensor of its own: others may use the constant too.
        name = f"{node.input[1]}/free/{number}"
        graph.graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name


def _constants(graph: "onnx.ModelProto") -> "Iterator[tuple[str, onnx.TensorProto]]":
    for tensor in graph.graph.initializer:
        yield tensor.name, tensor
    for node in graph.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t
