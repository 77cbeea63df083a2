"""Images, and what the model finds in them, found without any server."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.serving.batches import Batches
from visiondyno.serving.wire import Item, Kind

IMAGES = 8


@dataclass(frozen=True, slots=True)
class Known:
    """A model, images, and the right answers."""

    model: str
    images: list[str]
    answers: list[Any]


def find_known(testdata: Path) -> Known:
    """YOLOX-nano and the first photos of COCO that it finds something in."""
    model = str(testdata / "models" / "yolox_nano_416.onnx")
    loaded = load_model(model, LoadOptions("cpu", 1, None))
    batches = Batches(loaded)
    images, answers = [], []
    for path in sorted((testdata / "images" / "coco128").rglob("*.jpg")):
        (answer,) = batches.run([Item(Kind.IMAGE, path.read_bytes())])
        told = json.loads(answer.body)
        if told["scores"]:
            images.append(str(path))
            answers.append(told)
        if len(images) == IMAGES:
            break
    loaded.close()
    return Known(model, images, answers)
