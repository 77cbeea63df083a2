"""torchvision's models with weights that answer something, made here in a moment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.models import get_model
from torchvision.transforms.functional import convert_image_dtype

from contracts.runtime_contract import some_images
from trained_model_factory import trained_folder, trained_record
from visiondyno.predictions import Image
from visiondyno.specs.trained_model import TrainedModel
from visiondyno.state import from_tensors

CLASSES = ("car", "truck", "sign")
SIZES = [(96, 128), (128, 96), (80, 80), (120, 90)]

SMALL: dict[str, dict[str, Any]] = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 96, "max_size": 128},
    "retinanet_resnet50_fpn": {"min_size": 64, "max_size": 96},
    "fcos_resnet50_fpn": {"min_size": 64, "max_size": 96},
    "ssdlite320_mobilenet_v3_large": {},
    "ssd300_vgg16": {},
}
"""A detector of each kind, and the sizes it is tried at."""


def photos(count: int, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Image]:
    """Images (h, w, 3) uint8 with something of a photograph's structure, each another."""
    made = []
    for seed in range(count):
        height, width = sizes[seed % len(sizes)]
        coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        made.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return made


def as_torch(image: Image) -> torch.Tensor:
    """As torchvision wants it: (3, h, w) float32 RGB from 0 to 1."""
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return convert_image_dtype(torch.from_numpy(rgb), torch.float)


def awake_detector(name: str, num_classes: int = len(CLASSES) + 1) -> torch.nn.Module:
    """A detector whose scores and boxes differ from place to place, by seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = get_model(
            name, weights=None, weights_backbone=None, num_classes=num_classes, **SMALL[name]
        )
        _learn_statistics(model)
        _spread_answers(model)
    return model.eval()


def record_of(name: str, **changes: Any) -> TrainedModel:
    """The record of a detector that was trained here."""
    arguments = SMALL.get(name, {})
    said = {"name": name, "arguments": arguments, "task": "detection", "classes": CLASSES}
    return trained_record(**(said | changes))


def trained_of(folder: Path, name: str, module: Any, **changes: Any) -> None:
    """Write the folder that a training of `module` would leave."""
    said = record_of(name).model_dump(exclude={"weights_sha256", "schema_"}) | changes
    trained_folder(folder, from_tensors(module.state_dict()), **said)


def _learn_statistics(model: Any) -> None:
    """Fresh weights let the signal die out: take each layer's statistics from real input."""
    norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        seen = [*photos(3), *some_images(3)]
        images, _ = model.eval().transform([as_torch(one) for one in seen])
        for norm in norms:
            norm.train()
        features = list(model.backbone(images.tensors).values())
        if hasattr(model, "head"):
            model.head(features)


def _spread_answers(model: Any) -> None:
    for name, layer in model.named_modules():
        if not isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            continue
        if "conv" in name and "head" in name and "cls" not in name:
            torch.nn.init.kaiming_normal_(layer.weight)
        for part, (std, bias) in _LAST_LAYERS.items():
            if name.endswith(part):
                torch.nn.init.normal_(layer.weight, std=std)
                torch.nn.init.constant_(layer.bias, bias)
    if type(model).__name__ == "FCOS":
        # Its scores spread less, and its threshold is higher.
        torch.nn.init.constant_(model.head.classification_head.cls_logits.bias, -3.3)


_LAST_LAYERS = {
    "rpn.head.cls_logits": (0.3, 0.0),
    "rpn.head.bbox_pred": (0.01, 0.0),
    "box_predictor.cls_score": (0.1, 0.0),
    "box_predictor.bbox_pred": (0.01, 0.0),
    "classification_head.cls_logits": (0.008, -4.0),
    "regression_head.bbox_reg": (0.002, 0.5),
    "regression_head.bbox_ctrness": (0.02, 4.0),
}
"""Standard deviation of the weights, and bias, of the layers that answer, by the ends of names."""
