"""Which model stands for a family on a data set: the newest trained on it, else a pretrained one.

A family's name is what people compare ("YOLOv8 against Faster R-CNN"); this finds the models.
"""

import importlib.util
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

from visiondyno.class_names import COCO_80
from visiondyno.datasets.class_mapping import map_classes
from visiondyno.datasets.indexed import IndexedDataset, class_counts
from visiondyno.datasets.registry import (
    builtin_dataset,
    default_cache_dir,
    find_data,
    open_dataset,
)
from visiondyno.datasets.splits import splits_at
from visiondyno.errors import ClassMismatch, DatasetError, MissingExtra, SpecError, VisionDynoError
from visiondyno.runtimes.base import Progress
from visiondyno.runtimes.pytorch.detectron2 import STAND_IN
from visiondyno.runtimes.references import EARLIER_NAMES, FAMILY_PREFIX, expanded, is_there
from visiondyno.runtimes.registry import fetch_weights
from visiondyno.runtimes.trained_models import Registered, find_trained
from visiondyno.specs.trained_model import TrainedOn

STANDING_PAIRS = (
    ("yolov5", "efficientnet_b0"),
    ("yolov5", "detectron2"),
    ("yolov8", "detectron2"),
    ("yolov8", "yolov5"),
)
"""The pairs that `make pairs` compares."""

Fetch = Callable[[str, Progress | None], None]


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """What stands for a family, where nobody says more.

    Attributes:
        trains: the model reference whose training gives one of the family.
        level: at which it is trained.
        pretrained: the model reference with published weights.
    """

    trains: str
    pretrained: str
    level: str | None = None


FAMILIES = {
    "yolov5": ModelFamily("ultralytics:yolov5n", "ultralytics:yolov5nu"),
    "yolov8": ModelFamily("ultralytics:yolov8n", "ultralytics:yolov8n"),
    "yolo11": ModelFamily("ultralytics:yolo11n", "ultralytics:yolo11n"),
    "yolo26": ModelFamily("ultralytics:yolo26n", "ultralytics:yolo26n"),
    "efficientnet_b0": ModelFamily(
        "torchvision:efficientnet_b0", "torchvision:efficientnet_b0", "image"
    ),
    "detectron2": ModelFamily("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", STAND_IN),
}

_ZOO = "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


@dataclass(frozen=True, slots=True)
class ResolvedModels:
    """Model references without families, and what a report must say of how they were chosen.

    Attributes:
        models: in the order of what was asked for.
        notes: how each was chosen.
        stand_ins: of models that aren't of their family but stand in for it: the family's name.
    """

    models: tuple[str, ...]
    notes: tuple[str, ...]
    stand_ins: dict[str, str] = field(default_factory=dict)


def pair_models(pair: str) -> tuple[str, str]:
    """The references of a pair such as `yolov8-detectron2`: any two families in any order.

    Raises:
        SpecError: it isn't two known families.
    """
    names = pair.strip().lower().split("-")
    if len(names) != 2 or names[0] == names[1]:
        raise SpecError(
            f"'{pair}' isn't a pair: write two families with a hyphen between them, such as "
            f"{'-'.join(STANDING_PAIRS[0])}. Families are {', '.join(FAMILIES)}."
        )
    for name in names:
        if name not in FAMILIES:
            near = get_close_matches(name, FAMILIES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(FAMILIES)}."
            raise SpecError(f"There is no family '{name}' for a pair; {hint}")
    return FAMILY_PREFIX + names[0], FAMILY_PREFIX + names[1]


def family_of(reference: str) -> str | None:
    """The family that a reference names: `family:yolov8`, or an earlier tool's name of it.

    A file or folder that is called so comes first, as of every reference.
    """
    if is_there(expanded(reference)):
        return None
    if reference.startswith(FAMILY_PREFIX):
        return reference.removeprefix(FAMILY_PREFIX)
    return EARLIER_NAMES.get(reference)


def resolve_families(
    models: Sequence[str],
    data: str,
    classes: Sequence[str] | None,
    on_progress: Progress | None = None,
    fetch: Fetch = fetch_weights,
) -> ResolvedModels:
    """Put a model in the place of each family.

    Args:
        models: model references, families among them.
        data: what they are to be compared on.
        classes: of it that are scored; all if None.
        on_progress: told while published weights come.
        fetch: how they come.

    Raises:
        SpecError: nothing stands for a family; names the command that trains it.
        DatasetError: the data can't be read.
    """
    if not any(family_of(reference) for reference in models):
        return ResolvedModels(tuple(models), ())
    choice = _Choice(data, classes, on_progress, fetch)
    found = [choice.model(reference) for reference in models]
    missing = [one for one in found if one is None]
    if missing:
        raise SpecError(" ".join(choice.missing))
    resolved = tuple(one for one in found if one is not None)
    return ResolvedModels(resolved, tuple(choice.notes), choice.stand_ins)


class _Choice:
    """Finds models on one data set.

    Attributes:
        notes: how each was chosen.
        stand_ins: see `ResolvedModels`.
        missing: what to do for the families that nothing stands for.
    """

    def __init__(
        self,
        data: str,
        classes: Sequence[str] | None,
        on_progress: Progress | None,
        fetch: Fetch,
    ) -> None:
        self.notes: list[str] = []
        self.stand_ins: dict[str, str] = {}
        self.missing: list[str] = []
        self._reference = data
        self._classes = classes
        self._on_progress = on_progress
        self._fetch = fetch

    def model(self, reference: str) -> str | None:
        """The reference itself, or that of the model which stands for its family; None: nothing."""
        family = family_of(reference)
        if family is None:
            return reference
        if family not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise SpecError(f"There is no family '{family}' of models; there are {known}.")
        return self._trained(family) or self._pretrained(family)

    def _trained(self, family: str) -> str | None:
        fitting = [one for one in find_trained(family, None) if self._is_of_data(one)]
        if not fitting:
            return None
        # Where none knows all classes, the comparison says which are missing.
        newest = next((one for one in fitting if self._knows_classes(one)), fitting[0])
        record = newest.record
        which = "the newest of {n} that were" if len(fitting) > 1 else "the one that was"
        if newest is not fitting[0]:
            which = "the newest that knows the classes, of {n} that were"
        self.notes.append(
            f"{family}: {record.family}:{record.name} in {newest.folder}, "
            f"{which.format(n=len(fitting))} trained on {self._reference} or its training part: on "
            f"{record.trained_on.images} images of {record.trained_on.reference}, "
            f"{record.created_at}."
        )
        self._tell_stand_in(family, f"{record.family}:{record.name}", str(newest.folder))
        return str(newest.folder)

    def _pretrained(self, family: str) -> str | None:
        reference = FAMILIES[family].pretrained
        if family == "detectron2" and importlib.util.find_spec("detectron2") is not None:
            reference = _ZOO
        try:
            self._check_classes(family)
            self._fetch(reference, self._on_progress)
        except VisionDynoError as error:
            self.missing.append(
                f"Nothing stands for {family} on {self._reference}: no model of it that was "
                f"trained on these data is known here, and {reference} can't ({error.message}). "
                f"Train one: {self.train_command(family)}"
            )
            return None
        self.notes.append(
            f"{family}: {reference} with its published weights, since no model of the family that "
            f"was trained on {self._reference} is known here."
        )
        self._tell_stand_in(family, reference, reference)
        return reference

    def train_command(self, family: str) -> str:
        """What a user types to have a model of the family on these data."""
        chosen = FAMILIES[family]
        # A folder for each: of two in a row, the second would find that of the first.
        out = f"--out dyno-training-{family}"
        parts = [f"dyno train --model {chosen.trains} --data {shlex.quote(self._training_part)}"]
        if self._training_part != self._reference:
            parts.append(f"--validation {shlex.quote(self._reference)}")
        parts += [f"--level {chosen.level}"] if chosen.level else []
        return " ".join([*parts, f"--epochs 60 {out}"])

    def _tell_stand_in(self, family: str, architecture: str, reference: str) -> None:
        if family == "detectron2" and architecture.startswith("torchvision:"):
            self.stand_ins[reference] = family
            self.notes.append(
                f"{architecture} stands in for detectron2, which isn't on the package index: it is "
                "torchvision's Faster R-CNN, the architecture that detectron2 is known for."
            )

    def _check_classes(self, family: str) -> None:
        """Refuse published weights that know other classes, before they are downloaded."""
        known = _imagenet_classes() if FAMILIES[family].level == "image" else COCO_80
        dataset = self._dataset
        map_classes(known, dataset.classes, self._classes, counts=class_counts(dataset))

    def _knows_classes(self, one: Registered) -> bool:
        dataset = self._dataset
        try:
            counts = class_counts(dataset)
            map_classes(one.record.classes, dataset.classes, self._classes, counts=counts)
        except ClassMismatch:
            return False
        return True

    def _is_of_data(self, one: Registered) -> bool:
        """Whether it was trained on these data, on their training part, or scored on them."""
        on: TrainedOn = one.record.trained_on
        if self._dataset.digest in (on.digest, on.validation_digest):
            return True
        here, there = builtin_dataset(self._reference), builtin_dataset(on.reference)
        if here is not None or there is not None:
            # Their names are their content: a part is rendered alike on every machine.
            return here is not None and there is not None and here.name == there.name
        return on.digest in self._digests_of_parts

    @cached_property
    def _dataset(self) -> IndexedDataset:
        return open_dataset(self._reference, skip_bad=True)

    @cached_property
    def _digests_of_parts(self) -> frozenset[str]:
        """Of the other parts of the data's folder."""
        return frozenset(part.digest for part in map(_opened, self._parts) if part is not None)

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        """References of the other parts of the data, the training part first."""
        builtin = builtin_dataset(self._reference)
        if builtin is not None:
            own = [*self._reference.split(":"), builtin.default_split][1]
            names, stem = tuple(builtin.splits), builtin.name
        else:
            path, split = find_data(self._reference, default_cache_dir())
            # Ultralytics' data.yaml names its parts, which needn't be folders.
            in_yaml = path.is_dir() and (path / "data.yaml").is_file()
            names = splits_at(path) or (("train", "val", "test") if in_yaml else ())
            stem = self._reference.removesuffix(f":{split}") if split else self._reference
            own = split or ""
        return tuple(f"{stem}:{name}" for name in names if name != own)

    @cached_property
    def _training_part(self) -> str:
        """What a user would train on: the data's own training part, or else the data."""
        for part in self._parts:
            is_train = part.endswith(":train")
            if is_train and (builtin_dataset(part) is not None or _opened(part) is not None):
                return part
        return self._reference


def _opened(part: str) -> IndexedDataset | None:
    """The part; None where there is no such one, or it can't be read: nobody learned from it."""
    try:
        return open_dataset(part, skip_bad=True)
    except DatasetError:
        return None


def _imagenet_classes() -> tuple[str, ...]:
    try:
        from torchvision.models import EfficientNet_B0_Weights
    except (ImportError, RuntimeError) as error:
        # RuntimeError: a torchvision that was built for another torch.
        raise MissingExtra("torch", "EfficientNet-B0") from error
    return tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
