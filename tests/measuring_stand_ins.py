"""A model that takes as long as it is told on a clock that only it moves."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visiondyno.predictions import Detections, Image, Predictions
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.fake import FakeRuntime


class ManualClock:
    """Nanoseconds that pass only when something says so."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        return self.now_ns

    def pass_ms(self, milliseconds: float) -> None:
        with self._lock:  # of a model that several threads ask
            self.now_ns += round(milliseconds * 1e6)

    @property
    def seconds(self) -> float:
        return self.now_ns / 1e9


class TimedModel(LoadedModel):
    """Each step takes the milliseconds that it is told; `inference_ms` is given the query's number.

    The prediction of an image is one box whose left edge is the image's first pixel's blue value.
    """

    def __init__(
        self,
        clock: ManualClock,
        *,
        preprocess_ms: float = 1.0,
        inference_ms: Callable[[int], float] = lambda _: 10.0,
        postprocess_ms: float = 2.0,
        batch_size: int | None = None,
    ) -> None:
        fake = FakeRuntime().load("fake:detection", LoadOptions())
        self.description = replace(fake.description, batch_size=batch_size)
        self.clock = clock
        self.preprocess_ms = preprocess_ms
        self.inference_ms = inference_ms
        self.postprocess_ms = postprocess_ms
        self.queries = 0
        self.batch_sizes: list[int] = []

    def preprocess(self, images: Sequence[Image]) -> Any:
        self.clock.pass_ms(self.preprocess_ms)
        return [int(image[0, 0, 0]) for image in images]

    def infer(self, prepared: Any) -> Any:
        self.clock.pass_ms(self.inference_ms(self.queries))
        self.queries += 1
        self.batch_sizes.append(len(prepared))
        return prepared

    def postprocess(
        self,
        outputs: Any,
        prepared: Any,
        *,
        confidence: float | None = None,
        iou: float | None = None,
    ) -> list[Predictions]:
        self.clock.pass_ms(self.postprocess_ms)
        return [
            Detections(
                np.array([[blue, 0, blue + 1, 1]], np.float32),
                np.ones(1, np.float32),
                np.zeros(1, np.int64),
            )
            for blue in outputs
        ]

    def close(self) -> None:
        """Nothing is held."""


def write_numbered_images(folder: Path, count: int) -> list[Path]:
    """PNG files whose pixels are all their own number."""
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((8, 8, 3), number, np.uint8))
    return paths
