"""Depth folders: `images/NAME.jpg` and, for each, `depth/NAME.npy` or a 16-bit `depth/NAME.png`.

A `.npy` holds metres as floating-point numbers, a PNG whole millimetres, 0 where nothing was
measured. Depth has its image's size.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from visiondyno.datasets.base import Sample
from visiondyno.datasets.depth import METRES_PER_UNIT, read_depth
from visiondyno.datasets.header import read_header
from visiondyno.datasets.image_files import image_files
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.errors import DatasetError
from visiondyno.predictions import DepthTruth


def is_depth_folder(folder: Path) -> bool:
    """Whether `folder` has `images/` and `depth/`."""
    return (folder / "images").is_dir() and (folder / "depth").is_dir()


def open_depth_folder(folder: Path, options: OpenOptions) -> IndexedDataset:
    """Open a depth folder; every depth map is read, since a map without measured depth is bad.

    Raises:
        DatasetError: there is no depth map, or a sample is bad and `skip_bad` is off.
    """
    images, depths = folder / "images", folder / "depth"
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(depths.rglob("*")):
        if path.suffix.lower() in METRES_PER_UNIT and path.is_file():
            by_stem.setdefault(_stem(path, depths), []).append(path)
    if not by_stem:
        raise DatasetError(f"Data set {folder} has no depth: {depths} holds no .npy and no .png")
    names = sorted((path.relative_to(images).as_posix(), path) for path in image_files(images))
    left = sorted(by_stem.keys() - {_stem(path, images) for _, path in names})
    notes = tuple(
        f"{len(left)} depth maps have no image and don't count, first {name}" for name in left[:1]
    )
    return IndexedDataset(
        options,
        "depth-folder",
        (),
        _candidates([path for _, path in names], images, by_stem),
        notes=notes,
    )


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _candidates(
    images: list[Path], root: Path, by_stem: dict[str, list[Path]]
) -> Iterator[Candidate]:
    for image_id, path in enumerate(images):
        depths = by_stem.get(_stem(path, root), [])
        yield Candidate(path, partial(_sample, image_id, path, depths))


def _sample(image_id: int, path: Path, depths: list[Path]) -> Sample:
    header = read_header(path)
    if not depths:
        raise DatasetError(
            f"Image {path} has no depth map: depth/{path.stem}.npy or .png was expected"
        )
    if len(depths) > 1:
        raise DatasetError(
            f"Image {path} has two depth maps, {depths[0].name} and {depths[1].name}: remove one"
        )
    (depth_path,) = depths
    if header.orientation != 1:
        raise DatasetError(
            f"Image {path} has EXIF orientation {header.orientation}, so its depth may belong to "
            "the turned image. Turn the pixels themselves and drop the tag"
        )
    truth = DepthTruth(depth_path, METRES_PER_UNIT[depth_path.suffix.lower()])
    depth = read_depth(truth)
    if depth.shape != (header.height, header.width):
        raise DatasetError(
            f"Image {path} is {header.width}×{header.height} pixels, but {depth_path} is "
            f"{depth.shape[1]}×{depth.shape[0]}. Depth must have its image's size"
        )
    if np.isnan(depth).all():
        raise DatasetError(f"Depth {depth_path} has no measured pixel: all are 0, NaN or infinite")
    return Sample(image_id, path, header.width, header.height, truth)
