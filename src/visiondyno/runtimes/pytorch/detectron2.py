"""detectron2's detectors: `detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml`.

Unverified: detectron2 isn't on the package index and wasn't installed where this was written. What
comes after its import follows its documentation (`DefaultPredictor` in three steps).
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import ModelError, Unavailable
from visiondyno.predictions import Detections, Image, Predictions
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription, Progress, Runtime
from visiondyno.runtimes.native_card import card_in_use
from visiondyno.runtimes.native_model import NativeModel
from visiondyno.runtimes.pytorch.detectron2_zoo import config_of, read_zoo_weights, weights_of
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import described, no_surprise, release_cached
from visiondyno.runtimes.weights import fetch_weights, find_weights, verify
from visiondyno.specs.model_card import DetectionCard, InputCard, ModelCard

if TYPE_CHECKING:
    from torch import nn

INSTALL = (
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)
STAND_IN = "torchvision:fasterrcnn_resnet50_fpn_v2"
UNVERIFIED = (
    "VisionDyno's adapter for detectron2 is unverified: it was written by detectron2's "
    "documentation."
)
INSIDE = (
    "detectron2 normalises images and does its NMS inside the network's forward, in the time "
    "called inference; other thresholds than the model's are set in the model card."
)
_THRESHOLDS = ("confidence", "nms_iou", "max_detections")


class Detectron2Runtime(Runtime):
    """Runs the detectors of detectron2's zoo where detectron2 is installed."""

    name = "detectron2"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:
        """See `Runtime.fetch`; nothing is downloaded where detectron2 couldn't run it.

        Raises:
            ModelError: the zoo has no such detector, or what came isn't what came before.
            Unavailable: detectron2 isn't installed, or the server can't be reached.
        """
        config = config_of(reference)
        _require_detectron2(reference)
        fetch_weights(weights_of(config), reference, on_progress)  # pragma: no cover - needs it

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`.

        Raises:
            ModelError: the zoo has no such detector, its weights aren't here or are damaged, or
                the card given doesn't fit.
            MissingExtra: torch isn't installed.
            SpecError: the device's name is wrong.
            Unavailable: detectron2 isn't installed, or the device isn't here.
        """
        config = config_of(reference)
        on = TorchDevice(options, "A model of detectron2")
        _require_detectron2(reference)
        return _load(config, reference, options, on)  # pragma: no cover - needs detectron2


def _require_detectron2(reference: str) -> None:
    try:
        import_module("detectron2")
    except (ImportError, OSError) as error:
        # OSError: its compiled part was built against another torch.
        raise Unavailable(
            f"{reference} needs detectron2, which isn't installed and isn't on the package index. "
            f"Build it beside torch with: {INSTALL} Or use {STAND_IN}, the same kind of detector."
        ) from error


def _load(  # pragma: no cover - needs detectron2
    config: str, reference: str, options: LoadOptions, on: TorchDevice
) -> LoadedModel:
    file = weights_of(config)
    path = find_weights(file, reference)
    digest = verify(file, reference)
    state = read_zoo_weights(path, reference)
    with no_surprise(reference):
        from detectron2 import __version__, model_zoo
        from detectron2.modeling import build_model

        cfg = model_zoo.get_config(config)
        cfg.MODEL.DEVICE = on.name
        in_use = card_in_use(_card(cfg), options.card, reference, thresholds=_THRESHOLDS)
        _set_thresholds(cfg, in_use[0].detection)
        module = build_model(cfg).eval().requires_grad_(False)
        _fill(module, state, reference)
    notes = (UNVERIFIED, INSIDE)
    description = described(module, on, reference, f"detectron2 {__version__}", in_use, notes)
    description = replace(description, digest=digest, file_bytes=path.stat().st_size)
    model = _Detectron2Model(description, module, on, cfg)
    model.files = (path,)
    return model


class _Detectron2Model(NativeModel):  # pragma: no cover - needs detectron2
    """`DefaultPredictor` in three steps, one image at a time as it does."""

    def __init__(
        self, description: ModelDescription, module: "nn.Module", on: TorchDevice, cfg: Any
    ) -> None:
        super().__init__(description)
        from detectron2.data.transforms import ResizeShortestEdge

        self._on = on
        self.operator_times = on.operator_times()
        self._module: nn.Module | None = module
        size = cfg.INPUT.MIN_SIZE_TEST
        self._resize = ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
        self._is_rgb = cfg.INPUT.FORMAT == "RGB"

    def _prepare(self, images: Sequence[Image]) -> list[dict[str, Any]]:
        import torch

        prepared = []
        with no_surprise(self.description.reference):
            for image in images:
                channels = image[:, :, ::-1] if self._is_rgb else image
                resized = self._resize.get_transform(channels).apply_image(channels)
                array = np.ascontiguousarray(resized.astype(np.float32).transpose(2, 0, 1))
                height, width = image.shape[:2]
                tensor = torch.from_numpy(array)
                prepared.append({"image": tensor, "height": height, "width": width})
        return prepared

    def _forward(self, prepared: list[dict[str, Any]]) -> list[Any]:
        assert self._module is not None
        with self._on.running(), no_surprise(self.description.reference):
            return [self._module([one])[0]["instances"].to("cpu") for one in prepared]

    def _read(
        self,
        outputs: list[Any],
        prepared: list[dict[str, Any]],  # noqa: ARG002 - others' need
        confidence: float,
        iou: float | None,  # noqa: ARG002 - its NMS is done
    ) -> list[Predictions]:
        found: list[Predictions] = []
        for one in outputs:
            scores = one.scores.numpy()
            order = np.argsort(-scores, kind="stable")
            order = order[scores[order] > confidence]
            boxes = one.pred_boxes.tensor.numpy()[order]
            class_ids = one.pred_classes.numpy()[order].astype(np.int64)
            found.append(Detections(boxes.astype(np.float32), scores[order], class_ids))
        return found

    def _free(self) -> None:
        self._module = None
        release_cached(self._on)


def _card(cfg: Any) -> ModelCard:  # pragma: no cover - needs detectron2
    from detectron2.data import MetadataCatalog

    size = cfg.INPUT.MAX_SIZE_TEST
    heads = _heads(cfg)
    return ModelCard(
        task="detection",
        head="native",
        classes=tuple(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes),
        input=InputCard(
            height=size,
            width=size,
            resize="letterbox_top_left",
            channels="rgb" if cfg.INPUT.FORMAT == "RGB" else "bgr",
            scale=1.0,
            mean=tuple(cfg.MODEL.PIXEL_MEAN),
            std=tuple(cfg.MODEL.PIXEL_STD),
        ),
        detection=DetectionCard(
            confidence=heads.SCORE_THRESH_TEST,
            nms_iou=heads.NMS_THRESH_TEST,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        ),
        license="Apache-2.0",
    )


def _heads(cfg: Any) -> Any:  # pragma: no cover - needs detectron2
    is_dense = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    return cfg.MODEL.RETINANET if is_dense else cfg.MODEL.ROI_HEADS


def _set_thresholds(  # pragma: no cover - needs detectron2
    cfg: Any, detection: DetectionCard | None
) -> None:
    assert detection is not None
    heads = _heads(cfg)
    heads.SCORE_THRESH_TEST = detection.confidence
    heads.NMS_THRESH_TEST = detection.nms_iou
    cfg.TEST.DETECTIONS_PER_IMAGE = detection.max_detections


def _fill(  # pragma: no cover - needs detectron2
    module: "nn.Module", state: Any, reference: str
) -> None:
    import torch

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    # The zoo's older files hold anchors, and lack what the configuration says itself.
    missing = [one for one in missing if one not in {"pixel_mean", "pixel_std"}]
    unexpected = [one for one in unexpected if "anchor_generator.cell_anchors" not in one]
    if missing or unexpected:
        wrong = ", ".join([*missing, *unexpected][:3])
        raise ModelError(
            f"The weights of {reference} don't fit its configuration in this detectron2 ({wrong}); "
            f"install the current one with: {INSTALL}"
        )
