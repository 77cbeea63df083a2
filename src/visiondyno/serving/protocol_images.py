"""NAME-images: image files as tensors of BYTES to items, and predictions to tensors."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from visiondyno.errors import SpecError, TooLarge
from visiondyno.runtimes.base import GraphTensor
from visiondyno.serving.asked import Asked, options_of
from visiondyno.serving.config import ServingConfig
from visiondyno.serving.pool import Predicted
from visiondyno.serving.protocol_models import AnnouncedModel
from visiondyno.serving.protocol_requests import InferRequest, Parameters
from visiondyno.serving.sniffing import check_image
from visiondyno.serving.tensor_batches import check_inputs
from visiondyno.serving.tensors import DTYPES, Tensor
from visiondyno.serving.wire import Item, Kind

_OURS = frozenset({"conf", "iou", "classes"})
# Of clients that set them for every server; none changes what the answer is.
_PASSED_OVER = frozenset({"binary_data_output", "priority", "timeout"})
_TRITONS = "triton_"


def image_items(
    request: InferRequest, announced: AnnouncedModel, config: ServingConfig, model: dict[str, Any]
) -> list[Item]:
    """An item for each image.

    Args:
        request: with the one input `image`: each element a file, or its base64 as text.
        announced: what the model takes.
        config: of the server: limits, and what a request doesn't say.
        model: as `replicas.Readiness.model`.

    Raises:
        SpecError: input or parameters are wrong.
        TooLarge: too many images, or one of too many pixels.
        UnsupportedMedia, DatasetError: an element isn't an image that is taken.
    """
    check_inputs(request.inputs, announced.inputs)
    images = [_file(element) for element in request.inputs[0].array]
    if not images:
        raise SpecError("The input 'image' is empty; send one file at least.")
    if len(images) > config.max_images:
        raise TooLarge(
            f"The request has {len(images)} images; at most {config.max_images} are taken at once."
        )
    for number, image in enumerate(images):
        check_image(image, f"Image {number}", config.max_megapixels * 1e6)
    options = options_of(_asked(request.parameters), config, model)
    return [Item(Kind.IMAGE, image, options) for image in images]


def image_outputs(
    announced: AnnouncedModel, wanted: Sequence[str], predicted: Sequence[Predicted]
) -> list[Tensor]:
    """The outputs called `wanted`: one row for each prediction, those of an image together."""
    columns: dict[str, list[Any]] = {one.name: [] for one in announced.outputs}
    for index, one in enumerate(predicted):
        answer = from_json(one.answer.body)
        columns["image_index"] += [index] * len(answer["scores"])
        for name in columns.keys() & answer.keys():
            columns[name] += answer[name]
    forms = {one.name: one for one in announced.outputs}
    return [_tensor(forms[name], columns[name]) for name in wanted]


def _tensor(form: GraphTensor, rows: list[Any]) -> Tensor:
    array: NDArray[Any]
    if form.datatype == "BYTES":
        array = np.empty(len(rows), object)
        array[:] = [text.encode() for text in rows]
    else:
        array = np.array(rows, DTYPES[form.datatype]).reshape(-1, *form.shape[1:])
    return Tensor(form.name, form.datatype, array)


def _file(element: bytes) -> bytes:
    """The file in an element. No image file can be taken for base64: all have other bytes."""
    try:
        return base64.b64decode(element, validate=True)
    except binascii.Error:
        return element


def _asked(parameters: Parameters) -> Asked:
    for name in parameters:
        if name not in _OURS | _PASSED_OVER and not name.startswith(_TRITONS):
            raise SpecError(f"There is no parameter '{name:.80}'; there are conf, iou and classes.")
    classes = parameters.get("classes")
    given = (str(classes),) if classes not in (None, "") else ()
    return Asked(conf=_share(parameters, "conf"), iou=_share(parameters, "iou"), classes=given)


def _share(parameters: Mapping[str, Any], name: str) -> float | None:
    """A number from 0 to 1: messages of gRPC have no number but whole ones, so text too."""
    value = parameters.get(name)
    if value is None:
        return None
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise SpecError(f"The parameter '{name}' is '{value!s:.40}'; give a number from 0 to 1.")
    return number
