"""Loaded models of transformers: processor, network and post-processing, each by the library."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Classification, DepthMap, Detections, Image, Predictions
from visiondyno.runtimes.base import ModelDescription
from visiondyno.runtimes.native_model import NativeModel
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import no_surprise, release_cached
from visiondyno.runtimes.pytorch.transformers_config import Task
from visiondyno.specs.model_card import DepthCard, DetectionCard, InputCard, ModelCard
from visiondyno.vision.preprocess import rgb_planes

if TYPE_CHECKING:
    import torch

_NO_CLASS = "N/A"
_MOST_LABELS = 1 << 20
_METRIC_TYPES = frozenset({"zoedepth", "glpn", "depth_pro"})


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Images whose inputs have one shape, so that they can run together.

    Attributes:
        places: of the images among all.
        sizes: (height, width) of each image, pixels.
        inputs: the network's, by name.
    """

    places: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    inputs: "dict[str, torch.Tensor]"


class TransformersModel(NativeModel):
    """What all share: each image is prepared by itself, and those of one shape run together.

    Padding images of several shapes to one would make an answer depend on its neighbours.
    """

    wanted: tuple[str, ...]
    """Names of the network's outputs that are read."""

    def __init__(
        self, description: ModelDescription, module: Any, processor: Any, on: TorchDevice
    ) -> None:
        """`module`: in evaluation mode."""
        super().__init__(description)
        self._module = module.to(on.device)
        self._config = module.config
        self._dtype = module.dtype
        self._processor = processor
        self._on = on
        self.operator_times = on.operator_times()

    @abstractmethod
    def _found(
        self, outputs: Any, sizes: Sequence[tuple[int, int]], confidence: float
    ) -> list[Predictions]:
        """Predictions of one group, in order."""

    def _prepare(self, images: Sequence[Image]) -> list[Group]:
        with self._on.running(), no_surprise(self.description.reference):
            return self._grouped(images, [self._features(image) for image in images])

    def _features(self, image: Image) -> "dict[str, torch.Tensor]":
        import torch

        # Channels apart, as the library's resizing works on them: it then copies nothing.
        rgb = rgb_planes(image)
        # Told, as an image of three columns could be taken for one of channels last.
        features = self._processor(
            images=[torch.from_numpy(rgb)], return_tensors="pt", input_data_format="channels_first"
        )
        return dict(features.to(self._dtype))

    def _grouped(
        self, images: Sequence[Image], features: "Sequence[dict[str, torch.Tensor]]"
    ) -> list[Group]:
        import torch

        places: dict[tuple[int, ...], list[int]] = {}
        for place, one in enumerate(features):
            places.setdefault(tuple(one["pixel_values"].shape), []).append(place)
        return [
            Group(
                tuple(together),
                tuple(images[place].shape[:2] for place in together),
                {
                    name: torch.cat([features[place][name] for place in together])
                    for name in features[together[0]]
                },
            )
            for together in places.values()
        ]

    def _cropped_from(self) -> int | None:
        size = dict(getattr(self._processor, "size", None) or {})
        is_resized = getattr(self._processor, "do_resize", True)
        return None if size.get("longest_edge") or not is_resized else size.get("shortest_edge")

    def _forward(self, prepared: list[Group]) -> list[Any]:
        with self._on.running(), no_surprise(self.description.reference):
            return [self._run(group) for group in prepared]

    def _run(self, group: Group) -> Any:
        inputs = {name: tensor.to(self._on.device) for name, tensor in group.inputs.items()}
        outputs = self._module(**inputs)
        # Reading them waits for the GPU: the time taken is that of the computation.
        return type(outputs)({name: outputs[name].cpu() for name in self.wanted if name in outputs})

    def _read(
        self, outputs: list[Any], prepared: list[Group], confidence: float, iou: float | None
    ) -> list[Predictions]:
        del iou  # none of them drops overlapping boxes
        found: dict[int, Predictions] = {}
        with no_surprise(self.description.reference):
            for group, one in zip(prepared, outputs, strict=True):
                self._check_no_nan(one)
                answers = self._found(one, group.sizes, confidence)
                found.update(zip(group.places, answers, strict=True))
        return [found[place] for place in range(len(found))]

    def _check_no_nan(self, outputs: Any) -> None:
        # A box whose score is NaN would be below every confidence: nothing found, no error.
        for name, tensor in outputs.items():
            if bool(tensor.isnan().any()):
                raise ModelError(
                    f"{self.description.reference} answered NaN in '{name}'; its weights are "
                    "damaged, or its precision is too low for its input."
                )

    def _free(self) -> None:
        self._module = None
        release_cached(self._on)


class Detector(TransformersModel):
    """Boxes by `post_process_object_detection` of the image processor."""

    wanted = ("logits", "pred_boxes")

    def __init__(
        self, description: ModelDescription, module: Any, processor: Any, on: TorchDevice
    ) -> None:
        """See `TransformersModel`."""
        super().__init__(description, module, processor, on)
        labels = _labels(self._config)
        self._class_of = np.full(max(labels, default=-1) + 2, -1, np.int64)
        for class_id, label in enumerate(n for n, name in labels.items() if name != _NO_CLASS):
            self._class_of[label] = class_id

    def _found(
        self, outputs: Any, sizes: Sequence[tuple[int, int]], confidence: float
    ) -> list[Predictions]:
        import torch

        results = self._processor.post_process_object_detection(
            outputs, threshold=confidence, target_sizes=torch.tensor(sizes, dtype=torch.int32)
        )
        return [self._detections(one, size) for one, size in zip(results, sizes, strict=True)]

    def _detections(self, result: Any, size: tuple[int, int]) -> Detections:
        detection = self.description.card.detection or DetectionCard()
        scores = result["scores"].float().numpy()
        # Labels beyond the named ones fall on the last entry, which is no class.
        labels = np.minimum(result["labels"].numpy(), len(self._class_of) - 1)
        class_ids = self._class_of[labels]
        order = np.argsort(-scores, kind="stable")
        order = order[class_ids[order] >= 0][: detection.max_detections]
        boxes = result["boxes"].float().numpy()[order]
        if detection.clip_to_image:
            boxes = boxes.clip(0, np.array([size[1], size[0]] * 2, np.float32))
        return Detections(boxes, scores[order], class_ids[order])


class Classifier(TransformersModel):
    """Probabilities by softmax, or by sigmoid of models with several labels an image."""

    wanted = ("logits",)

    def _found(
        self, outputs: Any, sizes: Sequence[tuple[int, int]], confidence: float
    ) -> list[Predictions]:
        del sizes, confidence
        logits = outputs.logits.float()
        several = self.description.card.activation == "sigmoid"
        shares = logits.sigmoid() if several else logits.softmax(dim=-1)
        return [Classification(row) for row in shares.numpy()]


class DepthEstimator(TransformersModel):
    """Depth by `post_process_depth_estimation` of the image processor, in the image's size."""

    wanted = ("predicted_depth", "domain_logits", "field_of_view")

    def _found(
        self, outputs: Any, sizes: Sequence[tuple[int, int]], confidence: float
    ) -> list[Predictions]:
        del confidence
        # By position: the sizes are called by another name for ZoeDepth.
        results = self._processor.post_process_depth_estimation(outputs, list(sizes))
        return [
            DepthMap(one["predicted_depth"].float().numpy().reshape(size))
            for one, size in zip(results, sizes, strict=True)
        ]


MODELS: dict[Task, type[TransformersModel]] = {
    "detection": Detector,
    "classification": Classifier,
    "depth": DepthEstimator,
}


def described_card(task: Task, config: Any, processor: Any) -> tuple[ModelCard, tuple[str, ...]]:
    """The card by configuration and processor, and notes on what they leave open."""
    labels = _labels(config) if task != "depth" else {}
    classes = tuple(name for name in labels.values() if task != "detection" or name != _NO_CLASS)
    notes = []
    if classes and all(name == f"LABEL_{label}" for label, name in labels.items()):
        notes.append(f"{len(classes)} unnamed classes: called 'LABEL_0' and so on.")
    card = ModelCard(
        task=task,
        head="native",
        classes=classes,
        input=_input_card(processor),
        detection=_detection_card(config) if task == "detection" else None,
        depth=_depth_card(config) if task == "depth" else None,
        activation=_activation(config) if task == "classification" else "none",
    )
    return card, tuple(notes)


def _labels(config: Any) -> dict[int, str]:
    """Names by number, in the order of the numbers.

    Raises:
        ModelError: a number is none of a label.
    """
    named = {int(label): str(name) for label, name in (config.id2label or {}).items()}
    if any(not 0 <= label < _MOST_LABELS for label in named):
        raise ModelError(
            f"The model's config.json numbers its labels from {min(named)} to {max(named)}, where "
            f"0 to {_MOST_LABELS - 1} are taken; correct 'id2label' there."
        )
    return dict(sorted(named.items()))


def _detection_card(config: Any) -> DetectionCard:
    # DETR and its followers neither drop overlapping boxes nor cut them at the image's edges.
    queries = getattr(config, "num_queries", None) or getattr(config, "num_detection_tokens", None)
    return DetectionCard(nms_iou=None, max_detections=queries or 300, clip_to_image=False)


def _depth_card(config: Any) -> DepthCard:
    kind = getattr(config, "depth_estimation_type", None)
    if kind == "metric" or config.model_type in _METRIC_TYPES:
        return DepthCard(output="depth", alignment="none")
    return DepthCard()


def _activation(config: Any) -> Any:
    several = config.problem_type == "multi_label_classification" or config.num_labels == 1
    return "sigmoid" if several else "softmax"


def _input_card(processor: Any) -> InputCard:
    height, width = _largest_size(processor)
    said: dict[str, Any] = {}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        values = getattr(processor, theirs, None) or ()
        if getattr(processor, "do_normalize", False) and len(values) == 3:
            said[ours] = tuple(values)
    return InputCard(height=height, width=width, resize="stretch", **said)


def _largest_size(processor: Any) -> tuple[int, int]:
    """(height, width) that an image is made at most, pixels."""
    if getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None):
        size = processor.crop_size
    else:
        size = getattr(processor, "size", None) or {}
    said = dict(size)
    if said.get("height") and said.get("width"):
        return int(said["height"]), int(said["width"])
    side = said.get("longest_edge") or said.get("shortest_edge")
    if side:
        return int(side), int(side)
    # Nothing is said: what it makes of an image shows it.
    made = processor(images=[np.zeros((640, 640, 3), np.uint8)], return_tensors="np")
    height, width = made["pixel_values"].shape[-2:]
    return height, width
