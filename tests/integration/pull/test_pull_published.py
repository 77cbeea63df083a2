"""Every published set opens after pulling; the catalogue is in order."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from archives import tar_info, tarred, zipped
from dataset_factory import CLASSES, encoded, idx_bytes, write_voc
from file_server import FileServer, Served
from published_sets import known, without_checksums
from visiondyno.datasets.pull.catalogue import DOWNLOADABLE
from visiondyno.datasets.pull.install import pull
from visiondyno.datasets.registry import open_dataset
from visiondyno.errors import DatasetError


def test_the_catalogue_is_in_order() -> None:
    names = [dataset.name for dataset in DOWNLOADABLE]
    assert len(set(names)) == len(names)
    for dataset in DOWNLOADABLE:
        assert dataset.terms
        for file in dataset.files:
            assert file.url.startswith(("https://", "http://"))
            assert file.url.endswith(file.name)
            if file.checksum is not None:
                algorithm, _, digest = file.checksum.partition(":")
                assert len(digest) == 2 * hashlib.new(algorithm).digest_size
                assert set(digest) <= set("0123456789abcdef")
            elif not file.url.startswith("https://"):
                pytest.fail(f"{file.url}: neither encrypted nor verified")


def serve_val2017(server: FileServer) -> None:
    labels = (
        b'{"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "car"}],'
        b'"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]}'
    )
    server.files["val2017.zip"] = Served(zipped({"val2017/1.jpg": encoded(".jpg", 30, 20)}))
    names = ("instances_val2017", "instances_train2017", "captions_val2017")
    server.files["annotations_trainval2017.zip"] = Served(
        zipped({f"annotations/{name}.json": labels for name in names})
    )


def serve_mnist(server: FileServer) -> None:
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = gzip.compress(idx_bytes(values))
            server.files[f"{part}-{kind}-ubyte.gz"] = Served(data)


def serve_voc(server: FileServer) -> None:
    folder = Path("made") / "VOCdevkit" / "VOC2007"
    write_voc(folder)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add("made/VOCdevkit", "VOCdevkit")
    server.files["VOCtest_06-Nov-2007.tar"] = Served(file.getvalue())


CIFAR_CLASSES = ("airplane", "automobile", "bird")


def serve_cifar(server: FileServer) -> None:
    def records(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 3072), np.uint8)
        labels = (np.arange(6, dtype=np.uint8) % 3)[:, None]
        return np.hstack((labels, pixels)).astype(np.uint8).tobytes()

    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    members = [
        (tar_info(f"cifar-10-batches-bin/{name}"), records(seed)) for seed, name in enumerate(names)
    ]
    meta = ("\n".join(CIFAR_CLASSES) + "\n\n").encode()
    members.append((tar_info("cifar-10-batches-bin/batches.meta.txt"), meta))
    members.append((tar_info("cifar-10-batches-bin/readme.html"), b"hi"))
    server.files["cifar-10-binary.tar.gz"] = Served(tarred(*members))


@pytest.mark.parametrize(
    ("name", "serve", "counts", "classes"),
    [
        ("coco-val2017", serve_val2017, {"": 1}, ("car",)),
        ("mnist", serve_mnist, {"": 10, ":test": 10, ":train": 20}, tuple("0123456789")),
        ("fashion_mnist", serve_mnist, {":train": 20}, known("fashion_mnist").classes),
        ("kmnist", serve_mnist, {":train": 20}, known("kmnist").classes),
        ("voc2007-test", serve_voc, {"": 4}, tuple(sorted(CLASSES))),
        ("cifar10", serve_cifar, {"": 6, ":test": 6, ":train": 30}, CIFAR_CLASSES),
    ],
)
def test_every_published_set_opens_after_pulling(
    server: FileServer,
    name: str,
    serve: Callable[[FileServer], None],
    counts: dict[str, int],
    classes: tuple[str, ...],
) -> None:
    """Small stand-ins of each set's own layout; their checksums can't be those of the real ones."""
    serve(server)
    pull(without_checksums(known(name)), urls=[server.url])
    for split, count in counts.items():
        dataset = open_dataset(name + split)
        assert (len(dataset), dataset.classes) == (count, classes)


def test_cifar_s_planes_become_pixels(server: FileServer) -> None:
    serve_cifar(server)
    pull(without_checksums(known("cifar10")), urls=[server.url])
    record = np.random.default_rng(5).integers(0, 256, (6, 3072), np.uint8)[0]
    image = cv2.imread(str(open_dataset("cifar10").sample(0).path))
    np.testing.assert_array_equal(image[..., ::-1], record.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("batch", "words"),
    [(b"\0" * 100, "isn't made of records"), (b"\x09" + b"\0" * 3072, "a class beyond the 3")],
    ids=["no records", "unknown class"],
)
def test_a_broken_cifar_is_refused(server: FileServer, batch: bytes, words: str) -> None:
    folder = "cifar-10-batches-bin/"
    meta = (tar_info(folder + "batches.meta.txt"), b"a\nb\nc\n")
    both = [(tar_info(folder + name), batch) for name in ("data_batch_1.bin", "test_batch.bin")]
    server.files["cifar-10-binary.tar.gz"] = Served(tarred(meta, *both))
    with pytest.raises(DatasetError, match=words):
        pull(without_checksums(known("cifar10")), urls=[server.url])
    server.files["cifar-10-binary.tar.gz"] = Served(tarred(meta))
    with pytest.raises(DatasetError, match="isn't complete"):
        pull(without_checksums(known("cifar10")), urls=[server.url])


def test_coco128_without_its_images(server: FileServer) -> None:
    server.files["coco128.zip"] = Served(zipped({"coco128/README.txt": b"hi"}))
    with pytest.raises(DatasetError, match="doesn't hold one folder in images/"):
        pull(known("coco128"), urls=[server.url])
