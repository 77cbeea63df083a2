"""`train` on real data and in real worker processes: equal to plain torch, and whatever dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from visiondyno.datasets.idx import split_of
from visiondyno.datasets.idx_file import read_idx
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervised import SupervisedExecutor, queue_workers
from visiondyno.job import JobEvent, JobRequest, JobState
from visiondyno.operations.context import OperationContext
from visiondyno.settings import Settings
from visiondyno.state import decode, from_text
from visiondyno.worker import run

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

CNN = {
    "type": "sequential",
    "layers": [
        {"type": "conv2d", "in_channels": 1, "out_channels": 12, "kernel_size": 5},
        {"type": "relu"},
        {"type": "max_pool2d", "kernel_size": 2},
        {"type": "conv2d", "in_channels": 12, "out_channels": 24, "kernel_size": 3},
        {"type": "relu"},
        {"type": "max_pool2d", "kernel_size": 2},
        {"type": "flatten"},
        {"type": "dropout", "p": 0.2},
        {"type": "linear", "in_features": 600, "out_features": 10},
    ],
}
SEED, EPOCHS, BATCH_SIZE, LEARNING_RATE, THREADS = 3, 5, 64, 0.002, 1


def weights(output: dict[str, Any]) -> dict[str, Any]:
    return decode(from_text(output["model_state"]), output["model_state_format"])


def plain_torch(folder: Path) -> tuple[dict[str, Any], float]:
    """The same training without anything of VisionDyno's training; its weights and accuracy."""
    nn = torch.nn
    images = torch.from_numpy(np.array(read_idx(folder / "t10k-images-idx3-ubyte.gz", 3)))
    labels = torch.from_numpy(np.array(read_idx(folder / "t10k-labels-idx1-ubyte.gz", 1))).long()
    features = images.float().unsqueeze(1) / 255
    parts = [torch.tensor(split_of(len(labels), part)) for part in ("train", "test")]
    (x, y), (held_out, truth) = ((features[part], labels[part]) for part in parts)
    torch.manual_seed(SEED)
    module = nn.Sequential(
        nn.Conv2d(1, 12, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(600, 10),
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    for epoch in range(1, EPOCHS + 1):
        # The documented seeds of an epoch: of the order of samples, and of dropout.
        order, noise = np.random.SeedSequence((SEED, epoch)).generate_state(2, np.uint64)
        shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(int(order >> 1)))
        torch.manual_seed(int(noise >> 1))
        for start in range(0, len(y), BATCH_SIZE):
            batch = shuffled[start : start + BATCH_SIZE]
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    module.eval()
    with torch.no_grad():
        hits = sum(
            int((module(held_out[i : i + BATCH_SIZE]).argmax(1) == truth[i : i + BATCH_SIZE]).sum())
            for i in range(0, len(truth), BATCH_SIZE)
        )
    return module.state_dict(), hits / len(truth)


@pytest.mark.slow
def test_a_small_network_learns_digits_as_plain_torch_does(
    shared_testdata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_testdata / "training"
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    monkeypatch.setenv("VISIONDYNO_DATA", str(folder))
    output = run(
        {
            "operation": "train",
            "model_config": CNN,
            "training_data": "mnist:train",
            "validation_data": "mnist:test",
            "epochs": EPOCHS,
            "seed": SEED,
            "threads": THREADS,
            "hyperparameters": {"learning_rate": LEARNING_RATE, "batch_size": BATCH_SIZE},
        },
        OperationContext(),
    )
    last = output["history"][-1]
    assert last["train_metrics"]["samples_processed"] == 8000
    assert last["val_metrics"]["samples_processed"] == 2000
    assert last["val_metrics"]["accuracy"] >= 0.97
    threads, random_state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(THREADS)
    try:
        expected, accuracy = plain_torch(folder / "mnist")
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(random_state)
    found = weights(output)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name].numpy()) for name in found)
    assert last["val_metrics"]["accuracy"] == accuracy


def noise_job(epochs: int) -> dict[str, Any]:
    """A training on noise whose epochs take some tenths of a second."""
    generator = np.random.default_rng(1)
    features = generator.normal(size=(1500, 24)).round(3)
    labels = (features[:, 0] > 0).astype(int) + (features[:, 1] > 0)
    return {
        "operation": "train",
        "model_config": {
            "type": "sequential",
            "layers": [
                {"type": "linear", "in_features": 24, "out_features": 64},
                {"type": "batch_norm1d", "num_features": 64},
                {"type": "relu"},
                {"type": "dropout", "p": 0.2},
                {"type": "linear", "in_features": 64, "out_features": 3},
            ],
        },
        "training_data": {"features": features[:1200].tolist(), "labels": labels[:1200].tolist()},
        "validation_data": {"features": features[1200:].tolist(), "labels": labels[1200:].tolist()},
        "hyperparameters": {
            "optimizer": "adamw",
            "learning_rate": 0.01,
            "batch_size": 2,
            "scheduler": "one_cycle",
            "scheduler_arguments": {"max_lr": 0.02},
        },
        "epochs": epochs,
        "seed": 11,
        "threads": 1,
    }


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[SupervisedExecutor]:
    """One worker for VisionDyno's own operations, in a home of its own; settings as they come."""
    environ = {**os.environ, "VISIONDYNO_HOME": str(folder / "home")}
    workers = queue_workers(str(folder / "queue.sqlite3"), ScaleLimits(1, 1, 60.0))
    async with SupervisedExecutor(
        workers, max_attempts=Settings(_env_file=None).max_attempts, environ=environ
    ) as executor, asyncio.timeout(200):  # fmt: skip
        yield executor


def epoch_told(event: JobEvent) -> int | None:
    """The epoch that an event tells the end of."""
    progress = event.progress or {}
    return progress["epoch"] if progress.get("stage") == "epoch" else None


async def trained(folder: Path, job: dict[str, Any], kill_after: set[int]) -> list[JobEvent]:
    """All events of the job; its worker is killed as soon as one of these epochs is told."""
    left, events = set(kill_after), []
    async with local(folder) as executor:
        job_id = await executor.submit(JobRequest(input=job))
        async for event in executor.watch(job_id):
            events.append(event)
            epoch = epoch_told(event)
            if epoch in left:
                left.discard(epoch)
                (worker,) = [one for one in await executor.workers() if one.pid]
                with_it = psutil.Process(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
                psutil.wait_procs([with_it], timeout=20)
    assert not left
    return events


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "killed_after"),
    [
        pytest.param(12, (2,), id="once"),
        pytest.param(8, (1, 3, 6), id="three_times", marks=pytest.mark.exhaustive),
    ],
)
def test_a_training_whose_worker_is_killed_comes_to_the_same(
    epochs: int, killed_after: tuple[int, ...], tmp_path: Path
) -> None:
    job = noise_job(epochs=epochs)
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    whole = asyncio.run(trained(tmp_path / "undisturbed", job, set()))
    events = asyncio.run(trained(tmp_path / "disturbed", job, set(killed_after)))
    states = [event.state for event in events if event.progress is None]
    assert states == [
        JobState.IN_QUEUE,
        *[JobState.IN_PROGRESS, JobState.IN_QUEUE] * len(killed_after),
        JobState.IN_PROGRESS,
        JobState.COMPLETED,
    ]
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    first, second = (found[-1].answer.result() for found in (whole, events))  # type: ignore[union-attr]
    # That of the last kill, or the one before it.
    assert second.pop("resumed_from_epoch") >= killed_after[-1] - 1
    assert first.pop("resumed_from_epoch") == 0
    assert second == first
    assert first["epochs_run"] == epochs

    told: dict[int, dict[str, Any]] = {}
    for event in events:
        epoch = epoch_told(event)
        if epoch is not None and event.progress is not None:
            assert told.setdefault(epoch, event.progress) == event.progress
    assert sorted(told) == list(range(1, epochs + 1))
    told_epochs = [epoch_told(event) for event in whole if epoch_told(event)]
    assert told_epochs == list(range(1, epochs + 1))
