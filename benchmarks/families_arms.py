"""Each model family's own way to predict, with the same weights as ours.

Weights are random (none can be fetched everywhere), so few boxes are found: how many is told.
Both arms get an image that is decoded already, as the family takes it: BGR pixels, or Pillow's.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from visiondyno.predictions import Classification, Image, Predictions

CONFIDENCE = 0.25
SEED = 0

Found = list[float]
"""What was found, to tell that both ways found the same: scores of boxes, or probabilities."""


@dataclass(frozen=True, slots=True)
class Family:
    """A model, and how its own library predicts one image.

    Attributes:
        reference: of the same weights, for us.
        own: from an image as the library takes it to what was found.
        takes_pillow: whether that is Pillow's, or BGR pixels.
        version: of the library.
    """

    reference: str
    own: Callable[[Any], Found]
    takes_pillow: bool
    version: str


def families(folder: Path) -> dict[str, Family]:
    """Those whose libraries are installed, by name; files they need are written to `folder`."""
    makers: dict[str, tuple[tuple[str, ...], Callable[[Path], Family]]] = {
        "ultralytics": (("ultralytics",), _ultralytics),
        "torchvision_detector": (("torchvision",), _torchvision_detector),
        "torchvision_classifier": (("torchvision",), _torchvision_classifier),
        "transformers": (("transformers",), _transformers),
        "timm": (("timm",), _timm),
        "openvino": (("openvino", "ultralytics"), _openvino),
    }
    found = {}
    for name, (packages, make) in makers.items():
        if all(importlib.util.find_spec(package) for package in packages):
            found[name] = make(folder)
        else:
            print(f"{name}: left out, {' or '.join(packages)} isn't installed")
    return found


def as_pillow(image: Image) -> Any:
    """RGB, as most of these libraries take it."""
    return PillowImage.fromarray(np.ascontiguousarray(image[:, :, ::-1]))


def found_by_us(prediction: Predictions) -> Found:
    """As `Found` says."""
    if isinstance(prediction, Classification):
        return [float(share) for share in prediction.probabilities]
    return sorted(prediction.scores.tolist())  # type: ignore[union-attr] # no depth model is here


def _yolo(folder: Path) -> Path:
    """A file of random weights, written by the library itself."""
    import torch

    from visiondyno.vision.ultralytics_library import import_ultralytics

    path = folder / "yolov8n.pt"
    if not path.is_file():
        library = import_ultralytics("The benchmark of families")
        torch.manual_seed(SEED)
        network = library.YOLO("yolov8n.yaml", task="detect").model
        torch.save({"model": network, "train_args": {"imgsz": 640}}, path)
    return path


def _predictor(path: Path) -> Callable[[Any], Found]:
    from visiondyno.vision.ultralytics_library import import_ultralytics, quiet

    with quiet():
        model = import_ultralytics("The benchmark of families").YOLO(path, task="detect")

    def own(image: Any) -> Found:
        with quiet():
            (result,) = model.predict(
                image, conf=CONFIDENCE, device="cpu", save=False, verbose=False
            )
        return sorted(result.boxes.conf.tolist())

    return own


def _ultralytics(folder: Path) -> Family:
    import ultralytics

    path = _yolo(folder)
    return Family(str(path), _predictor(path), False, f"ultralytics {ultralytics.__version__}")


def _openvino(folder: Path) -> Family:
    import openvino
    import ultralytics

    from visiondyno.vision.ultralytics_library import import_ultralytics, quiet

    with quiet():
        model = import_ultralytics("The benchmark of families").YOLO(_yolo(folder))
        exported = Path(model.export(format="openvino", verbose=False))
    (graph,) = exported.glob("*.xml")
    # OpenVINO chooses bf16 by itself where the processor has it: both ways are to compute alike.
    chosen = openvino.Core().compile_model(graph, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    is_half = chosen.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    number = openvino.__version__.split("-")[0]
    return Family(
        f"openvino-bf16:{graph}" if is_half else str(graph),
        _predictor(exported),
        False,
        f"openvino {number} by ultralytics {ultralytics.__version__}",
    )


def _torchvision_detector(folder: Path) -> Family:
    del folder
    import torch
    import torchvision

    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    torch.manual_seed(SEED)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()

    def own(image: Any) -> Found:
        with torch.inference_mode():
            (result,) = model([transform(image)])
        return sorted(float(score) for score in result["scores"] if score > CONFIDENCE)

    return Family(f"torchvision:{name}@none", own, True, f"torchvision {torchvision.__version__}")


def _torchvision_classifier(folder: Path) -> Family:
    del folder
    import torch
    import torchvision

    name = "efficientnet_b0"
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    torch.manual_seed(SEED)
    model = torchvision.models.get_model(name, weights=None).eval()

    def own(image: Any) -> Found:
        with torch.inference_mode():
            shares: Found = model(transform(image).unsqueeze(0)).softmax(-1)[0].tolist()
        return shares

    return Family(f"torchvision:{name}@none", own, True, f"torchvision {torchvision.__version__}")


def _timm(folder: Path) -> Family:
    del folder
    import timm
    import torch

    name = "efficientnet_b0"
    torch.manual_seed(SEED)
    model = timm.create_model(name).eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)

    def own(image: Any) -> Found:
        with torch.inference_mode():
            shares: Found = model(transform(image).unsqueeze(0)).softmax(-1)[0].tolist()
        return shares

    return Family(f"timm:{name}@none", own, True, f"timm {timm.__version__}")


def _transformers(folder: Path) -> Family:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    backbone = transformers.RTDetrResNetConfig(
        layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], embedding_size=64
    )
    backbone.out_features = ["stage2", "stage3", "stage4"]
    config = transformers.RTDetrV2Config(
        backbone_config=backbone, encoder_in_channels=[128, 256, 512], decoder_layers=3
    )
    path = folder / "rtdetr_v2_r18vd"
    transformers.RTDetrV2ForObjectDetection(config).save_pretrained(path)
    transformers.RTDetrImageProcessor().save_pretrained(path)
    pipeline = transformers.pipeline("object-detection", model=str(path), device="cpu")

    def own(image: Any) -> Found:
        return sorted(one["score"] for one in pipeline(image, threshold=CONFIDENCE))

    return Family(str(path), own, True, f"transformers {transformers.__version__}")
