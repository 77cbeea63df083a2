"""Street scenes as a COCO folder on disk, rendered when first asked for."""

import json
from pathlib import Path
from typing import Any

import cv2

from visiondyno.datasets.cache_folder import Progress, ensure_folder
from visiondyno.datasets.rendering import Chunk, Split, check_scenes, render_in_chunks
from visiondyno.datasets.street.camera import HEIGHT, WIDTH
from visiondyno.datasets.street.plan import STREET_CLASSES
from visiondyno.datasets.street.scene import STREET_VERSION, draw_plan, plan_scene
from visiondyno.predictions import BoxTruth

_CHUNK = 25


def ensure_street(
    split: Split,
    count: int,
    cache_dir: Path,
    *,
    on_progress: Progress | None = None,
    processes: int = 1,
) -> Path:
    """The folder of the first `count` scenes of a split, rendered unless it is there already.

    The folder `street-v1-SPLIT-COUNT` holds `annotations.json` (COCO) and `images/00000.jpg` …
    How it comes about and is verified, `cache_folder.ensure_folder` says.

    Args:
        split: `train`, `val` or `demo`.
        count: how many scenes; a smaller count gives a prefix of the same scenes.
        cache_dir: where the folder is; made where absent.
        on_progress: called with scenes done and in all while rendering; not called on reuse.
        processes: how many processes render.

    Raises:
        SpecError: an unknown split, or a count outside 1–100,000.
        DatasetError: the cache folder can't be written.
    """
    check_scenes("street scenes", split, count)

    def write(folder: Path) -> None:
        (folder / "images").mkdir()
        labels: list[BoxTruth] = []
        scenes = (folder / "images", split, 0, count)
        for found in render_in_chunks(_render_chunk, scenes, _CHUNK, processes):
            labels.extend(found)
            if on_progress is not None:
                on_progress(len(labels), count)
        (folder / "annotations.json").write_text(json.dumps(_coco(split, labels)))

    name = f"street-v{STREET_VERSION}-{split}-{count}"
    return ensure_folder(cache_dir / name, write, "the street scenes")


def _render_chunk(chunk: Chunk) -> list[BoxTruth]:
    images, split, start, stop = chunk
    labels = []
    for index in range(start, stop):
        plan = plan_scene(split, index)
        image, truth = draw_plan(plan)
        quality = (cv2.IMWRITE_JPEG_QUALITY, plan.exposure.jpeg_quality)
        _, encoded = cv2.imencode(".jpg", image, quality)
        (images / f"{index:05d}.jpg").write_bytes(encoded.tobytes())
        labels.append(truth)
    return labels


def _coco(split: Split, labels: list[BoxTruth]) -> dict[str, Any]:
    images = [
        {"id": index + 1, "file_name": f"{index:05d}.jpg", "width": WIDTH, "height": HEIGHT,
         "license": 1}
        for index in range(len(labels))
    ]  # fmt: skip
    annotations: list[dict[str, Any]] = []
    for index, truth in enumerate(labels):
        for box, class_id, area in zip(truth.boxes_xyxy, truth.class_ids, truth.areas, strict=True):
            left, top, right, bottom = (float(value) for value in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(class_id) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(area),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {
            "description": f"VisionDyno street scenes, rendered: split {split}",
            "version": str(STREET_VERSION),
            "split": split,
            "scenes": len(labels),
        },
        "licenses": [{"id": 1, "name": "CC0-1.0", "url": "https://spdx.org/licenses/CC0-1.0.html"}],
        "categories": [
            {"id": index + 1, "name": name, "supercategory": "street"}
            for index, name in enumerate(STREET_CLASSES)
        ],
        "images": images,
        "annotations": annotations,
    }
