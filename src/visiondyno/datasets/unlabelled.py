"""Images without labels: what models take of them can be measured, and where they agree."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from visiondyno.datasets.base import Sample
from visiondyno.datasets.header import read_header
from visiondyno.datasets.image_files import image_files
from visiondyno.datasets.indexed import Candidate, IndexedDataset, OpenOptions
from visiondyno.predictions import NoTruth

_NOTE = (
    "The data have no labels: accuracy isn't measured. Speed is that on these images, and "
    "agreement is with the reference model, which may be wrong too"
)


def open_images(folder: Path, options: OpenOptions) -> IndexedDataset:
    """Every image below a folder.

    Raises:
        DatasetError: there's none, or one is bad and `skip_bad` is off.
    """
    return unlabelled(sorted(image_files(folder)), options, "images")


def unlabelled(
    paths: Iterable[Path], options: OpenOptions, form: str, notes: tuple[str, ...] = ()
) -> IndexedDataset:
    """These image files, in this order, as a data set of the format `form`.

    Raises:
        DatasetError: there's none, or one is bad and `skip_bad` is off.
    """
    candidates = (
        Candidate(path, partial(_sample, image_id, path)) for image_id, path in enumerate(paths)
    )
    return IndexedDataset(options, form, (), candidates, notes=(*notes, _NOTE))


def _sample(image_id: int, path: Path) -> Sample:
    header = read_header(path)
    return Sample(image_id, path, header.width, header.height, NoTruth())
