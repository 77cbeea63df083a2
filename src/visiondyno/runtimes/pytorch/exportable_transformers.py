"""What of transformers' models is exported: the network, with the columns of its named classes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import SpecError
from visiondyno.runtimes.base import LoadedModel
from visiondyno.runtimes.pytorch.exportable import Exportable, exported_card, network_of
from visiondyno.runtimes.pytorch.transformers_models import (
    Classifier,
    DepthEstimator,
    Detector,
    TransformersModel,
)
from visiondyno.specs.model_card import InputCard, OutputCard, ScoreActivation

if TYPE_CHECKING:
    import torch

_RESIZE_NOTE = (
    "The graph takes one size, to which images are stretched by OpenCV; the library's own "
    "processor resizes by torch{more}: answers differ a little."
)
_KEEPS_SHAPE = ", and keeps the aspect ratio"
_CROPPED_BELOW = 384
"""ConvNeXt's processor shrinks images to this side and more without a crop."""
_SAME_SHARE = 0.01
"""Of the range of a channel, that a value may be off as the processor rounds."""
_GREYS = (10, 245)
"""Not black: processors take that for an image whose values are scaled already."""
_COLOUR = (40, 110, 220)
"""Red, green, blue, all different: it tells in which order channels come."""


def exportable_of(model: LoadedModel, image_size: int | None) -> Exportable | None:
    """See `exportable.exportable`; None of what isn't a model of transformers."""
    if not isinstance(model, TransformersModel):
        return None
    if isinstance(model, Detector):
        return _detector(model, image_size)
    card = model.description.card
    processor = model._processor
    how: dict[str, Any] = {"interpolation": "area", **_values(model)}
    note = _RESIZE_NOTE.format(more=_KEEPS_SHAPE if _keeps_shape(processor) else "")
    module = _answering(model, model.wanted[0])
    if isinstance(model, Classifier):
        crop_from = _cropped_from(processor)
        if crop_from is not None:
            if image_size:  # the same share of the image is seen at any size
                crop_from = max(round(crop_from * image_size / card.input.height), image_size)
            how |= {"resize": "shortest_side_crop", "crop_from": crop_from}
        made = exported_card(card, "classification", image_size, **how)
        return Exportable(module, made, model, outputs=("scores",), notes=(note,))
    assert isinstance(model, DepthEstimator)
    made = exported_card(card, "depth", image_size, **how)
    return Exportable(module, made, model, outputs=("depth",), notes=(note,))


def _cropped_from(processor: Any) -> int | None:
    """Length that the shortest side is brought to before the centre is cut out; None: it isn't."""
    side = dict(getattr(processor, "size", None) or {}).get("shortest_edge")
    if not side:
        return None
    share = getattr(processor, "crop_pct", None)
    if getattr(processor, "do_center_crop", False) or (share and side < _CROPPED_BELOW):
        return int(side / share) if share else int(side)
    return None


def _values(model: TransformersModel) -> dict[str, Any]:
    """What of the card is otherwise, as the processor really makes a pixel's values.

    Its settings have many names (BGR, two normalisations, offsets); one colour tells of them all.

    Raises:
        SpecError: it does what no card can say.
    """
    card = model.description.card.input
    dark, bright = (_pixel(model, (level,) * 3) for level in _GREYS)
    found, slope = _pixel(model, _COLOUR), (bright - dark) / (_GREYS[1] - _GREYS[0])
    black = dark - slope * _GREYS[0]
    for channels, levels in (("rgb", _COLOUR), ("bgr", _COLOUR[::-1])):
        off = np.abs(black + slope * np.array(levels) - found)
        if not slope.all() or (off > _SAME_SHARE * np.abs(bright - dark)).any():
            continue
        std = card.scale / slope
        said = {"channels": channels, "mean": tuple(-black * std), "std": tuple(std)}
        return {} if _says(card, said) else said
    raise SpecError(
        f"'model': the image processor of {model.description.reference} makes of pixels what a "
        "model card can't say; run the model by transformers, or export it with a card by hand."
    )


def _says(card: InputCard, said: dict[str, Any]) -> bool:
    alike = np.allclose([*card.mean, *card.std], [*said["mean"], *said["std"]], atol=1e-4)
    return alike and card.channels == said["channels"]


def _pixel(model: TransformersModel, rgb: tuple[int, ...]) -> Any:
    """(3,) float64: what the network gets for an image of one colour."""
    side = model.description.card.input
    image = np.full((side.height, side.width, 3), rgb[::-1], np.uint8)
    made = model._features(image)["pixel_values"][0].double().numpy()
    return made[:, made.shape[1] // 2, made.shape[2] // 2]


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
        **_values(model),
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
