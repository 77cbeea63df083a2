"""From a model reference to the trainer of its library."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from visiondyno.errors import SpecError
from visiondyno.specs.trained_model import Family
from visiondyno.training.vision.base import VisionTrainer

_DETECTORS_OF_TORCHVISION = ("fasterrcnn_", "retinanet_", "fcos_", "ssd300_", "ssdlite320_")
_LIBRARIES = ("ultralytics", "torchvision", "timm")
_EXAMPLES = "ultralytics:yolov8n, or torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"


@dataclass(frozen=True, slots=True)
class ChosenTrainer:
    """Who trains a reference.

    Attributes:
        family: the library.
        name: of the architecture in it.
        task: what the trained model does.
        make: the trainer; imports it.
    """

    family: Family
    name: str
    task: Literal["detection", "classification"]
    make: Callable[[], VisionTrainer]


def is_detector(reference: str) -> bool:
    """Whether the reference names a detector that can be trained, as far as names tell."""
    library, _, name = reference.partition(":")
    if library == "torchvision":
        return name.startswith(_DETECTORS_OF_TORCHVISION)
    return library == "ultralytics"


def choose_trainer(reference: str, level: Literal["image"] | None) -> ChosenTrainer:
    """The trainer for a model reference.

    Args:
        reference: `LIBRARY:NAME`.
        level: `image` for classifiers; None for detectors.

    Raises:
        SpecError: no library of ours trains it, or not at this level.
    """
    library, _, name = reference.partition(":")
    if library not in _LIBRARIES or not name.strip():
        raise SpecError(
            f"'model': '{reference}' can't be trained; name a detector such as {_EXAMPLES}, or a "
            "classifier such as torchvision:efficientnet_b0 with 'level': 'image'."
        )
    if is_detector(reference):
        if level is not None:
            raise SpecError(
                f"{reference} finds boxes, and 'level': 'image' is for classifiers; leave it out. "
                "A detector is scored at image level when it is compared with one."
            )
        return _detector(library, name)
    if level is None:
        raise SpecError(
            f"{reference} is no detector that can be trained on boxes. A classifier learns which "
            f"classes are in an image: add 'level': 'image'. Detectors are {_EXAMPLES}."
        )
    family: Family = "torchvision" if library == "torchvision" else "timm"
    make = _maker("visiondyno.training.vision.classifier:ImageLevelTrainer", family)
    return ChosenTrainer(family, name, "classification", make)


def _detector(library: str, name: str) -> ChosenTrainer:
    if library == "torchvision":
        make = _maker("visiondyno.training.vision.torchvision:TorchvisionTrainer")
        return ChosenTrainer("torchvision", name, "detection", make)
    from visiondyno.training.vision.ultralytics_names import plain_name

    make = _maker("visiondyno.training.vision.ultralytics:UltralyticsTrainer")
    return ChosenTrainer("ultralytics", plain_name(name), "detection", make)


def _maker(place: str, *arguments: Any) -> Callable[[], VisionTrainer]:
    def make() -> VisionTrainer:
        module, _, kind = place.partition(":")
        trainer: VisionTrainer = getattr(import_module(module), kind)(*arguments)
        return trainer

    return make
