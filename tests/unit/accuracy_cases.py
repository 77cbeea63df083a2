"""Made-up detection data for the tests of accuracy, and pycocotools as the judge."""

import contextlib
import io

import numpy as np
from hypothesis import strategies as st

from visiondyno.predictions import BoxTruth, Detections

CLASSES = 3


@st.composite
def images(draw, ties: bool = True) -> tuple[BoxTruth, Detections]:
    """One image: boxes of all COCO's sizes, crowds, near-misses, repeated and stray detections."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_truths = draw(st.integers(0, 5))
    n_found = draw(st.integers(0, 9))
    corner = rng.integers(0, 60, (n_truths, 2)).astype(np.float64)
    size = rng.choice([8, 20, 31, 32, 33, 60, 96, 97, 150], (n_truths, 2)).astype(np.float64)
    boxes = np.hstack([corner, corner + size])
    truth = BoxTruth(
        boxes_xyxy=boxes,
        class_ids=rng.integers(0, CLASSES, n_truths),
        is_crowd=rng.random(n_truths) < 0.25,
        areas=size.prod(axis=1) * rng.choice([1.0, 0.6], n_truths),
    )
    if n_truths:
        source = rng.integers(0, n_truths, n_found)
        shift = rng.choice([0, 0, 1, 3, 8], (n_found, 4))
        found = boxes[source] + shift
        class_ids = np.where(
            rng.random(n_found) < 0.8, truth.class_ids[source], rng.integers(0, CLASSES, n_found)
        )
    else:
        found = np.tile([5.0, 5.0, 45.0, 45.0], (n_found, 1))
        class_ids = rng.integers(0, CLASSES, n_found)
    scores = rng.choice([0.2, 0.5, 0.9], n_found) if ties else rng.random(n_found)
    order = np.argsort(-scores, kind="stable")
    return truth, Detections(
        boxes_xyxy=found[order].astype(np.float32),
        scores=scores[order].astype(np.float32),
        class_ids=class_ids[order].astype(np.int64),
    )


def data_sets(ties: bool = True, min_size: int = 1, max_size: int = 6):
    return st.lists(images(ties), min_size=min_size, max_size=max_size)


def judge(cases: list[tuple[BoxTruth, Detections]], n_classes: int = CLASSES):
    """pycocotools' evaluation after `accumulate`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths, found = [], []
    for image_id, (truth, detections) in enumerate(cases, start=1):
        for box, class_id, is_crowd, area in zip(
            truth.boxes_xyxy, truth.class_ids, truth.is_crowd, truth.areas, strict=True
        ):
            truths.append(annotation(truths, image_id, box, class_id))
            truths[-1] |= {"iscrowd": int(is_crowd), "area": float(area)}
        for box, class_id, score in zip(
            detections.boxes_xyxy.astype(np.float64),
            detections.class_ids,
            detections.scores.astype(np.float64),
            strict=True,
        ):
            found.append(annotation(found, image_id, box, class_id))
            found[-1] |= {"score": float(score), "iscrowd": 0}
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for annotations in (truths, found):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": i + 1} for i in range(len(cases))],
                "categories": [{"id": i, "name": str(i)} for i in range(n_classes)],
                "annotations": annotations,
            }
            coco.createIndex()
            sets.append(coco)
        evaluation = COCOeval(*sets, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def annotation(before: list, image_id: int, box, class_id) -> dict:
    left, top, right, bottom = (float(value) for value in box)
    width, height = right - left, bottom - top
    return {
        "id": len(before) + 1,
        "image_id": image_id,
        "category_id": int(class_id),
        "bbox": [left, top, width, height],
        "area": width * height,
    }


def judged_ap(evaluation, area: int, iou: int | slice = slice(None)) -> float:
    values = evaluation.eval["precision"][iou, :, :, area, -1]
    present = values[values > -1]
    return float(present.mean()) if present.size else float("nan")
