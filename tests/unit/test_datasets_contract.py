"""Every format keeps the data set contract."""

import json
from pathlib import Path

from contracts.dataset_contract import DatasetContract
from dataset_factory import write_coco, write_image_folder, write_yolo


class TestCoco(DatasetContract):
    def write(self, root: Path) -> None:
        write_coco(root)

    def change_label(self, root: Path) -> None:
        path = root / "labels.json"
        document = json.loads(path.read_text())
        document["annotations"][0]["iscrowd"] = 1
        path.write_text(json.dumps(document))


class TestYolo(DatasetContract):
    def write(self, root: Path) -> None:
        write_yolo(root)

    def change_label(self, root: Path) -> None:
        path = root / "labels" / "val" / "a.txt"
        path.write_text("1" + path.read_text()[1:])


class TestImageFolder(DatasetContract):
    def write(self, root: Path) -> None:
        write_image_folder(root)

    def change_label(self, root: Path) -> None:
        (root / "cat" / "b.png").rename(root / "dog" / "0.png")
