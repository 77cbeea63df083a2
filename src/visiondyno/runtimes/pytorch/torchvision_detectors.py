"""torchvision's detectors, taken apart at their own joints.

`model(images)` resizes and normalises, runs the network, and turns its output into boxes by
`postprocess_detections`. Those three steps run here one by one, each by torchvision's own code.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.predictions import Detections, Image, IntArray, Predictions
from visiondyno.runtimes.base import ModelDescription
from visiondyno.runtimes.native_model import NativeModel
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import flat_tensors, no_surprise, release_cached
from visiondyno.specs.model_card import DetectionCard, InputCard
from visiondyno.vision.preprocess import rgb_planes

if TYPE_CHECKING:
    import torch
    from torch import nn

PROPOSALS_NOTE = (
    "Of a two-stage detector, the NMS of region proposals is part of the network and of the time "
    "called inference; the NMS of boxes is post-processing."
)
_BACKGROUND = "__background__"
_NO_CLASS = "N/A"


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """Images that share one shape once they are padded.

    Attributes:
        batch: torchvision's `ImageList`: (n, 3, h, w) float32, and sizes without the padding.
        places: of the images among those given.
        sizes: (height, width) of the images as given, pixels.
    """

    batch: Any
    places: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RawDetections:
    """What the network answered for one group, on its device.

    Attributes:
        arguments: of torchvision's `postprocess_detections`.
        watched: more of the network's output, in which NaN would else pass unseen.
    """

    arguments: tuple[Any, ...]
    watched: "tuple[torch.Tensor, ...]"


class TorchvisionDetector(NativeModel):
    """A detector of torchvision.

    Images are batched only with those of the same padded shape: torchvision itself pads a batch to
    its largest image, and then answers for an image according to its company. Here each answer is
    that of `model([image])`.
    """

    def __init__(
        self,
        description: ModelDescription,
        module: "nn.Module",
        on: TorchDevice,
        label_to_class: IntArray,
    ) -> None:
        """Make `module` this model's own: two of its parts are replaced.

        Args:
            description: its card's `detection` holds the thresholds.
            module: in evaluation mode; moved to the device here.
            on: the device.
            label_to_class: (labels,) the class of each of torchvision's labels; -1 for none.
        """
        super().__init__(description)
        self._on = on
        self.operator_times = on.operator_times()
        self._label_to_class = label_to_class
        self._transform = module.transform
        self._chooser = chooser_of(module)
        self._caught = _Caught()
        self._module: nn.Module | None = module.to(on.device)
        module.transform = _prepared_already()
        self._own_chooser = copy.copy(self._chooser)
        self._chooser.postprocess_detections = self._caught
        if is_two_stage(module):
            module.rpn.head.register_forward_hook(self._caught.watch)

    def _prepare(self, images: Sequence[Image]) -> list[PreparedGroup]:
        import torch
        from torchvision.transforms.functional import convert_image_dtype

        groups: dict[torch.Size, list[tuple[int, Any]]] = {}
        with self._on.running(), no_surprise(self.description.reference):
            for place, image in enumerate(images):
                rgb = torch.from_numpy(rgb_planes(image))
                one, _ = self._transform([convert_image_dtype(rgb, torch.float)])
                groups.setdefault(one.tensors.shape, []).append((place, one))
            return [_joined(members, images) for members in groups.values()]

    def _forward(self, prepared: list[PreparedGroup]) -> list[RawDetections]:
        """What it returns stays on the device, whose work is done: there the boxes are chosen."""
        import torch

        assert self._module is not None
        found = []
        with self._on.running(), no_surprise(self.description.reference):
            for group in prepared:
                self._module(_Batch(group.batch, self._on.device))
                found.append(self._caught.taken())
            if self._on.device.type == "cuda":
                torch.cuda.synchronize(self._on.device)
        return found

    def _read(
        self,
        outputs: list[RawDetections],
        prepared: list[PreparedGroup],
        confidence: float,
        iou: float | None,
    ) -> list[Predictions]:
        chooser = self._chooser_at(confidence, iou)
        found: dict[int, Predictions] = {}
        with self._on.running(), no_surprise(self.description.reference):
            for raw, group in zip(outputs, prepared, strict=True):
                self._require_numbers(raw)
                results = _as_results(chooser.postprocess_detections(*raw.arguments))
                results = self._transform.postprocess(
                    results, group.batch.image_sizes, list(group.sizes)
                )
                for place, size, result in zip(group.places, group.sizes, results, strict=True):
                    found[place] = self._detections(result, size)
        return [found[place] for place in sorted(found)]

    def _free(self) -> None:
        self._module = self._chooser = self._own_chooser = None
        release_cached(self._on)

    def _chooser_at(self, confidence: float, iou: float | None) -> Any:
        # A copy shares the weights; postprocess may run in several threads with other thresholds.
        chooser = copy.copy(self._own_chooser)
        detection = self.description.card.detection
        assert detection is not None
        chooser.score_thresh = confidence
        chooser.nms_thresh = detection.nms_iou if iou is None else iou
        chooser.detections_per_img = detection.max_detections
        if hasattr(chooser, "topk_candidates"):
            chooser.topk_candidates = detection.max_candidates
        return chooser

    def _detections(self, result: "dict[str, torch.Tensor]", size: tuple[int, int]) -> Detections:
        boxes = result["boxes"].float().cpu().numpy()
        scores = result["scores"].float().cpu().numpy()
        class_ids = self._label_to_class[result["labels"].cpu().numpy()]
        kept = class_ids >= 0
        # Scaling back may leave the image by a rounding.
        limit = np.array([size[1], size[0]] * 2, np.float32)
        return Detections(np.clip(boxes[kept], np.float32(0), limit), scores[kept], class_ids[kept])

    def _require_numbers(self, raw: RawDetections) -> None:
        # torchvision's own comparisons drop NaN: nothing would be found, and nobody told.
        for tensor in (*flat_tensors(raw.arguments), *raw.watched):
            if tensor.numel() and tensor.is_floating_point() and bool(tensor.min().isnan()):
                raise ModelError(
                    f"{self.description.reference} answered NaN; its weights are damaged, or its "
                    "precision is too low for its input."
                )


class _Caught:
    """In place of `postprocess_detections`: keeps what it is called with, and finds no box."""

    def __init__(self) -> None:
        self._arguments: tuple[Any, ...] = ()
        self._watched: list[torch.Tensor] = []

    def __call__(self, *arguments: Any) -> tuple[list[Any], list[Any], list[Any]]:
        self._arguments = arguments
        return [], [], []

    def watch(self, _module: "nn.Module", _inputs: Any, output: Any) -> None:
        """A forward hook: keeps what a part of the network answers."""
        self._watched += flat_tensors(output)

    def taken(self) -> RawDetections:
        """What was kept, once."""
        raw = RawDetections(self._arguments, tuple(self._watched))
        self._arguments, self._watched = (), []
        return raw


class _Batch:
    """An `ImageList` that passes for the list of images that a detector is called with."""

    def __init__(self, batch: Any, device: "torch.device") -> None:
        self.tensors = batch.tensors.to(device)
        self.image_sizes = batch.image_sizes

    def __iter__(self) -> Any:
        return iter(self.tensors)


def chooser_of(module: "nn.Module") -> Any:
    """The part of a detector that chooses boxes: it has `score_thresh` and `nms_thresh`."""
    return module.roi_heads if is_two_stage(module) else module


def is_two_stage(module: "nn.Module") -> bool:
    """Whether a first stage proposes regions (Faster R-CNN)."""
    return hasattr(module, "roi_heads")


def detection_card(module: "nn.Module") -> DetectionCard:
    """The thresholds that torchvision gave the model."""
    chooser = chooser_of(module)
    candidates = getattr(chooser, "topk_candidates", None)
    return DetectionCard(
        confidence=chooser.score_thresh,
        nms_iou=chooser.nms_thresh,
        max_detections=chooser.detections_per_img,
        **({} if candidates is None else {"max_candidates": candidates}),
    )


def input_card(module: "nn.Module") -> InputCard:
    """The largest input, and how images are brought to it: as the model's `transform` says."""
    transform: Any = module.transform
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        resize = "stretch"
    else:
        height = width = transform.max_size
        resize = "letterbox_top_left"
    return InputCard(
        height=height,
        width=width,
        resize=resize,
        mean=tuple(transform.image_mean),
        std=tuple(transform.image_std),
    )


def named_labels(categories: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    """Classes of torchvision's categories, and the class of each label.

    COCO's 91 labels have eleven that stand for nothing: the background, and ids that COCO left out.

    Returns:
        The names of the others in order, and (labels,) int64: their index, or -1.
    """
    is_class = np.array([name not in {_BACKGROUND, _NO_CLASS} for name in categories])
    label_to_class = np.where(is_class, np.cumsum(is_class) - 1, -1).astype(np.int64)
    return tuple(np.array(categories, object)[is_class]), label_to_class


def _prepared_already() -> "nn.Module":
    """In place of the model's transform: what comes is prepared, and boxes stay where they are."""
    from torch import nn

    class Prepared(nn.Module):  # type: ignore[misc] # torch is not typed for us
        def forward(self, images: Any, targets: None) -> tuple[Any, None]:
            return images, targets

        def postprocess(self, result: Any, *_: Any) -> Any:
            return result

    return Prepared()


def _joined(members: Sequence[tuple[int, Any]], images: Sequence[Image]) -> PreparedGroup:
    import torch
    from torchvision.models.detection.image_list import ImageList

    places = tuple(place for place, _ in members)
    tensors = [one.tensors for _, one in members]
    batch = ImageList(
        tensors[0] if len(tensors) == 1 else torch.cat(tensors),
        [one.image_sizes[0] for _, one in members],
    )
    sizes = tuple((images[place].shape[0], images[place].shape[1]) for place in places)
    return PreparedGroup(batch, places, sizes)


def _as_results(found: Any) -> "list[dict[str, torch.Tensor]]":
    """One form for both: two-stage heads answer three lists, others a list of mappings."""
    if isinstance(found, tuple):
        return [
            {"boxes": boxes, "scores": scores, "labels": labels}
            for boxes, scores, labels in zip(*found, strict=True)
        ]
    return list(found)
