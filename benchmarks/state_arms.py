"""The ways to train ten epochs on a worker that `state.py` compares, each with its bytes counted.

Every way takes the same data, seed, order of samples, optimiser and threads; optimiser and
data stay on the worker in all of them. Client and worker are this process: seconds are those of
the work and of what is done to the states, without a network.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import get_model

from visiondyno import worker
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.operations.context import OperationContext
from visiondyno.state import (
    State,
    decode,
    encode_held,
    from_module,
    from_text,
    load_into,
    to_safetensors,
    to_text,
)

CLASSES, SIDE, HELD_OUT = 10, 64, 400
EPOCHS, LEARNING_RATE, THREADS = 10, 1e-3, 1

Module = Any
Features = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Spent:
    """What one way took, and what came of it.

    Attributes:
        seconds: from the first byte sent to the last state decoded.
        bytes_up: requests and uploads.
        bytes_down: answers, events and downloads.
        weights: after the last epoch, as the client has them.
        largest_rounding: what rounding changed in any one number of any answer; 0 if lossless.
    """

    seconds: float
    bytes_up: int
    bytes_down: int
    weights: State
    largest_rounding: float = 0.0

    @property
    def bytes_both_ways(self) -> int:
        """Up and down together."""
        return self.bytes_up + self.bytes_down


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained on what.

    Attributes:
        model: of torchvision.
        samples: to learn from.
        batch_size: of training; EfficientNet's batch statistics need a hundred steps to settle.
        contrast: of a class's pattern; the noise's is 1. So that there is something to learn, and
            held-out images are neither all right nor all wrong.
        seed: of weights, order, dropout and data.
    """

    model: str
    samples: int
    batch_size: int
    contrast: float
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        """As `model_config`."""
        arguments = {"num_classes": CLASSES}
        return {"type": "torchvision", "name": self.model, "arguments": arguments}

    def fresh_module(self) -> Module:
        """By torchvision's own function."""
        torch.manual_seed(self.seed)
        return get_model(self.model, weights=None, num_classes=CLASSES)

    def images(self, count: int, part: int) -> tuple[Features, Labels]:
        """Noise of shape (count, 3, side, side), with a coarse pattern for each class."""
        patterns = np.random.default_rng(1).standard_normal((CLASSES, 3, 4, 4))
        random = np.random.default_rng((self.seed, part))
        labels = random.integers(0, CLASSES, count)
        coarse = np.kron(patterns[labels], np.ones((1, 1, SIDE // 4, SIDE // 4)))
        noise = random.standard_normal((count, 3, SIDE, SIDE))
        return (self.contrast * coarse + noise).astype(np.float32), labels.astype(np.int64)


class Wire:
    """Between a client and a worker with a home of its own; counts what passes."""

    def __init__(self, home: Path) -> None:
        self._blobs = FolderBlobs(home / "blobs")
        self.bytes_up = self.bytes_down = 0

    def run(self, job_input: dict[str, Any]) -> dict[str, Any]:
        """The job's output, both as JSON on the way."""
        request = self.sent({"input": job_input})
        context = OperationContext(on_progress=self._told)
        output: dict[str, Any] = self.answered({"output": worker.run(request["input"], context)})[
            "output"
        ]
        return output

    def _told(self, event: dict[str, Any]) -> None:
        self.answered(event)

    def sent(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request as the worker gets it."""
        text = json.dumps(request).encode()
        self.bytes_up += len(text)
        return dict(json.loads(text))

    def answered(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer or event as the client gets it."""
        text = json.dumps(answer).encode()
        self.bytes_down += len(text)
        return dict(json.loads(text))

    def upload(self, data: bytes) -> str:
        """As a blob."""

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        self.bytes_up += len(data)
        return f"sha256:{asyncio.run(self._blobs.put(chunks()))}"

    def download(self, reference: str) -> bytes:
        """A blob."""

        async def all_chunks() -> bytes:
            chunks = self._blobs.open(reference.removeprefix("sha256:"))
            return b"".join([chunk async for chunk in chunks])

        data = asyncio.run(all_chunks())
        self.bytes_down += len(data)
        return data

    def state_in(self, output: dict[str, Any], base: State | None) -> State:
        """The state that an answer carries; `base` is what the request's state was."""
        text = output["model_state"]
        data = self.download(text) if text.startswith("sha256:") else from_text(text)
        bases = None if base is None else lambda _: base
        expected = output["model_state_sha256"]
        return decode(data, output["model_state_format"], bases, expected_sha256=expected)


@contextmanager
def fresh_home() -> Iterator[Path]:
    """A worker's home with nothing in it."""
    before = os.environ.get("VISIONDYNO_HOME")
    with tempfile.TemporaryDirectory(prefix="visiondyno-bench-") as folder:
        os.environ["VISIONDYNO_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["VISIONDYNO_HOME"]
            else:
                os.environ["VISIONDYNO_HOME"] = before


def measured(way: Callable[[Subject, Wire, str], tuple[State, float]], subject: Subject) -> Spent:
    """Train `subject` in one way, on a worker that has nothing yet."""
    features, labels = subject.images(subject.samples, 0)
    data = to_safetensors({"features": features, "labels": labels})
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with fresh_home() as home:
            wire = Wire(home)
            start = time.perf_counter()
            weights, rounding = way(subject, wire, wire.upload(data))
            seconds = time.perf_counter() - start
            return Spent(seconds, wire.bytes_up, wire.bytes_down, weights, rounding)
    finally:
        torch.set_num_threads(threads)


def base64_pickles(subject: Subject, wire: Wire, data: str) -> tuple[State, float]:
    """Plain torch; each epoch the whole state goes up and down as base64 of `torch.save`."""
    features, labels = (torch.from_numpy(part) for part in subject.images(subject.samples, 0))
    module = subject.fresh_module()
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    held: str | None = None
    for epoch in range(1, EPOCHS + 1):
        request = wire.sent({"input": _input(subject, data) | {"model_state": held}})
        given = request["input"]["model_state"]
        if given is not None:
            stream = io.BytesIO(base64.b64decode(given))
            module.load_state_dict(torch.load(stream, weights_only=True))
        loss = _plain_epoch(subject, epoch, module, optimizer, (features, labels))
        saved = io.BytesIO()
        torch.save(module.state_dict(), saved)
        text = base64.b64encode(saved.getvalue()).decode()
        answer = {"status": "success", "metrics": {"loss": loss}, "model_state": text}
        held = wire.answered({"output": answer})["output"]["model_state"]
    client = subject.fresh_module()
    client.load_state_dict(torch.load(io.BytesIO(base64.b64decode(held or "")), weights_only=True))
    return from_module(client), 0.0


def one_train_job(subject: Subject, wire: Wire, data: str) -> tuple[State, float]:
    """All epochs in one `train` job."""
    output = wire.run(_input(subject, data) | {"operation": "train", "epochs": EPOCHS})
    return wire.state_in(output, None), 0.0


def epoch_jobs(
    lossy: str | None = None,
) -> Callable[[Subject, Wire, str], tuple[State, float]]:
    """Ten `train_epoch` jobs; requests name the state that the worker keeps, answers are deltas.

    Args:
        lossy: how answers are rounded. The first is lossless where rounding needs a base.
    """

    def way(subject: Subject, wire: Wire, data: str) -> tuple[State, float]:
        state: State | None = None
        job_input = _input(subject, data)
        rounding = 0.0
        for epoch in range(1, EPOCHS + 1):
            reply: dict[str, Any] = {"delta": True}
            if lossy == "bf16" or (lossy is not None and state is not None):
                reply["lossy"] = lossy
            output = wire.run(
                job_input | {"operation": "train_epoch", "epoch": epoch, "state_reply": reply}
            )
            state = wire.state_in(output, state)
            rounding = max(rounding, output.get("model_state_max_abs_error", 0.0))
            encoded = encode_held(state, output["model_state_sha256"])
            job_input |= {
                "model_state": to_text(encoded),
                "model_state_format": encoded.format,
                "optimizer_state": output["optimizer_state"],
            }
        assert state is not None, "there is at least one epoch"
        return state, rounding

    return way


def scored(subject: Subject, weights: State) -> tuple[float, float]:
    """Loss and accuracy of a state on images that nobody trained on."""
    features, labels = (torch.from_numpy(part) for part in subject.images(HELD_OUT, 1))
    module = subject.fresh_module()
    load_into(module, weights)
    module.eval()
    with torch.no_grad():
        outputs = torch.cat([module(part) for part in features.split(16)])
    loss = nn.functional.cross_entropy(outputs, labels)
    return float(loss), float((outputs.argmax(1) == labels).float().mean())


def digest(state: State) -> str:
    """Of all bits and names."""
    return hashlib.sha256(to_safetensors(state)).hexdigest()


def _input(subject: Subject, data: str) -> dict[str, Any]:
    hyper = {"optimizer": "adam", "learning_rate": LEARNING_RATE, "batch_size": subject.batch_size}
    return {
        "model_config": subject.config,
        "training_data": data,
        "hyperparameters": hyper | {"seed": subject.seed},
        "device": "cpu",
        "threads": THREADS,
    }


def _plain_epoch(
    subject: Subject, epoch: int, module: Module, optimizer: Any, data: tuple[Any, Any]
) -> float:
    """One epoch as one would write it, by the documented seeds of order and dropout."""
    features, labels = data
    order, noise = np.random.SeedSequence((subject.seed, epoch)).generate_state(2, np.uint64)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(int(order >> 1)))
    torch.manual_seed(int(noise >> 1))
    module.train()
    total = 0.0
    for batch in shuffled.split(subject.batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(features[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(batch)
    return total / len(labels)
