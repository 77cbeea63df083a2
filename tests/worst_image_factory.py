"""Drawn images with the errors a model made on them, for `comparison_factory`."""

import base64

import cv2
import numpy as np

from visiondyno.report.comparison import Box, WorstImage


def worst_images(task, generator):
    images = []
    for index in range(3):
        width, height = {"detection": (320, 214), "depth": (480, 160)}.get(task, (112, 112))
        picture = (
            _scene(generator, width, height) if task != "classification" else _digit(index, width)
        )
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])
        found = {
            "image": f"scene-{index:04d}.jpg",
            "errors": 9 - index if task == "detection" else 1,
            "width": width,
            "height": height,
            "jpeg_base64": base64.b64encode(encoded.tobytes()).decode(),
        }
        if task == "detection":
            found |= {
                "true_boxes": (
                    Box(xyxy=(40, 110, 110, 160), label="car", matched=True),
                    Box(xyxy=(150, 95, 240, 170), label="truck", matched=False),
                    Box(xyxy=(255, 90, 275, 150), label="pedestrian", matched=False),
                ),
                "predicted_boxes": (
                    Box(xyxy=(43, 108, 112, 158), label="car", score=0.91, matched=True),
                    Box(xyxy=(160, 99, 205, 165), label="car", score=0.55, matched=False),
                    Box(xyxy=(8, 8, 40, 60), label="sign", score=0.42, matched=False),
                ),
                "caption": "2 misses, 2 false alarms",
            }
        elif task == "depth":
            found |= {"caption": f"AbsRel 0.{30 - index}"}
        else:
            found |= {"caption": f"true {index}, predicted {index + 5} (0.71)"}
        images.append(WorstImage(**found))
    return tuple(images)


def _scene(generator, width, height):
    picture = np.full((height, width, 3), (205, 190, 170), np.uint8)
    picture[height // 2 :] = (92, 92, 96)
    for x in range(0, width, 40):
        top = int(generator.integers(20, 90))
        shade = tuple(int(v) for v in generator.integers(90, 190, 3))
        cv2.rectangle(picture, (x, top), (x + 37, height // 2), shade, -1)
    for x1, y1, x2, y2 in ((40, 110, 110, 160), (150, 95, 240, 170), (255, 90, 275, 150)):
        shade = tuple(int(v) for v in generator.integers(20, 230, 3))
        cv2.rectangle(picture, (x1, y1), (x2, y2), shade, -1)
    noise = generator.normal(0, 8, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def _digit(digit, size):
    picture = np.zeros((size, size, 3), np.uint8)
    cv2.putText(picture, str(digit), (28, 90), cv2.FONT_HERSHEY_SIMPLEX, 3, (255,) * 3, 6)
    return picture
