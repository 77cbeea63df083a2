"""detectron2's model zoo: which configurations run here, where weights are, how they are read.

What its zoo offers is written down here, so that a wrong name is told from a right one, and weights
can be fetched, where detectron2 itself isn't installed.
"""

import difflib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import ModelError
from visiondyno.runtimes.pytorch.module import reason
from visiondyno.runtimes.weights import WeightsFile

PREFIX = "detectron2:"
_SERVER = "https://dl.fbaipublicfiles.com/detectron2/"
_SUFFIX = ".yaml"

DETECTORS = {
    "COCO-Detection/faster_rcnn_R_50_C4_1x": "137257644/model_final_721ade.pkl",
    "COCO-Detection/faster_rcnn_R_50_DC5_1x": "137847829/model_final_51d356.pkl",
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": "137257794/model_final_b275ba.pkl",
    "COCO-Detection/faster_rcnn_R_50_C4_3x": "137849393/model_final_f97cb7.pkl",
    "COCO-Detection/faster_rcnn_R_50_DC5_3x": "137849425/model_final_68d202.pkl",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
    "COCO-Detection/faster_rcnn_R_101_C4_3x": "138204752/model_final_298dad.pkl",
    "COCO-Detection/faster_rcnn_R_101_DC5_3x": "138204841/model_final_3e0943.pkl",
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
    "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x": "139173657/model_final_68b088.pkl",
    "COCO-Detection/retinanet_R_50_FPN_1x": "190397773/model_final_bfca0b.pkl",
    "COCO-Detection/retinanet_R_50_FPN_3x": "190397829/model_final_5bd44e.pkl",
    "COCO-Detection/retinanet_R_101_FPN_3x": "190397697/model_final_971ab9.pkl",
    "PascalVOC-Detection/faster_rcnn_R_50_C4": "142202221/model_final_b1acc2.pkl",
}
"""Detectors of the zoo by configuration, without `.yaml`: where their weights are on its server."""

_OTHER_KINDS = {
    "COCO-Detection/rpn_": "proposing regions only",
    "COCO-Detection/fast_rcnn_": "detection in regions that somebody else proposes",
    "COCO-InstanceSegmentation/": "instance segmentation",
    "COCO-Keypoints/": "keypoint detection",
    "COCO-PanopticSegmentation/": "panoptic segmentation",
    "LVISv0.5-InstanceSegmentation/": "instance segmentation",
    "Cityscapes/": "instance segmentation",
    "new_baselines/": "instance segmentation",
}

_ALLOWED = frozenset(
    {
        ("collections", "OrderedDict"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        # How Python 3 writes bytes in an old protocol.
        ("_codecs", "encode"),
    }
)


def config_of(reference: str) -> str:
    """The name of a detector's configuration in the zoo, with `.yaml`.

    Raises:
        ModelError: the zoo has none of this name, or it isn't a detector's.
    """
    name = reference.removeprefix(PREFIX).strip().removesuffix(_SUFFIX)
    if name in DETECTORS:
        return name + _SUFFIX
    other = next((kind for start, kind in _OTHER_KINDS.items() if name.startswith(start)), None)
    if other is not None:
        raise ModelError(
            f"{reference} is a model for another task ({other}); VisionDyno runs detectron2's "
            "detectors."
        )
    near = difflib.get_close_matches(name, DETECTORS, 2) or [
        "COCO-Detection/faster_rcnn_R_50_FPN_3x"
    ]
    hint = " or ".join(f"{PREFIX}{one}{_SUFFIX}" for one in near)
    raise ModelError(f"detectron2's model zoo has no detector '{name}'; did you mean {hint}?")


def weights_of(config: str) -> WeightsFile:
    """The file of weights of a configuration that `config_of` gave."""
    name = config.removesuffix(_SUFFIX)
    file = DETECTORS[name]
    kept_as = "detectron2-" + name.replace("/", "-") + "-" + file.rsplit("_", 1)[-1]
    return WeightsFile(f"{_SERVER}{name}/{file}", kept_as, None)


def read_zoo_weights(path: Path, reference: str) -> Mapping[str, NDArray[Any]]:
    """The arrays in a file of detectron2's zoo, by name.

    The zoo's files are pickles. Nothing but numpy's arrays and plain containers is made of them:
    any other class or function that a file names is refused before it is looked up.

    Raises:
        ModelError: the file is damaged, names anything else, or isn't of the zoo's form.
    """
    try:
        with path.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()
    except Exception as error:
        # A damaged pickle may raise anything.
        raise ModelError(
            f"The weights of {reference} in {path} can't be read: {reason(error)}. Delete the file "
            f"and fetch it again with: dyno models pull {reference}"
        ) from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(map(_is_numbers, state.values())):
        raise ModelError(
            f"The weights of {reference} in {path} aren't arrays by name in the form of "
            "detectron2's zoo (those of Caffe2 aren't read)."
        )
    return state


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which isn't an array")
        return super().find_class(module, name)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
