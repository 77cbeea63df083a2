"""The work that every arm does for a request: one function of visiondyno's, bytes to JSON.

Decode, pre-process, infer with one intra-op thread, post-process, JSON: what a replica of
`dyno serve` does with one image, called in each peer's server as its users would call their model.
"""

import os

import cv2

from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.serving.batches import Batches
from visiondyno.serving.wire import Item, Kind

MODEL_VARIABLE = "SERVING_BENCHMARK_MODEL"


class Work:
    """The loaded model."""

    def __init__(self) -> None:
        """Load the model that the environment names, and run it once."""
        cv2.setNumThreads(1)
        model = load_model(os.environ[MODEL_VARIABLE], LoadOptions("cpu", 1, None))
        self._batches = Batches(model)

    def __call__(self, jpeg: bytes) -> bytes:
        """The answer's JSON."""
        return self._batches.run([Item(Kind.IMAGE, jpeg)])[0].body
