"""Open a data set and decode every image once, before anything is measured.

A header can be whole and the pixels broken. Finding that here, once for all models, means that one
bad image neither stops a comparison half-way nor leaves two models scored on different images.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from visiondyno.datasets.base import Dataset
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError
from visiondyno.operations.context import OperationContext
from visiondyno.vision.decode import decode_image


def open_verified(
    reference: str,
    *,
    skip_bad: bool,
    max_images: int | None,
    context: OperationContext,
    unlabelled: bool = False,
) -> Dataset:
    """The data set `reference`, every image of which decodes; `unlabelled` takes any images.

    Raises:
        DatasetError: it can't be read, or an image is bad and `skip_bad` is off.
    """
    context.progress("reading the data", data=reference)
    dataset = open_dataset(
        reference,
        skip_bad=skip_bad,
        max_images=max_images,
        unlabelled=unlabelled,
        on_progress=lambda done, total: context.progress(
            "preparing the data", done=done, total=total
        ),
    )
    bad: dict[int, str] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        problems = threads.map(lambda index: _problem(dataset, index), range(len(dataset)))
        for index, problem in enumerate(problems):
            if index % 50 == 0:
                context.progress("checking images", done=index, total=len(dataset))
            if problem is None:
                continue
            if not skip_bad:
                threads.shutdown(wait=False, cancel_futures=True)
                raise DatasetError(problem)
            bad[index] = problem
    return dataset.without(bad) if bad else dataset


def _problem(dataset: Dataset, index: int) -> str | None:
    sample = dataset.sample(index)
    try:
        height, width = decode_image(sample.path.read_bytes(), str(sample.path)).shape[:2]
    except DatasetError as error:
        return error.message
    except OSError as error:
        return f"{sample.path} can't be read: {error.strerror}."
    if (width, height) != (sample.width, sample.height):
        return (
            f"{sample.path} is {width}×{height} pixels and its labels are for "
            f"{sample.width}×{sample.height}; label the file as it is."
        )
    return None
