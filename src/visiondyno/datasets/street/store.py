"""Street scenes as a COCO folder on disk, rendered when first asked for."""

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from visiondyno.datasets.street.camera import HEIGHT, WIDTH
from visiondyno.datasets.street.plan import STREET_CLASSES
from visiondyno.datasets.street.scene import SPLITS, STREET_VERSION, Split, draw_plan, plan_scene
from visiondyno.errors import DatasetError, SpecError
from visiondyno.predictions import BoxTruth

MOST_SCENES = 100_000
"""The names of images have five digits."""
_CHUNK = 25
_SUMS = "SHA256SUMS"

Progress = Callable[[int, int], None]
"""Called with scenes rendered so far and in all."""


def ensure_street(
    split: Split,
    count: int,
    cache_dir: Path,
    *,
    on_progress: Progress | None = None,
    processes: int = 1,
) -> Path:
    """The folder of the first `count` scenes of a split, rendered unless it is there already.

    The folder `street-v1-SPLIT-COUNT` holds `annotations.json` (COCO), `images/00000.jpg` … and
    `SHA256SUMS`. It appears in one step, complete: callers at the same time wait for the one that
    renders, what an interruption left is thrown away, and a folder whose files don't have their
    sums is rendered anew.

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
    if split not in SPLITS:
        raise SpecError(
            f"Street scenes have no split '{split}': choose one of {', '.join(SPLITS)}."
        )
    if not 1 <= count <= MOST_SCENES:
        raise SpecError(f"{count} street scenes can't be rendered: ask for 1 to {MOST_SCENES}.")
    target = cache_dir / f"street-v{STREET_VERSION}-{split}-{count}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(cache_dir / f".{target.name}.lock"):
            if not _intact(target):
                _make(target, split, count, on_progress, processes)
    except OSError as error:
        raise DatasetError(
            f"The street scenes can't be written to '{cache_dir}' ({error.strerror or error}). "
            "Choose a folder that can be written and has room."
        ) from error
    return target


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    # flock is let go by the kernel when its holder dies: an interruption leaves no stale lock.
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _intact(folder: Path) -> bool:
    try:
        lines = (folder / _SUMS).read_text().splitlines()
        sums = [line.split("  ", 1) for line in lines]
        return bool(sums) and all(_sha256(folder / name) == digest for digest, name in sums)
    except (OSError, ValueError):
        return False


def _make(
    target: Path, split: Split, count: int, on_progress: Progress | None, processes: int
) -> None:
    prefix = f".{target.name}."
    for left in target.parent.glob(f"{prefix}*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=target.parent))
    try:
        (part / "images").mkdir()
        labels: list[BoxTruth] = []
        for found in _rendered(part / "images", split, count, processes):
            labels.extend(found)
            if on_progress is not None:
                on_progress(len(labels), count)
        (part / "annotations.json").write_text(json.dumps(_coco(split, labels)))
        _write_sums(part)
        # mkdtemp makes a folder that only its owner can read.
        part.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _rendered(images: Path, split: Split, count: int, processes: int) -> Iterator[list[BoxTruth]]:
    starts = range(0, count, _CHUNK)
    jobs = [(images, split, start, min(count, start + _CHUNK)) for start in starts]
    if processes <= 1:
        yield from map(_render_chunk, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(_render_chunk, jobs)


def _render_chunk(job: tuple[Path, Split, int, int]) -> list[BoxTruth]:
    images, split, start, stop = job
    labels = []
    for index in range(start, stop):
        plan = plan_scene(split, index)
        image, truth = draw_plan(plan)
        quality = (cv2.IMWRITE_JPEG_QUALITY, plan.exposure.jpeg_quality)
        _, encoded = cv2.imencode(".jpg", image, quality)
        (images / f"{index:05d}.jpg").write_bytes(encoded.tobytes())
        labels.append(truth)
    return labels


def _write_sums(folder: Path) -> None:
    files = [folder / "annotations.json", *sorted((folder / "images").iterdir())]
    lines = [f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in files]
    # Written to the disk last: a folder with sums that match was complete.
    with (folder / _SUMS).open("w") as sums:
        sums.writelines(lines)
        sums.flush()
        os.fsync(sums.fileno())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
