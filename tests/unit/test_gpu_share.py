"""A worker's share of the GPU's memory, against a stand-in driver; a GPU's are in tests/gpu."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from nvml_stand_in import Driver, gpu
from tiny_models import write_detector
from visiondyno.errors import SpecError, Unavailable
from visiondyno.measuring.child import measure_model
from visiondyno.operations.context import OperationContext
from visiondyno.probes import gpu_share as module
from visiondyno.probes.gpu_share import gpu_share, memory_fraction
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.torch_memory import limit_torch_memory
from visiondyno.serving.replica import _load_options

HALF = {"GPU_MEMORY_FRACTION": "0.5"}


def test_the_share_is_of_the_device_that_cuda_means() -> None:
    driver = Driver(gpu(total=1000), gpu(total=4000))
    share = gpu_share("cuda:0", {**HALF, "CUDA_VISIBLE_DEVICES": "1"}, driver)
    assert share is not None
    assert (share.fraction, share.limit_bytes, share.reason) == (0.5, 2000, None)
    assert driver.sessions == 0


def test_our_own_variable_counts_first() -> None:
    environ = {"VISIONDYNO_GPU_MEMORY_FRACTION": "0.143", **HALF}
    assert memory_fraction(environ) == 0.143
    assert memory_fraction({"VISIONDYNO_GPU_MEMORY_FRACTION": " ", **HALF}) == 0.5


def test_no_share_without_a_variable_or_on_the_cpu() -> None:
    assert gpu_share("cuda", {}, Driver(gpu())) is None
    assert gpu_share("cpu", HALF, Driver(gpu())) is None


@pytest.mark.parametrize("text", ["0", "1.01", "-0.1", "nan", "half"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="at most 1"):
        gpu_share("cuda", {"GPU_MEMORY_FRACTION": text}, Driver(gpu()))


def test_a_share_that_cannot_be_kept_says_so() -> None:
    share = gpu_share("cuda:3", HALF, Driver(gpu()))
    assert share is not None
    assert share.limit_bytes is None
    assert "isn't kept" in (share.reason or "")
    assert "no GPU 3" in (share.reason or "")


class Recorder:
    """Gives a fake model and takes note of the options."""

    def __init__(self) -> None:
        self.options: list[LoadOptions] = []

    @contextmanager
    def open(
        self, reference: str, options: LoadOptions, announce: Callable[[bool], None]
    ) -> Iterator[LoadedModel]:
        self.options.append(options)
        announce(False)
        with load_model("fake:detection") as model:
            yield model


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A GPU of 24 GiB where the share is looked up, and half of it as the share."""
    for name in module.FRACTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("GPU_MEMORY_FRACTION", "0.5")
    stand_in = Driver(gpu())
    partial = functools.partial(gpu_share, library=stand_in)
    monkeypatch.setattr(module, "gpu_share", partial)
    monkeypatch.setattr("visiondyno.measuring.child.gpu_share", partial)
    return stand_in


@pytest.mark.usefixtures("driver")
def test_operations_load_models_with_the_share() -> None:
    models, said = Recorder(), list[dict[str, Any]]()
    with OperationContext(said.append, models=models).model(
        "fake:detection", LoadOptions(device="cuda")
    ):
        pass
    with OperationContext(said.append, models=models).model("fake:detection", LoadOptions()):
        pass
    assert [one.gpu_memory_limit_bytes for one in models.options] == [12 << 30, None]
    assert not any("log" in event for event in said)


def test_operations_say_when_the_share_is_not_kept(driver: Driver) -> None:
    driver.gpus.clear()
    models, said = Recorder(), list[dict[str, Any]]()
    with OperationContext(said.append, models=models).model(
        "fake:detection", LoadOptions(device="cuda")
    ):
        pass
    assert models.options[0].gpu_memory_limit_bytes is None
    assert "isn't kept" in said[0]["log"]


def sessions_of(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The CUDA provider's options of each session; the session itself runs on the CPU."""
    asked: list[dict[str, str]] = []
    real = onnxruntime.InferenceSession

    class OnCpu:
        def __init__(
            self, path: str, options: object, providers: Any, enable_fallback: int
        ) -> None:
            assert not enable_fallback
            ((_, provider_options),) = providers
            asked.append(provider_options)
            self._session = real(path, options, providers=["CPUExecutionProvider"])

        # It would tell that all runs on the processor.
        get_provider_graph_assignment_info = None

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    # There is no GPU to keep its inputs on.
    monkeypatch.setattr("visiondyno.runtimes.onnx._bound", lambda *_: None)
    return asked


@pytest.mark.usefixtures("driver")
def test_onnx_runtime_gets_the_limit_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sessions_of(monkeypatch)
    path = str(write_detector(tmp_path / "net.onnx", [[1, 2, 15, 28, 0.9, 0]]))
    with OperationContext().model(path, LoadOptions(device="cuda:0")) as model:
        assert any("12.88 GB" in note for note in model.description.notes)
    assert asked[0]["gpu_mem_limit"] == str(12 << 30)
    with load_model(path, LoadOptions(device="cuda:0")) as model:
        assert not any("GPU memory" in note for note in model.description.notes)
    assert "gpu_mem_limit" not in asked[1]


def test_a_benchmarks_process_keeps_to_the_share(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sessions_of(monkeypatch)
    path = write_detector(tmp_path / "net.onnx", [[1, 2, 15, 28, 0.9, 0]])
    payload = {
        "reference": str(path),
        "device": "cuda",
        "threads": None,
        "images": ["none.jpg"],
        "scenarios": [],
        "engine": "dyno",
        "duration_s": 1.0,
        "rate_per_s": None,
        "latency_limit_ms": None,
        "seed": 0,
        "predictions_file": None,
        "started_ns": 0,
    }
    said: list[dict[str, Any]] = []
    for _ in range(2):
        with pytest.raises(Exception, match=r"none\.jpg"):
            measure_model(payload, said.append)
        driver.gpus.clear()
    assert [options.get("gpu_mem_limit") for options in asked] == [str(12 << 30), None]
    assert [event["stage"] for event in said] == ["loaded", "load", "loaded"]
    assert "isn't kept" in said[1]["log"]


def test_a_replica_keeps_to_the_share(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"device": "cuda", "threads": None, "card": None}
    assert _load_options(config).gpu_memory_limit_bytes == 12 << 30
    assert _load_options({**config, "device": "cpu"}).gpu_memory_limit_bytes is None
    assert capsys.readouterr().err == ""
    driver.gpus.clear()
    assert _load_options(config).gpu_memory_limit_bytes is None
    assert "isn't kept" in capsys.readouterr().err


# ---- torch


@pytest.mark.torch
def test_torch_says_that_it_takes_no_gpu_memory_here() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch can use a GPU: tests/gpu")
    assert "can't use 'cuda'" in (limit_torch_memory("cuda", 0.5) or "")


def test_without_torch_there_is_nothing_to_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "isn't installed" in (limit_torch_memory("cuda", 0.5) or "")


@pytest.mark.torch
def test_torchs_allocator_is_told_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    told: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given)
    )
    assert limit_torch_memory("cuda:1", 0.25) is None
    assert limit_torch_memory("cuda", 0.5) is None
    assert told == [(0.25, 1), (0.5, 0)]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises((SpecError, Unavailable)):
        gpu_share("gpu", HALF, Driver(gpu()))
