"""Small data sets in every format, with the same content, for tests."""

import gzip
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


def voc_xml(name: str, *, difficult: tuple[int, ...] = ()) -> str:
    """The labels of one image as VOC writes them: pixels from 1, both corners inside."""
    width, height = SIZES[name]
    objects = "".join(
        f"<object><name>{CLASSES[class_id]}</name><difficult>{int(index in difficult)}</difficult>"
        f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for index, (class_id, (x1, y1, x2, y2)) in enumerate(BOXES[name])
    )
    return (
        f"<annotation><filename>{name}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def write_voc(root: Path) -> None:
    write_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name in SIZES:
        (root / "Annotations" / name).with_suffix(".xml").write_text(voc_xml(name))


def depth_metres(width: int, height: int, seed: int) -> np.ndarray:
    """(height, width) float32 metres from 0.5 to 8, in whole millimetres."""
    millimetres = np.random.default_rng(seed).integers(500, 8000, (height, width))
    return (millimetres / 1000).astype(np.float32)


def write_depth(root: Path) -> None:
    """Metres as .npy of two images, millimetres as PNG of two; one pixel not measured."""
    write_images(root / "images")
    (root / "depth").mkdir()
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        depth = depth_metres(width, height, seed)
        depth[0, 0] = 0
        target = root / "depth" / Path(name).stem
        if seed % 2:
            _, png = cv2.imencode(".png", np.round(depth * 1000).astype(np.uint16))
            target.with_suffix(".png").write_bytes(png.tobytes())
        else:
            np.save(target.with_suffix(".npy"), depth)


def idx_bytes(values: np.ndarray) -> bytes:
    """Unsigned bytes as an idx file."""
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


def write_idx(root: Path, parts: dict[str, int]) -> None:
    """Parts (`train`, `t10k`) with so many 5×7 images each; labels go from 0 to 9 and again."""
    root.mkdir(parents=True)
    for seed, (part, count) in enumerate(parts.items()):
        images = np.random.default_rng(seed).integers(0, 256, (count, 7, 5), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = gzip.compress(idx_bytes(values))
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(data)


VIDEO_FRAMES = 9
VIDEO_SIZE = (64, 48)


def write_video(root: Path, seed: int = 0) -> None:
    """A clip of 9 frames, in which frame n has the brightness 20·n, and labels of four frames."""
    root.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(root / "clip.avi"), codec, 25.0, VIDEO_SIZE)
    noise = np.random.default_rng(seed).integers(0, 8, (*VIDEO_SIZE[::-1], 3), np.uint8)
    for number in range(VIDEO_FRAMES):
        writer.write(noise + np.uint8(20 * number))
    writer.release()
    names = {1: "frame_000002", 2: "frame_000000.jpg", 3: "8", 4: "frame_000005"}
    document = {
        "images": [{"id": image_id, "file_name": name} for image_id, name in names.items()],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [5, 5, 10, 10]},
        ],
        "categories": [{"id": 1, "name": "car"}],
    }
    (root / "clip.json").write_text(json.dumps(document))
