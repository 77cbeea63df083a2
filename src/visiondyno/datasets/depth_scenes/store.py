"""Depth scenes as a depth folder on disk, rendered when first asked for."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from visiondyno.datasets.cache_folder import Progress, ensure_folder
from visiondyno.datasets.depth_scenes.scene import (
    DEPTH_SCENES_VERSION,
    depth_in_millimetres,
    draw_plan,
    plan_scene,
)
from visiondyno.datasets.rendering import Chunk, Split, check_scenes, render_in_chunks

_CHUNK = 10


def ensure_depth_scenes(
    split: Split,
    count: int,
    cache_dir: Path,
    *,
    on_progress: Progress | None = None,
    processes: int = 1,
) -> Path:
    """The folder of the first `count` scenes of a split, rendered unless it is there already.

    The folder `depth-scenes-v1-SPLIT-COUNT` holds `images/00000.jpg` … and, of each, its depth in
    `depth/00000.png`: 16-bit millimetres along the optical axis, 0 where there is none to give.
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
    check_scenes("depth scenes", split, count)

    def write(folder: Path) -> None:
        (folder / "images").mkdir()
        (folder / "depth").mkdir()
        done = 0
        scenes = (folder, split, 0, count)
        for rendered in render_in_chunks(_render_chunk, scenes, _CHUNK, processes):
            done += rendered
            if on_progress is not None:
                on_progress(done, count)

    name = f"depth-scenes-v{DEPTH_SCENES_VERSION}-{split}-{count}"
    return ensure_folder(cache_dir / name, write, "the depth scenes")


def _render_chunk(chunk: Chunk) -> int:
    folder, split, start, stop = chunk
    for index in range(start, stop):
        plan = plan_scene(split, index)
        image, depth = draw_plan(plan)
        quality = (cv2.IMWRITE_JPEG_QUALITY, plan.exposure.jpeg_quality)
        _write(folder / "images" / f"{index:05d}.jpg", cv2.imencode(".jpg", image, quality))
        depth_file = folder / "depth" / f"{index:05d}.png"
        _write(depth_file, cv2.imencode(".png", depth_in_millimetres(depth)))
    return stop - start


def _write(file: Path, encoded: tuple[bool, NDArray[np.uint8]]) -> None:
    file.write_bytes(encoded[1].tobytes())
