"""Exports a randomly weighted Ultralytics detector and predicts with Ultralytics' own code.

Run as a program (Ultralytics changes process-wide settings on import):
`python ultralytics_reference.py NAME OUT_FOLDER`. NAME is a model YAML of the ultralytics package;
nothing is downloaded. It writes NAME.onnx and reference.npz: images, and for each its boxes.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from ultralytics import YOLO

SIZES = ((480, 640), (333, 500), (640, 360), (97, 211))
CONFIDENCE, NMS_IOU, IMAGE_SIZE = 0.25, 0.6, 320


def photo_like(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def build(name: str) -> YOLO:
    torch.manual_seed(0)
    model = YOLO(f"{name}.yaml", task="detect")
    norms = [m for m in model.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    images = np.stack([photo_like(IMAGE_SIZE, IMAGE_SIZE, 100 + n) for n in range(8)])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    head = model.model.model[-1]
    with torch.no_grad():
        # Fresh weights let the signal die out: take each layer's statistics from real input.
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        model.model.train()
        model.model(batch)
        # Fresh heads answer 1e-5 everywhere: raise and spread scores and boxes.
        for scores, boxes in zip(head.cv3, head.cv2, strict=True):
            scores[-1].bias.copy_(torch.empty_like(scores[-1].bias).normal_(-4.0, 1.0))
            scores[-1].weight.mul_(0.6)
            boxes[-1].weight.mul_(5.0)
    model.model.eval()
    return model


def main(name: str, out: Path) -> None:
    model = build(name)
    # The exporter writes beside the weights' path.
    model.ckpt_path = str(out / f"{name}.pt")
    model.model.pt_path = str(out / f"{name}.pt")
    exported = Path(model.export(format="onnx", imgsz=IMAGE_SIZE, opset=17, simplify=False))
    exported.rename(out / f"{name}.onnx")
    reference = YOLO(str(out / f"{name}.onnx"), task="detect")
    arrays = {}
    for number, (height, width) in enumerate(SIZES):
        image = photo_like(height, width, number)
        result = reference.predict(
            image, conf=CONFIDENCE, iou=NMS_IOU, imgsz=IMAGE_SIZE, verbose=False, save=False
        )[0]
        arrays[f"image{number}"] = image
        arrays[f"rows{number}"] = result.boxes.data.numpy()
    np.savez(out / "reference.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
