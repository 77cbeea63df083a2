"""Small data sets in every format, with the same content, for tests."""

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

CLASSES = ("car", "truck", "stop sign")
SIZES = {"a.jpg": (64, 48), "b.png": (40, 56), "c.bmp": (33, 31), "d.webp": (50, 20)}
"""Width and height of each image."""

BOXES: dict[str, list[tuple[int, tuple[float, float, float, float]]]] = {
    "a.jpg": [(0, (1.0, 2.0, 31.0, 42.0)), (2, (5.5, 6.25, 15.0, 16.0))],
    "b.png": [(1, (0.0, 0.0, 40.0, 56.0))],
    "c.bmp": [],
    "d.webp": [(0, (10.0, 5.0, 20.0, 19.0))],
}
"""Labels of each image: class id and left, top, right, bottom in pixels."""


def encoded(suffix: str, width: int, height: int, seed: int = 0) -> bytes:
    """A noisy image, encoded as its suffix says."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def with_exif_orientation(jpeg: bytes, orientation: int, order: str = "<") -> bytes:
    """The JPEG with an EXIF segment that holds this orientation only."""
    mark = b"II" if order == "<" else b"MM"
    tiff = mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        (folder / name).write_bytes(encoded(Path(name).suffix, width, height, seed))


def coco_document() -> dict[str, Any]:
    """The labels as COCO JSON: category ids with gaps, images not sorted, areas not given."""
    names = sorted(SIZES, reverse=True)
    annotations = [
        {
            "id": 100 + number,
            "image_id": 7 + names.index(name),
            "category_id": 10 * (class_id + 1),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        }
        for number, (name, class_id, box) in enumerate(
            (name, class_id, box) for name in BOXES for class_id, box in BOXES[name]
        )
    ]
    return {
        "images": [
            {"id": 7 + index, "file_name": name, "width": SIZES[name][0], "height": SIZES[name][1]}
            for index, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [
            {"id": 10 * (index + 1), "name": name}
            for index, name in reversed([*enumerate(CLASSES)])
        ],
    }


def write_coco(root: Path, document: dict[str, Any] | None = None) -> None:
    write_images(root / "images")
    (root / "labels.json").write_text(json.dumps(document or coco_document()))


def yolo_lines(name: str) -> str:
    width, height = SIZES[name]
    return "".join(
        f"{class_id} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
        f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
        for class_id, (x1, y1, x2, y2) in BOXES[name]
    )


def write_yolo(root: Path) -> None:
    """Ultralytics' layout with a data.yaml; an image without objects has no label file."""
    write_images(root / "images" / "val")
    (root / "labels" / "val").mkdir(parents=True)
    for name in SIZES:
        if BOXES[name]:
            (root / "labels" / "val" / name).with_suffix(".txt").write_text(yolo_lines(name))
    config = {"path": ".", "val": "images/val", "names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(config))


def write_image_folder(root: Path) -> None:
    """Two images a class, and a class without any."""
    for seed, name in enumerate(("cat/a.jpg", "cat/b.png", "dog/a.webp", "dog/c.bmp")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(Path(name).suffix, 20 + seed, 30, seed))
    (root / "eel").mkdir()
