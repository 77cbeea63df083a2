"""COCO's own evaluation, by faster-coco-eval: the only source of mAP point values."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from visiondyno.errors import DatasetError
from visiondyno.predictions import BoxTruth, Detections
from visiondyno.vision.accuracy.matching import AREA_NAMES, IOU_THRESHOLDS, to_xywh

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CocoResult:
    """COCO's tables at 100 detections an image and class; −1 marks a class without objects.

    Attributes:
        precision: (IoUs, recall points, classes, areas) float64.
        recall: (IoUs, classes, areas) float64.
    """

    precision: FloatArray
    recall: FloatArray

    def average_precision(self, area: str = "all", iou: float | None = None) -> float | None:
        """The mean over classes that have objects; None where none has."""
        return _mean_of_present(self._precision_at(area, iou))

    def class_average_precision(self, place: int, iou: float | None = None) -> float | None:
        """AP of the scored class at `place`; None where it has no objects."""
        return _mean_of_present(self._precision_at("all", iou)[:, :, place])

    def average_recall(self) -> float | None:
        """AR over IoU 0.50:0.05:0.95, all areas."""
        return _mean_of_present(self.recall[:, :, 0])

    def precision_at_recall(self) -> FloatArray | None:
        """(101,) precision at IoU 0.5, the mean over classes that have objects."""
        at_50 = self._precision_at("all", 0.5)[0]
        present = (at_50 > -1).all(axis=0)
        return at_50[:, present].mean(axis=1) if present.any() else None

    def _precision_at(self, area: str, iou: float | None) -> FloatArray:
        found = self.precision[:, :, :, AREA_NAMES.index(area)]
        return found if iou is None else found[np.isclose(IOU_THRESHOLDS, iou)]


def evaluate(
    truths: Sequence[BoxTruth], predictions: Sequence[Detections], class_ids: Sequence[int]
) -> CocoResult:
    """COCO's evaluation of all images, those without boxes or detections too.

    Args:
        truths: one an image.
        predictions: one an image, in the same order.
        class_ids: the classes to score.
    """
    # COCO's ids are markers of matches, where 0 means none: count from 1.
    images = [{"id": index + 1, "height": 1, "width": 1} for index in range(len(truths))]
    categories = [{"id": int(class_id), "name": str(class_id)} for class_id in class_ids]
    labelled = _indexed(images, categories, _truth_annotations(truths))
    found = _indexed(images, categories, _result_annotations(predictions))
    evaluation = COCOeval_faster(labelled, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"], np.float64)
    recall = np.asarray(evaluation.eval["recall"], np.float64)
    return CocoResult(precision[..., -1], recall[..., -1])


def coco_summary(ground_truth: Path, results: Path | Sequence[dict[str, Any]]) -> tuple[float, ...]:
    """COCO's twelve numbers for boxes.

    Args:
        ground_truth: a COCO annotation file.
        results: COCO's results format, as a file or loaded: `image_id`, `category_id`,
            `bbox` (left, top, width, height in pixels) and `score` each.

    Returns:
        AP, AP50, AP75, AP small, medium, large, AR1, AR10, AR100, AR small, medium, large;
        −1 where there are no such objects (COCO's convention).

    Raises:
        DatasetError: a file can't be read, or the results name an image the labels don't have.
    """
    detected = _load_json(results) if isinstance(results, Path) else list(results)
    labelled = COCO(_load_json(ground_truth))
    unknown = {result["image_id"] for result in detected} - set(labelled.imgs)
    if unknown:
        raise DatasetError(
            f"The results name image {min(unknown)}, which {ground_truth} doesn't have. "
            "Score them against the labels they were made for."
        )
    annotations = [
        {**result, "id": index, "iscrowd": 0, "area": result["bbox"][2] * result["bbox"][3]}
        for index, result in enumerate(detected, start=1)
    ]
    dataset = labelled.dataset
    found = _indexed(dataset["images"], dataset["categories"], annotations)
    evaluation = COCOeval_faster(labelled, found, "bbox")
    evaluation.run()
    return tuple(float(value) for value in evaluation.all_stats[:12])


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read as COCO JSON: {error}.") from error


def _indexed(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> Any:
    return COCO({"images": images, "categories": categories, "annotations": annotations})


def _truth_annotations(truths: Sequence[BoxTruth]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id, truth in enumerate(truths, start=1):
        columns = (
            to_xywh(truth.boxes_xyxy).tolist(),
            truth.class_ids.tolist(),
            truth.is_crowd.tolist(),
            truth.areas.tolist(),
        )
        for bbox, category_id, is_crowd, area in zip(*columns, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    return annotations


def _result_annotations(predictions: Sequence[Detections]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id, found in enumerate(predictions, start=1):
        columns = (
            to_xywh(found.boxes_xyxy).tolist(),
            found.class_ids.tolist(),
            found.scores.tolist(),
        )
        for bbox, category_id, score in zip(*columns, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return annotations


def _mean_of_present(values: FloatArray) -> float | None:
    present = values[values > -1]
    return float(present.mean()) if present.size else None
