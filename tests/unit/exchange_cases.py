"""Requests that carry a state, and a worker that takes them and answers."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visiondyno.blobs.folder import FolderBlobs
from visiondyno.errors import StorageFull
from visiondyno.operations.state_exchange import ReceivedState, receive_state
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.operations import parse
from visiondyno.specs.training_operations import TrainEpochInput
from visiondyno.state import EncodedState, State, decode, identity, to_safetensors

EPOCH: dict[str, Any] = {
    "operation": "train_epoch",
    "model_config": {"type": "sequential", "layers": [{"type": "relu"}]},
    "training_data": {"features": [[1.0]], "labels": [0]},
}


def asking(model_state: str | None, format_name: str | None = None) -> TrainEpochInput:
    """An epoch's input with this state."""
    given = {"model_state": model_state, "model_state_format": format_name}
    return parse(TrainEpochInput, EPOCH | given, "train_epoch")


def sending(encoded: EncodedState) -> TrainEpochInput:
    """An epoch's input with this state, inline."""
    return asking(base64.b64encode(encoded.data).decode(), encoded.format)


class Worker:
    """A worker's files, and what a client does with an answer."""

    def __init__(self, folder: Path, max_bytes: int = 10**9) -> None:
        self.blobs = FolderBlobs(folder / "blobs")
        self.cache = WorkerCache(folder / "cache", max_bytes)
        self.files = WorkerFiles(lambda: self.blobs, self.cache)

    def receive(self, spec: TrainEpochInput) -> ReceivedState:
        received = receive_state(spec, self.files)
        assert received is not None
        return received

    def put(self, data: bytes) -> str:
        async def chunks() -> AsyncIterator[bytes]:
            yield data

        return f"sha256:{asyncio.run(self.blobs.put(chunks()))}"

    def decoded(self, answer: dict[str, Any], *bases: State) -> dict[str, np.ndarray]:
        text = answer["model_state"]
        if text.startswith("sha256:"):
            data = self.files.read(text, "The answer")
        else:
            data = base64.b64decode(text)
        assert len(data) == answer["model_state_bytes"]
        held = {identity(base): base for base in bases}
        state = decode(data, answer["model_state_format"], held)
        assert identity(state) == answer["model_state_sha256"]
        return state


def assert_same(one: State, other: State) -> None:
    """The two are equal, bit by bit."""
    assert to_safetensors(one) == to_safetensors(other)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, no worker has room for anything."""

    def refuse(*_: object) -> None:
        raise StorageFull("There is no room left.")

    monkeypatch.setattr(WorkerCache, "put", refuse)
