"""Small torch modules, and the files that torch makes of them."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from visiondyno.runtimes.card_file import card_path, card_text
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard

torch = pytest.importorskip("torch")
nn = torch.nn

SIDE = 32
CLASSES = ("car", "truck", "bus")
_INPUT = InputCard(height=SIDE, width=SIDE, resize="stretch")

DETECTOR_CARD = ModelCard(
    task="detection",
    head="end_to_end",
    classes=CLASSES,
    input=_INPUT,
    detection=DetectionCard(nms_iou=None),
)
CLASSIFIER_CARD = ModelCard(
    task="classification",
    head="classification",
    classes=CLASSES,
    input=_INPUT,
    activation="softmax",
)


class Detector(nn.Module):  # type: ignore[misc, name-defined]
    """Boxes that follow from the image: (n, 5, 6), corners in pixels, score and class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.features = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.read = nn.Linear(8, 30)

    def forward(self, images: Any) -> Any:
        found = self.drop(self.norm(self.features(images)).relu().mean((2, 3)))
        rows = (self.read(found) * 3).sigmoid().view(-1, 5, 6)
        corners = rows[..., :2] * (SIDE / 2)
        sizes = 1 + rows[..., 2:4] * (SIDE * 0.4)
        classes = (rows[..., 5:] * 2.99).floor()
        return torch.cat([corners, corners + sizes, 0.3 + rows[..., 4:5] / 2, classes], 2)


class Classifier(nn.Module):  # type: ignore[misc, name-defined]
    """A logit for each of three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.features = nn.Conv2d(3, 8, 4, stride=4)
        self.read = nn.Linear(8, 3)

    def forward(self, images: Any) -> Any:
        return self.read(self.features(images).relu().mean((2, 3)))


def write_exported(
    path: Path,
    module: Any,
    card: ModelCard | None,
    *,
    batch: int | None = None,
    example: Any = None,
    bounds: dict[str, int] | None = None,
    is_training: bool = False,
) -> str:
    """A `.pt2` of the module, for any number of images or for `batch`, and a card beside it."""
    images = torch.zeros(batch or 2, 3, SIDE, SIDE) if example is None else example
    sizes = None if batch else ({0: torch.export.Dim("batch", **(bounds or {}))},)
    module.train(is_training)
    program = torch.export.export(module, (images,), dynamic_shapes=sizes)
    torch.export.save(program, path)
    return _with_card(path, card)


def write_scripted(
    path: Path, module: Any, card: ModelCard | None, *, is_frozen: bool = False
) -> str:
    """A `.torchscript` of the module, and a card beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still about
        made = torch.jit.trace(module.eval(), torch.zeros(1, 3, SIDE, SIDE))
        made = torch.jit.freeze(made) if is_frozen else made
        made.save(str(path))
    return _with_card(path, card)


def _with_card(path: Path, card: ModelCard | None) -> str:
    if card is not None:
        card_path(path).write_text(card_text(card, path.name, {}), encoding="utf-8")
    return str(path)
