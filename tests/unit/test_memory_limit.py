"""A job that asks for more memory than there is fails alone: its process goes on."""

import resource
from typing import Any

import pytest

from visiondyno import worker
from visiondyno.errors import OperationFailed
from visiondyno.operations import memory_limit
from visiondyno.operations.context import OperationContext
from visiondyno.operations.memory_limit import within_memory
from visiondyno.probes.slots import HostMemory

pytestmark = pytest.mark.torch

EPOCH: dict[str, Any] = {
    "operation": "train_epoch",
    "model_config": {"type": "sequential", "layers": [
        {"type": "conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1},
        {"type": "flatten"}, {"type": "linear", "in_features": 4, "out_features": 2},
    ]},
    "training_data": {"features": [[[[1.0, 2.0], [3.0, 4.0]]]], "labels": [0]},
}  # fmt: skip
# 20,000 × 20,000 numbers between the convolution and the pooling: 1.6 GB.
WIDE = {"type": "sequential", "layers": [
    {"type": "conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 1},
    {"type": "upsample", "scale_factor": 10000},
    {"type": "adaptive_avg_pool2d", "output_size": 2},
    {"type": "flatten"}, {"type": "linear", "in_features": 4, "out_features": 2},
]}  # fmt: skip


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    little = HostMemory(2**40, 2**20)
    monkeypatch.setattr(memory_limit, "host_memory", lambda: little)


@pytest.mark.usefixtures("little_memory")
def test_a_job_that_needs_too_much_fails_and_the_next_one_runs() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(OperationFailed, match="memory is full"):
        worker.run(EPOCH | {"model_config": WIDE}, OperationContext())
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert worker.run(EPOCH, OperationContext())["status"] == "success"


@pytest.mark.usefixtures("little_memory")
def test_a_lower_limit_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        with within_memory():
            limited = resource.getrlimit(resource.RLIMIT_DATA)
            assert limited[0] != before[0]
            resource.setrlimit(resource.RLIMIT_DATA, (limited[0] - 4096, before[1]))
            with within_memory():
                assert resource.getrlimit(resource.RLIMIT_DATA)[0] == limited[0] - 4096
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_nothing_is_limited_where_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "host_memory", lambda: HostMemory(None, None))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with within_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
