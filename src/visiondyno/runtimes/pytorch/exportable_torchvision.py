"""What of torchvision's detectors is exported: dense ones, with boxes and scores decoded inside.

The output is that of head `yolov8`: (n, 4 + classes, boxes) with centre x, y, width, height in
pixels of the input, and a score for each class. RetinaNet, FCOS and SSD choose boxes by NMS alone,
which stays outside of the graph.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import SpecError
from visiondyno.runtimes.base import LoadedModel
from visiondyno.runtimes.pytorch.exportable import Exportable, exported_card, network_of
from visiondyno.runtimes.pytorch.torchvision_detectors import TorchvisionDetector, is_two_stage
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard

if TYPE_CHECKING:
    import torch
    from torch import nn

_STRIDE = 32
"""Torchvision pads to a multiple of it."""


def exportable_of(model: LoadedModel, image_size: int | None) -> Exportable | None:
    """See `exportable.exportable`; None of what isn't a detector of torchvision.

    Raises:
        SpecError: it is of two stages, or takes one size only.
    """
    if not isinstance(model, TorchvisionDetector):
        return None
    reference, card = model.description.reference, model.description.card
    network = network_of(model)
    if is_two_stage(network):
        raise SpecError(
            f"'model': {reference} is a two-stage detector: how many regions its second stage gets "
            "depends on the image, which a graph for batches of any size can't hold. Export a "
            "RetinaNet, FCOS or SSD of torchvision, or a detector of Ultralytics."
        )
    own = card.input
    stretches = own.resize == "stretch"
    if stretches and image_size not in (None, own.height):
        raise SpecError(
            f"'image_size': {reference} takes {own.height}x{own.width} pixels and no other size; "
            "leave 'image_size' out."
        )
    made = exported_card(
        card,
        "yolov8",
        image_size,
        stride=1 if stretches else _STRIDE,
        pad_value=_mean_grey(own.mean),
        detection=_detection(network, card),
    )
    size = made.input.height, made.input.width
    labels = np.flatnonzero(model._label_to_class >= 0)
    columns = labels[np.argsort(model._label_to_class[labels])]
    module = _decoding(network, size, columns)
    notes = _notes(own, made.input)
    return Exportable(module, made, model, outputs=("detections",), notes=notes)


def _detection(network: "nn.Module", card: ModelCard) -> DetectionCard:
    """As many candidates as torchvision takes in all: its limit is of each class, or each level."""
    own = card.detection
    assert own is not None
    levels = len(network.anchor_generator.num_anchors_per_location())
    parts = len(card.classes) if _kind(network) == "SSD" else levels
    return own.model_copy(update={"max_candidates": own.max_candidates * parts})


def _notes(own: InputCard, made: InputCard) -> tuple[str, ...]:
    size = f"{made.height}x{made.width}"
    if own.resize == "stretch":
        how = "images are resized by OpenCV to that"
    else:
        how = (
            "images are resized by OpenCV until they fit, and padded to that, where torchvision "
            "resizes by torch to sizes of its own and pads no more than its stride needs"
        )
    note = (
        f"The graph takes {size} pixels: {how}. Torchvision limits candidates by class or by level "
        "of its pyramid, the graph's reader all together."
    )
    return (note,)


def _mean_grey(mean: tuple[float, float, float]) -> int:
    """Torchvision pads with zeros after normalising: with the mean, which one grey stands for."""
    return round(255 * math.fsum(mean) / 3)


def _decoding(network: "nn.Module", size: tuple[int, int], columns: Any) -> "nn.Module":
    import torch
    from torch import nn

    anchors = _anchors(network, size)
    kind = _kind(network)

    class Decoding(nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = network.backbone, network.head
            self.register_buffer("anchors", anchors)
            self.register_buffer("columns", torch.from_numpy(columns))

        def forward(self, images: "torch.Tensor") -> "torch.Tensor":
            found = self.backbone(images)
            features = [found] if isinstance(found, torch.Tensor) else list(found.values())
            answers = self.head(features)
            scores = _scores(answers, kind).index_select(-1, self.columns)
            boxes = _boxes(answers["bbox_regression"], self.anchors, network.box_coder, kind)
            return torch.cat([boxes, scores], dim=-1).transpose(1, 2)

    return Decoding().eval()


def _kind(network: "nn.Module") -> str:
    return type(network).__name__


def _anchors(network: "nn.Module", size: tuple[int, int]) -> "torch.Tensor":
    """(boxes, 4) xyxy in pixels of the input, as the network's own generator makes them."""
    import torch
    from torchvision.models.detection.image_list import ImageList

    blank = torch.zeros(1, 3, *size)
    with torch.no_grad():
        found = network.backbone(blank)
        features = [found] if isinstance(found, torch.Tensor) else list(found.values())
        made: torch.Tensor = network.anchor_generator(ImageList(blank, [size]), features)[0]
    return made


def _scores(answers: "dict[str, torch.Tensor]", kind: str) -> "torch.Tensor":
    import torch

    logits = answers["cls_logits"]
    if kind == "SSD":
        return torch.softmax(logits, dim=-1)
    if kind == "FCOS":
        return torch.sqrt(torch.sigmoid(logits) * torch.sigmoid(answers["bbox_ctrness"]))
    return torch.sigmoid(logits)


def _boxes(codes: "torch.Tensor", anchors: "torch.Tensor", coder: Any, kind: str) -> "torch.Tensor":
    """(n, boxes, 4) centre x, y, width, height; formulas of torchvision's box coders.

    Args:
        codes: (n, boxes, 4), what the head answers.
        anchors: (boxes, 4).
        coder: its weights and limits.
        kind: class of the network.
    """
    import torch

    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, 2:] + anchors[:, :2]) / 2
    if kind == "FCOS":
        # Distances of the four edges from the centre, in sizes of the anchor.
        scaled = codes * sizes.repeat(1, 2)
        low, high = centres - scaled[..., :2], centres + scaled[..., 2:]
        return torch.cat([(low + high) / 2, high - low], dim=-1)
    weights = torch.tensor(coder.weights)
    shifts = codes / weights
    centre = shifts[..., :2] * sizes + centres
    size = torch.exp(shifts[..., 2:].clamp(max=coder.bbox_xform_clip)) * sizes
    return torch.cat([centre, size], dim=-1)
