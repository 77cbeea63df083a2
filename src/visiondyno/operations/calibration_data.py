"""Whether a model was calibrated on images that it is scored on."""

from collections import defaultdict
from pathlib import Path

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import open_dataset
from visiondyno.operations.context import OperationContext
from visiondyno.whole_file import file_sha256

_TOLD_EVERY = 50


def overlap_note(calibration: Dataset, data: str, context: OperationContext) -> str | None:
    """A warning where images of `data` are among those of `calibration`; None where none is.

    Images are the same where their files have the same content, whatever they are called.

    Raises:
        DatasetError: `data` can't be read.
    """
    scored = open_dataset(data, unlabelled=True)
    count = shared_images(calibration, scored, context)
    if not count:
        return None
    return (
        f"Warning: {count} of the {len(scored)} images of {data} are among the {len(calibration)} "
        "that the ranges were found on. Scores on them say how well the ranges fit those, not how "
        "good they are on new images; calibrate on others, such as the training part."
    )


def shared_images(one: Dataset, other: Dataset, context: OperationContext) -> int:
    """How many images of `other` have the content of an image of `one`.

    Only files of one length are read.
    """
    by_length: defaultdict[int, list[Path]] = defaultdict(list)
    for index in range(len(one)):
        path = one.sample(index).path
        by_length[path.stat().st_size].append(path)
    digests: dict[int, set[str]] = {}
    count = 0
    for index in range(len(other)):
        if index % _TOLD_EVERY == 0:
            context.progress("comparing images", done=index, total=len(other))
        path = other.sample(index).path
        length = path.stat().st_size
        if length not in by_length:
            continue
        if length not in digests:
            digests[length] = {file_sha256(found) for found in by_length[length]}
        count += file_sha256(path) in digests[length]
    return count
