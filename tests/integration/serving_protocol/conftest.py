"""A live server that speaks the Open Inference Protocol over HTTP, and what is asked of it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from live_serving import LiveServing
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.registry import load_model


@pytest.fixture(scope="module")
def served() -> Iterator[LiveServing]:
    with LiveServing(
        "visiondyno:street-n", threads=1, max_images=4, max_body_mb=5, batch_delay_ms=1
    ) as it:
        yield it


@pytest.fixture(scope="module")
def client(served: LiveServing) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def tensor() -> NDArray[np.float32]:
    return np.random.default_rng(5).random((2, 3, 192, 320), np.float32)


@pytest.fixture(scope="module")
def expected(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the graph itself gives."""
    with load_model("visiondyno:street-n", LoadOptions(intra_op_threads=1)) as model:
        assert model.graph is not None
        return model.graph.run_graph({"images": tensor}, ["detections"])[0]


@pytest.fixture(scope="module")
def picture(shared_testdata: Path) -> bytes:
    return next(iter(sorted(shared_testdata.glob("images/coco128/images/*.jpg")))).read_bytes()
