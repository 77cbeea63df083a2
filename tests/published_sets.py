"""Published data sets as the catalogue knows them, at a server of ours."""

from dataclasses import replace

from archives import zipped
from dataset_factory import encoded
from file_server import FileServer, Served
from visiondyno.datasets.pull import catalogue
from visiondyno.datasets.pull.catalogue import DownloadableDataset


def known(name: str) -> DownloadableDataset:
    found = catalogue.downloadable(name)
    assert found is not None
    return found


def coco128(server: FileServer) -> DownloadableDataset:
    """A small archive of coco128's layout at the server, in the catalogue's own entry."""
    server.files["coco128.zip"] = Served(
        zipped(
            {
                "coco128/": b"",
                "coco128/LICENSE": b"AGPL",
                "coco128/images/train2017/1.jpg": encoded(".jpg", 40, 30),
                "coco128/labels/train2017/1.txt": b"2 0.5 0.5 0.5 0.5\n",
            }
        )
    )
    return known("coco128")


def without_checksums(dataset: DownloadableDataset) -> DownloadableDataset:
    files = tuple(replace(file, checksum=None) for file in dataset.files)
    return replace(dataset, files=files)
