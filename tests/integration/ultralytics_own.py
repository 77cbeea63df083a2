"""Trains a small detector by Ultralytics' own code, and predicts, validates and exports by it.

Run as a program (Ultralytics changes process-wide settings): `python ultralytics_own.py FOLDER`. It
writes FOLDER/small.pt as its trainer left it, `small.onnx`, `rows.npz` (the boxes of twenty
images, one by one and in a list), `images` and `labels` (a YOLO folder), `truth.json` and
`found.json` (COCO's formats).
"""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import ultralytics
import yaml
from ultralytics import YOLO

from visiondyno.datasets.registry import open_dataset

IMAGES, LEARNED, SIDE, HEIGHT = 20, 8, 160, 96
CONFIDENCE = 0.02


def write_data(out: Path) -> Path:
    """Twenty street scenes as a YOLO folder and as COCO's JSON; the model learns eight of them."""
    dataset = open_dataset("street:val", max_images=IMAGES)
    names = list(dataset.classes)
    (out / "images").mkdir()
    (out / "labels").mkdir()
    images, boxes = [], []
    for number in range(IMAGES):
        sample = dataset.sample(number)
        shutil.copy(sample.path, out / "images" / f"{number:05d}.jpg")
        images.append({"id": number, "width": sample.width, "height": sample.height})
        rows = []
        truth = zip(sample.truth.boxes_xyxy, sample.truth.class_ids, strict=True)
        for (left, top, right, bottom), class_id in truth:
            width, height = right - left, bottom - top
            shares = np.array([left + width / 2, top + height / 2, width, height])
            shares /= [sample.width, sample.height] * 2
            rows.append(f"{class_id} " + " ".join(f"{share:.7f}" for share in shares))
            boxes.append({
                "id": len(boxes) + 1,
                "image_id": number,
                "category_id": int(class_id) + 1,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
            })  # fmt: skip
        (out / "labels" / f"{number:05d}.txt").write_text("\n".join(rows))
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    truth_file = {"images": images, "annotations": boxes, "categories": categories}
    (out / "truth.json").write_text(json.dumps(truth_file))
    learned = [str(out / "images" / f"{number:05d}.jpg") for number in range(LEARNED)]
    (out / "learned.txt").write_text("\n".join(learned))
    said = {"path": str(out), "train": "learned.txt", "val": "images", "names": names}
    (out / "data.yaml").write_text(yaml.safe_dump(said))
    return out / "data.yaml"


def train(data: Path, out: Path) -> YOLO:
    file = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8.yaml"
    layers = yaml.safe_load(file.read_text())
    del layers["scales"]
    layers |= {"depth_multiple": 0.33, "width_multiple": 0.125}
    (out / "small.yaml").write_text(yaml.safe_dump(layers))
    model = YOLO(str(out / "small.yaml"), task="detect")
    still = dict.fromkeys(("mosaic", "scale", "translate", "hsv_h", "hsv_s", "hsv_v"), 0.0)
    model.train(
        data=str(data), epochs=60, imgsz=SIDE, batch=2, nbs=2, optimizer="AdamW", lr0=0.004,
        lrf=0.1, warmup_epochs=1, workers=0, plots=False, val=False, amp=False, seed=0,
        device="cpu", project=str(out), name="trained", exist_ok=True, verbose=False, **still,
    )  # fmt: skip
    shutil.copy(model.trainer.last, out / "small.pt")
    return YOLO(str(out / "small.pt"))


def main(out: Path) -> None:
    data = write_data(out)
    model = train(data, out)
    images = [cv2.imread(str(path)) for path in sorted((out / "images").glob("*.jpg"))]
    settings = {"conf": CONFIDENCE, "iou": 0.7, "imgsz": SIDE, "verbose": False, "device": "cpu"}
    rows = {}
    for number, image in enumerate(images):
        rows[f"alone{number}"] = model.predict(image, **settings)[0].boxes.data.numpy()
    for number, result in enumerate(model.predict(images, **settings)):
        rows[f"listed{number}"] = result.boxes.data.numpy()
    np.savez(out / "rows.npz", **rows)
    # Without `rect` every image is padded to the same square, which a card can say too.
    scored = YOLO(str(out / "small.pt")).val(
        data=str(data), imgsz=SIDE, rect=False, batch=4, workers=0, plots=False, save_json=True,
        device="cpu", project=str(out), name="scored", exist_ok=True, verbose=False,
    )  # fmt: skip
    shutil.copy(scored.save_dir / "predictions.json", out / "found.json")
    exported = model.export(format="onnx", imgsz=(HEIGHT, SIDE), opset=17, simplify=False)
    assert Path(exported) == out / "small.onnx"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
