"""From trained weights to a model file that explains itself."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from street_training.network import ExportedDetector
from visiondyno.datasets.street import HEIGHT, STREET_CLASSES, WIDTH
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard

OPSET = 17


def street_card(nms_iou: float) -> ModelCard:
    """The model card of both street detectors."""
    return ModelCard(
        schema="visiondyno.model/1",
        task="detection",
        head="yolov8",
        classes=STREET_CLASSES,
        input=InputCard(height=HEIGHT, width=WIDTH, resize="letterbox", channels="rgb"),
        detection=DetectionCard(nms_iou=nms_iou),
        license="Apache-2.0",
        source="trained by scripts/train_street.py on the built-in street scenes",
    )


def export(network: ExportedDetector, card: ModelCard, file: Path) -> None:
    """Write an ONNX file: batch of any size, norms folded into convolutions, card inside."""
    example = torch.zeros(2, 3, HEIGHT, WIDTH)
    with warnings.catch_warnings():
        # The exporter that folds norms and needs no further package is the one marked legacy.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval().to(memory_format=torch.contiguous_format),
            (example,),
            str(file),
            input_names=["images"],
            output_names=["detections"],
            dynamic_axes={"images": {0: "batch"}, "detections": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(file))
    note = model.metadata_props.add()
    note.key, note.value = "visiondyno.model", card.model_dump_json(by_alias=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


def greatest_difference(network: ExportedDetector, file: Path, images: torch.Tensor) -> float:
    """Largest absolute difference between the file's answer and the network's.

    Relative to 1 for scores and to the image's width for box values, so that one limit fits both.
    """
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        mine = network(images).numpy()
    scale = np.array([WIDTH] * 4 + [1] * len(STREET_CLASSES), np.float32)[None, :, None]
    return float((np.abs(mine - theirs) / scale).max())


def sha256(file: Path) -> str:
    """`sha256:…` of a file."""
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
