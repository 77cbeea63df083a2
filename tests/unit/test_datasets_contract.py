"""Every format keeps the data set contract."""

import gzip
import json
from pathlib import Path

import numpy as np

from contracts.dataset_contract import DatasetContract, ImageFilesContract
from dataset_factory import (
    idx_bytes,
    write_coco,
    write_depth,
    write_idx,
    write_image_folder,
    write_video,
    write_voc,
    write_yolo,
)


class TestCoco(ImageFilesContract):
    def write(self, root: Path) -> None:
        write_coco(root)

    def change_label(self, root: Path) -> None:
        path = root / "labels.json"
        document = json.loads(path.read_text())
        document["annotations"][0]["iscrowd"] = 1
        path.write_text(json.dumps(document))


class TestYolo(ImageFilesContract):
    def write(self, root: Path) -> None:
        write_yolo(root)

    def change_label(self, root: Path) -> None:
        path = root / "labels" / "val" / "a.txt"
        path.write_text("1" + path.read_text()[1:])


class TestVoc(ImageFilesContract):
    def write(self, root: Path) -> None:
        write_voc(root)

    def change_label(self, root: Path) -> None:
        path = root / "Annotations" / "a.xml"
        text = path.read_text()
        path.write_text(text.replace("<difficult>0<", "<difficult>1<", 1))


class TestImageFolder(ImageFilesContract):
    def write(self, root: Path) -> None:
        write_image_folder(root)

    def change_label(self, root: Path) -> None:
        (root / "cat" / "b.png").rename(root / "dog" / "0.png")


class TestDepthFolder(ImageFilesContract):
    def write(self, root: Path) -> None:
        write_depth(root)

    def change_label(self, root: Path) -> None:
        depth = np.load(root / "depth" / "a.npy")
        depth[0, 0] = 9.5
        np.save(root / "depth" / "a.npy", depth)


class TestDigits(ImageFilesContract):
    """The built-in renderer's folder, opened as a folder of one's own."""

    def write(self, root: Path) -> None:
        from visiondyno.datasets.digits import ensure_digits

        ensure_digits("demo", 20, root.parent / "made").rename(root)

    def change_label(self, root: Path) -> None:
        (root / "3" / "00003.png").rename(root / "4" / "00003.png")


class TestIdx(DatasetContract):
    def write(self, root: Path) -> None:
        write_idx(root, {"t10k": 12})

    def change_label(self, root: Path) -> None:
        path = root / "t10k-labels-idx1-ubyte.gz"
        labels = np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8).copy()
        labels[0] = (labels[0] + 1) % 10
        path.write_bytes(gzip.compress(idx_bytes(labels)))

    def change_image(self, root: Path) -> None:
        path = root / "t10k-images-idx3-ubyte.gz"
        data = bytearray(gzip.decompress(path.read_bytes()))
        data[16] ^= 1
        path.write_bytes(gzip.compress(bytes(data)))


class TestIdxSplit(TestIdx):
    """One part only: its test split, by the stated seed."""

    def write(self, root: Path) -> None:
        write_idx(root, {"t10k": 30})

    def reference(self, root: Path) -> str:
        return f"{root}:test"

    def change_label(self, root: Path) -> None:
        path = root / "t10k-labels-idx1-ubyte.gz"
        labels = np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8)
        path.write_bytes(gzip.compress(idx_bytes((labels + 1) % 10)))

    def change_image(self, root: Path) -> None:
        path = root / "t10k-images-idx3-ubyte.gz"
        data = gzip.decompress(path.read_bytes())
        pixels = np.frombuffer(data[16:], np.uint8) ^ 1
        path.write_bytes(gzip.compress(data[:16] + pixels.tobytes()))


class TestVideo(DatasetContract):
    def write(self, root: Path) -> None:
        write_video(root)

    def reference(self, root: Path) -> str:
        return str(root / "clip.avi")

    def change_label(self, root: Path) -> None:
        path = root / "clip.json"
        document = json.loads(path.read_text())
        document["annotations"][0]["iscrowd"] = 1
        path.write_text(json.dumps(document))

    def change_image(self, root: Path) -> None:
        write_video(root, seed=1)
