"""Small data and models for tests of the trainer, and a client that counts what it sends."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from visiondyno.client.async_client import Json, OnEvent, ignore
from visiondyno.client.client import AnyPolicy, Client

HYPER = {"learning_rate": 0.01, "batch_size": 16}
MLP = {
    "type": "sequential",
    "layers": [
        {"type": "linear", "in_features": 6, "out_features": 16},
        {"type": "batch_norm1d", "num_features": 16},
        {"type": "relu"},
        {"type": "dropout", "p": 0.2},
        {"type": "linear", "in_features": 16, "out_features": 3},
    ],
}
CNN = {
    "type": "sequential",
    "layers": [
        {"type": "unflatten", "dim": 1, "unflattened_size": [1, 2, 3]},
        {"type": "conv2d", "in_channels": 1, "out_channels": 4, "kernel_size": 2},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "linear", "in_features": 8, "out_features": 3},
    ],
}


def blobs_of_points(count: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of three classes: features of shape (count, 6), float32; labels, int64."""
    noise = np.random.default_rng(seed)
    labels = noise.integers(0, 3, count)
    features = noise.normal(size=(count, 6)).astype(np.float32)
    features[np.arange(count), labels] += 2
    return features, labels


class CountingClient(Client):
    """Keeps every input it sends, and names the blobs it uploads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.inputs: list[Json] = []
        self.uploads: list[str] = []
        self.before: Callable[[Json], None] = lambda _: None

    def run(
        self,
        job_input: Mapping[str, Any],
        *,
        policy: AnyPolicy = None,
        on_event: OnEvent = ignore,
    ) -> Json:
        self.inputs.append(dict(job_input))
        self.before(self.inputs[-1])
        return super().run(job_input, policy=policy, on_event=on_event)

    def put_blob(self, data: bytes) -> str:
        self.uploads.append(super().put_blob(data))
        return self.uploads[-1]
