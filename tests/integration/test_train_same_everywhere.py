"""The same numbers and weights, wherever a training runs: inline, local, redis and runpod."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulated_endpoint import KEY
from training_endpoint import training_endpoint
from visiondyno.executors.base import Executor
from visiondyno.executors.inline import InlineExecutor
from visiondyno.executors.runpod import RunPodExecutor
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.job import JobRequest
from visiondyno.worker import run

pytest.importorskip("torchvision")
pytestmark = pytest.mark.torch

MLP = {
    "type": "sequential",
    "layers": [
        {"type": "flatten"},
        {"type": "linear", "in_features": 192, "out_features": 16},
        {"type": "relu"},
        {"type": "dropout", "p": 0.3},
        {"type": "linear", "in_features": 16, "out_features": 3},
    ],
}
CNN = {
    "type": "sequential",
    "layers": [
        {"type": "conv2d", "in_channels": 3, "out_channels": 8, "kernel_size": 3, "padding": 1},
        {"type": "batch_norm2d", "num_features": 8},
        {"type": "relu"},
        {"type": "adaptive_avg_pool2d", "output_size": 2},
        {"type": "flatten"},
        {"type": "linear", "in_features": 32, "out_features": 3},
    ],
}
RESNET = {"type": "torchvision", "name": "resnet18", "arguments": {"num_classes": 3}}
THREADS = 1


def noise(seed: int, count: int, side: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 3, side, side)).round(2)
    return {"features": features.tolist(), "labels": generator.integers(0, 3, count).tolist()}


def jobs() -> list[dict[str, Any]]:
    """A single epoch of each architecture, then several epochs of each with validation."""
    found = []
    for config, side in ((MLP, 8), (CNN, 8), (RESNET, 32)):
        shared = {
            "model_config": config,
            "training_data": noise(1, 24, side),
            "hyperparameters": {"optimizer": "adamw", "learning_rate": 0.01, "batch_size": 8},
            "threads": THREADS,
        }
        several = {"operation": "train", "epochs": 3, "validation_data": noise(2, 10, side)}
        found += [shared | {"operation": "train_epoch"}, shared | several]
    return found


async def outputs(executor: Executor, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    async with executor, asyncio.timeout(200):
        for job_input in inputs:
            job_id = await executor.submit(JobRequest(input=job_input))
            events = [event async for event in executor.watch(job_id)]
            assert events[-1].answer is not None
            found.append(events[-1].answer.result())
    return found


@pytest.mark.slow
def test_a_training_is_the_same_wherever_it_runs(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supervised(queue: str, home: str) -> Executor:
        environ = {**os.environ, "VISIONDYNO_HOME": str(tmp_path / home)}
        return SupervisedExecutor(queue_workers(queue, ScaleLimits(1, 1, 60.0)), environ=environ)

    async def everywhere() -> list[list[dict[str, Any]]]:
        places = [
            InlineExecutor(run),
            supervised(str(tmp_path / "queue.sqlite3"), "local"),
            supervised(redis_url, "redis"),
        ]
        found = [await outputs(executor, jobs()) for executor in places]
        with training_endpoint(tmp_path) as endpoint:
            found.append(await outputs(RunPodExecutor(endpoint.url, KEY), jobs()))
        return found

    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "inline"))
    inline, local, redis, runpod = asyncio.run(everywhere())
    assert inline == local == redis == runpod  # all of it: metrics, states, notes
    for output in inline:
        assert len(output["model_state_sha256"]) == 64
    assert len({output["model_state_sha256"] for output in inline}) == len(inline)
    assert [len(output.get("history", ())) for output in inline] == [0, 3] * 3
