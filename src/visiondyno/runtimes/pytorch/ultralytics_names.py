"""Names of Ultralytics' models: their weights, their architectures, and what isn't covered."""

import difflib
from functools import cache
from pathlib import Path
from typing import Literal

from visiondyno.errors import ModelError
from visiondyno.runtimes.weights import WeightsFile
from visiondyno.vision.ultralytics_library import LICENSE, architecture_files, find_architecture

Task = Literal["detection", "classification"]

_SIZES = "nsmlx"
_RELEASES = "https://github.com/ultralytics/assets/releases/download"
_DETECTORS = frozenset(
    [f"yolov3{kind}u" for kind in ("", "-spp", "-tiny")]
    + [f"yolov5{size}{large}u" for size in _SIZES for large in ("", "6")]
    + [f"yolo{version}{size}" for version in ("v8", "11", "12", "26") for size in _SIZES]
    + [f"yolov8{size}-oiv7" for size in _SIZES]
    + [f"yolov9{size}" for size in "tsmce"]
    + [f"yolov10{size}" for size in "nsmblx"]
)
_CLASSIFIERS = frozenset(
    f"yolo{version}{size}-cls" for version in ("v8", "11", "26") for size in _SIZES
)
_OTHER_TASKS = {
    "-seg": "segmentation",
    "-sem": "semantic segmentation",
    "-pose": "pose",
    "-obb": "oriented boxes",
    "-depth": "depth",
    "-world": "an open vocabulary",
    "yoloe": "an open vocabulary",
    "rtdetr": "RT-DETR",
    "sam": "segmentation",
}
OTHER_NETWORKS = {
    "SegmentationModel": "segmentation",
    "SemanticModel": "semantic segmentation",
    "SemanticSegmentationModel": "semantic segmentation",
    "PoseModel": "pose",
    "OBBModel": "oriented boxes",
    "DepthModel": "depth",
    "WorldModel": "an open vocabulary",
    "YOLOEModel": "an open vocabulary",
    "YOLOESegModel": "an open vocabulary",
    "RTDETRDetectionModel": "RT-DETR",
}
"""Classes of networks to what they are for."""
OTHER_HEADS = {
    "Segment": "segmentation",
    "Segment26": "segmentation",
    "SemanticSegment": "semantic segmentation",
    "Pose": "pose",
    "Pose26": "pose",
    "OBB": "oriented boxes",
    "OBB26": "oriented boxes",
    "Depth": "depth",
    "WorldDetect": "an open vocabulary",
    "YOLOEDetect": "an open vocabulary",
    "RTDETRDecoder": "RT-DETR",
}
"""Last layers of architectures to what they are for."""


def not_covered(reference: str, what: str) -> ModelError:
    """The error for a model of another task."""
    if what == "RT-DETR":
        return ModelError(
            f"{reference} is an RT-DETR, which isn't covered by this runtime; use "
            "transformers:PekingU/rtdetr_v2_r18vd or an ONNX export."
        )
    return ModelError(
        f"{reference} is a model for {what}, which isn't covered; detection and classification "
        "are (docs/model-cards.md says why)."
    )


def pretrained_name(name: str, reference: str) -> str:
    """The name of a model with published weights, as its file is called.

    `yolov5n` means `yolov5nu`, as in Ultralytics: its own training of that architecture.

    Raises:
        ModelError: there is none of this name, or it is of another task.
    """
    name = name.removesuffix(".pt")
    if f"{name}u" in _DETECTORS:
        name = f"{name}u"
    if name in _DETECTORS or name in _CLASSIFIERS:
        return name
    for part, what in _OTHER_TASKS.items():
        if part in name.lower():
            raise not_covered(reference, what)
    near = difflib.get_close_matches(name, sorted(_DETECTORS | _CLASSIFIERS), 1)
    meant = f"did you mean ultralytics:{near[0]}?" if near else "there are ultralytics:yolo26n, …"
    raise ModelError(f"There is no model {reference}, as a file or a name; {meant}")


def weights_file(name: str) -> WeightsFile:
    """Where the weights `name` (see `pretrained_name`) are published; ultralytics is imported.

    Its publisher tells no checksums.
    """
    return WeightsFile(f"{_RELEASES}/{_release()}/{name}.pt", f"{name}.pt", None, LICENSE)


@cache
def _release() -> str:
    """The release of weights that the installed package downloads from."""
    import inspect

    from ultralytics.utils.downloads import attempt_download_asset

    return str(inspect.signature(attempt_download_asset).parameters["release"].default)


def architecture_file(name: str, reference: str) -> tuple[Path, str]:
    """See `find_architecture`; `reference` is for messages.

    Raises:
        ModelError: there is none of this name.
    """
    found = find_architecture(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, sorted(architecture_files()), 1)
    raise ModelError(
        f"There is no architecture {reference}, as a file or in this version of ultralytics; "
        f"{f'near is {near[0]}.yaml' if near else 'take one such as yolov8n.yaml'}."
    )
