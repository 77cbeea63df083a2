"""Published data sets that `dyno datasets pull` knows: where they are, and under which terms.

A checksum stands here only where it is published: by the makers of the data, or in the source of
torchvision, TensorFlow's or MLCommons' loaders. MD5 is what they publish; it tells damage and a
wrong file, and isn't safe against a forger who could choose both files. Where none is published,
the SHA-256 of the first download is recorded on this machine, and later ones must match it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DATA_FOLDER_VARIABLE = "VISIONDYNO_DATA"
"""Names the folder that is searched before anything is downloaded."""

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_KUZUSHIJI_URL = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to download.

    Attributes:
        name: of the file.
        url: where it is published.
        about_bytes: its size, roughly; more than twice as much isn't read.
        checksum: `md5:…` or `sha256:…` in hexadecimal, or None where none is published.
        unpack: the kind of archive, or None for a file that stays as it is.
        strip: only what lies below this folder of the archive counts, without that folder.
        keep: only names with one of these beginnings count (after `strip`); () keeps all.
    """

    name: str
    url: str
    about_bytes: int
    checksum: str | None = None
    unpack: Literal["zip", "tar"] | None = None
    strip: str = ""
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DownloadableDataset:
    """A published data set.

    Attributes:
        name: its dataset reference.
        description: one line.
        files: what is downloaded.
        terms: its licence, or what is known where it has none.
        prepare: what is done after unpacking; see `visiondyno.datasets.pull.prepare`.
        classes: names that the files don't hold, class 0 first.
        default_split: opened where the reference names none; None: as the folder's format does.
        splits: that it has once it is pulled; () where nobody needs to know before.
        image_shape: channels, height and width of every image; None where they differ.
        class_count: of a classification set.
    """

    name: str
    description: str
    files: tuple[SourceFile, ...]
    terms: str
    prepare: Literal["yolo_names", "class_names", "cifar_folders"] | None = None
    classes: tuple[str, ...] = ()
    default_split: str | None = None
    splits: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None
    class_count: int | None = None


def _idx_files(base: str, sizes: tuple[int, ...], md5: tuple[str, ...]) -> tuple[SourceFile, ...]:
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return tuple(
        SourceFile(name, base + name, size, f"md5:{digest}")
        for name, size, digest in zip(names, sizes, md5, strict=True)
    )


_COCO_TERMS = (
    "annotations CC BY 4.0 (COCO Consortium); each photo under its own Flickr licence, some "
    "non-commercial: https://cocodataset.org/#termsofuse"
)

DOWNLOADABLE: tuple[DownloadableDataset, ...] = (
    DownloadableDataset(
        name="coco128",
        description="the first 128 images of COCO train2017, YOLO labels, 80 classes",
        files=(
            SourceFile(
                "coco128.zip",
                "https://github.com/ultralytics/assets/releases/download/v0.0.0/coco128.zip",
                7_000_000,
                unpack="zip",
                strip="coco128/",
            ),
        ),
        terms=_COCO_TERMS,
        prepare="yolo_names",
    ),
    DownloadableDataset(
        name="coco-val2017",
        description="COCO's 5,000 validation images, 80 classes",
        files=(
            SourceFile(
                "val2017.zip",
                "http://images.cocodataset.org/zips/val2017.zip",
                815_585_330,
                "md5:442b8da7639aecaf257c1dceb8ba8c80",
                unpack="zip",
                keep=("val2017/",),
            ),
            SourceFile(
                "annotations_trainval2017.zip",
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                252_907_541,
                "md5:f4bbac642086de4f52a3fdda2de5fa2c",
                unpack="zip",
                keep=("annotations/instances_val2017.json",),
            ),
        ),
        terms=_COCO_TERMS,
    ),
    DownloadableDataset(
        name="voc2007-test",
        description="Pascal VOC 2007's 4,952 test images, 20 classes",
        files=(
            SourceFile(
                "VOCtest_06-Nov-2007.tar",
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
                451_020_800,
                "md5:b6e924de25625d8de591ea690078ad9f",
                unpack="tar",
                strip="VOCdevkit/VOC2007/",
                keep=("Annotations/", "JPEGImages/", "ImageSets/Main/"),
            ),
        ),
        terms="photos from Flickr under Flickr's terms of use; no licence of its own",
    ),
    DownloadableDataset(
        name="mnist",
        description="handwritten digits, 28×28 grey: 60,000 train, 10,000 test",
        files=_idx_files(
            _MNIST_URL,
            (9_912_422, 28_881, 1_648_877, 4_542),
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        terms="CC BY-SA 3.0 (Yann LeCun, Corinna Cortes)",
        splits=("train", "test"),
        image_shape=(1, 28, 28),
        class_count=10,
    ),
    DownloadableDataset(
        name="fashion_mnist",
        description="Zalando's articles of clothing, 28×28 grey: 60,000 train, 10,000 test",
        files=_idx_files(
            _FASHION_URL,
            (26_421_880, 29_515, 4_422_102, 5_148),
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        terms="MIT (Zalando SE)",
        prepare="class_names",
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
            "Bag", "Ankle boot",
        ),
        splits=("train", "test"),
        image_shape=(1, 28, 28),
        class_count=10,
    ),
    DownloadableDataset(
        name="kmnist",
        description="cursive Japanese characters, 28×28 grey: 60,000 train, 10,000 test",
        files=_idx_files(
            _KUZUSHIJI_URL,
            (18_165_135, 29_497, 3_041_136, 5_120),
            (
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
        ),
        terms="CC BY-SA 4.0 (Center for Open Data in the Humanities)",
        prepare="class_names",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        splits=("train", "test"),
        image_shape=(1, 28, 28),
        class_count=10,
    ),
    DownloadableDataset(
        name="cifar10",
        description="photos of 10 things, 32×32: 50,000 train, 10,000 test",
        files=(
            # The binary version: the Python one is a pickle, which runs code when it is read.
            SourceFile(
                "cifar-10-binary.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
                unpack="tar",
                strip="cifar-10-batches-bin/",
                keep=("data_batch_", "test_batch.bin", "batches.meta.txt"),
            ),
        ),
        terms="no licence is stated; cite Krizhevsky, Learning Multiple Layers of Features (2009)",
        prepare="cifar_folders",
        default_split="test",
        splits=("train", "test"),
        image_shape=(3, 32, 32),
        class_count=10,
    ),
)  # fmt: skip


def downloadable(name: str) -> DownloadableDataset | None:
    """The published data set of this name, or None."""
    return next((dataset for dataset in DOWNLOADABLE if dataset.name == name), None)


def data_folder() -> Path | None:
    """The folder that `VISIONDYNO_DATA` names, or None where it isn't set."""
    given = os.environ.get(DATA_FOLDER_VARIABLE)
    return Path(given).expanduser() if given else None


def pulled_folder(name: str, cache_dir: Path) -> Path:
    """Where a pulled data set lies in the cache, there or not."""
    return cache_dir / "datasets" / name
