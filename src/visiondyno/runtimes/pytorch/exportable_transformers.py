"""What of transformers' models is exported: the network, with the columns of its named classes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.runtimes.base import LoadedModel
from visiondyno.runtimes.pytorch.exportable import Exportable, exported_card, network_of
from visiondyno.runtimes.pytorch.transformers_models import (
    Classifier,
    DepthEstimator,
    Detector,
    TransformersModel,
)
from visiondyno.specs.model_card import OutputCard, ScoreActivation

if TYPE_CHECKING:
    import torch

_RESIZE_NOTE = (
    "The graph takes one size, to which images are stretched by OpenCV; the library's own "
    "processor resizes by torch{more}: answers differ a little."
)
_KEEPS_SHAPE = ", and keeps the aspect ratio"


def exportable_of(model: LoadedModel, image_size: int | None) -> Exportable | None:
    """See `exportable.exportable`; None of what isn't a model of transformers."""
    if not isinstance(model, TransformersModel):
        return None
    if isinstance(model, Detector):
        return _detector(model, image_size)
    card = model.description.card
    processor = model._processor
    note = _RESIZE_NOTE.format(more=_KEEPS_SHAPE if _keeps_shape(processor) else "")
    module = _answering(model, model.wanted[0])
    if isinstance(model, Classifier):
        crops = bool(getattr(processor, "do_center_crop", False))
        side = dict(getattr(processor, "size", None) or {}).get("shortest_edge")
        how: dict[str, Any] = {"interpolation": "area"}
        if crops and side:
            how |= {"resize": "shortest_side_crop", "crop_from": side}
        made = exported_card(card, "classification", image_size, **how)
        return Exportable(module, made, model, outputs=("scores",), notes=(note,))
    assert isinstance(model, DepthEstimator)
    made = exported_card(card, "depth", image_size, interpolation="area")
    return Exportable(module, made, model, outputs=("depth",), notes=(note,))


def _answering(model: TransformersModel, wanted: str) -> Any:
    from torch import nn

    network = network_of(model)

    class Answering(nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: "torch.Tensor") -> Any:
            return self.network(pixel_values=images)[wanted]

    return Answering().eval()


def _detector(model: Detector, image_size: int | None) -> Exportable:
    import torch
    from torch import nn

    network = network_of(model)
    activation = _activation(model)
    labels = np.flatnonzero(model._class_of >= 0)
    columns = torch.from_numpy(labels[np.argsort(model._class_of[labels])])
    if activation == "softmax_with_background":
        columns = torch.cat([columns, torch.tensor([_columns(model) - 1])])

    class Finding(nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("columns", columns)

        def forward(self, images: "torch.Tensor") -> Any:
            found = self.network(pixel_values=images)
            return found["logits"].index_select(-1, self.columns), found["pred_boxes"]

    card = exported_card(
        model.description.card,
        "detr",
        image_size,
        interpolation="area",
        output=OutputCard(score_activation=activation),
        detection=_detection(model, activation),
    )
    note = _RESIZE_NOTE.format(more=_KEEPS_SHAPE if _keeps_shape(model._processor) else "")
    return Exportable(Finding().eval(), card, model, outputs=("logits", "boxes"), notes=(note,))


def _detection(model: Detector, activation: ScoreActivation) -> Any:
    """DETR gives each query its best class; its followers the best pairs of query and class."""
    own = model.description.card.detection
    assert own is not None
    return own.model_copy(update={"several_classes_a_box": activation == "sigmoid"})


def _columns(model: Detector) -> int:
    """How many numbers a query's logits are: one more than labels where nothing is a class."""
    return int(model._config.num_labels) + 1


def _activation(model: Detector) -> ScoreActivation:
    """By what the library's own post-processing makes of logits that are all alike.

    Each of them a logit of 0.75: a sigmoid gives that, a softmax over several far less.
    """
    import torch

    class Probe(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            return self[name]

    count = _columns(model) + 1
    probe = Probe(
        logits=torch.full((1, 400, count), float(np.log(3.0))),
        pred_boxes=torch.full((1, 400, 4), 0.5),
    )
    (found,) = model._processor.post_process_object_detection(
        probe, threshold=0.0, target_sizes=torch.tensor([[10, 10]], dtype=torch.int32)
    )
    best = float(found["scores"].max())
    return "sigmoid" if abs(best - 0.75) < 1e-3 else "softmax_with_background"


def _keeps_shape(processor: Any) -> bool:
    said = dict(getattr(processor, "size", None) or {})
    return bool(said.get("shortest_edge") or said.get("longest_edge"))
