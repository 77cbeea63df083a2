"""How a model's output becomes predictions: one class a family of outputs."""

from visiondyno.specs.model_card import HeadName
from visiondyno.vision.heads.base import (
    Head,
    Output,
    Shape,
    check_no_nan,
    overlaid,
    show_shape,
)
from visiondyno.vision.heads.boxes_scores_classes import BoxesScoresClassesHead
from visiondyno.vision.heads.classification import ClassificationHead
from visiondyno.vision.heads.depth import DepthHead
from visiondyno.vision.heads.detr import DetrHead
from visiondyno.vision.heads.end_to_end import EndToEndHead
from visiondyno.vision.heads.fastestdet import FastestDetHead
from visiondyno.vision.heads.nanodet import NanoDetHead
from visiondyno.vision.heads.retinanet import RetinaNetHead
from visiondyno.vision.heads.yolo import Yolov5Head, Yolov8Head, YoloxHead

HEADS: dict[HeadName, Head] = {
    head.name: head
    for head in (
        Yolov8Head(),
        Yolov5Head(),
        YoloxHead(),
        FastestDetHead(),
        EndToEndHead(),
        ClassificationHead(),
        DetrHead(),
        BoxesScoresClassesHead(),
        NanoDetHead(),
        RetinaNetHead(),
        DepthHead(),
    )
}

__all__ = ["HEADS", "Head", "Output", "Shape", "check_no_nan", "overlaid", "show_shape"]
