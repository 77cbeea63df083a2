"""What `dyno doctor` says of a GPU's use, over a driver's stand-in."""

from pathlib import Path

import onnxruntime
import pytest

from nvml_stand_in import Driver, gpu
from visiondyno.probes import gpu_findings as module
from visiondyno.probes.finding import Finding
from visiondyno.probes.gpu_findings import gpu_findings

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def found(
    environ: dict[str, str] | None = None, version: Path = Path("nowhere")
) -> dict[str, Finding]:
    return {one.topic: one for one in gpu_findings(Driver(gpu()), environ or {}, version)}


def test_nothing_is_said_without_a_gpu() -> None:
    class NoDriver(Driver):
        def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
            raise self.NVMLError("Driver Not Loaded")

    assert gpu_findings(NoDriver(), {}) == []
    assert gpu_findings(Driver(), {}) == []


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("from typing import Optional\ncuda: Optional[str] = '13.0'\n", "ok"),
        ('cuda = "12.8"\n', "ok"),
        ("__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\n", "limited"),
        ("cuda_like = '12.8'\n", "limited"),
    ],
)
def test_torch_is_told_by_what_it_was_built_for(text: str, status: str, tmp_path: Path) -> None:
    path = tmp_path / "version.py"
    path.write_text(text)
    assert found(version=path)["torch on a GPU"].status == status
    assert found()["torch on a GPU"].status == "missing"


@pytest.mark.torch
def test_the_installed_torch_says_what_it_was_built_for() -> None:
    import torch

    said = {one.topic: one for one in gpu_findings(Driver(gpu()), {})}["torch on a GPU"]
    built_for = torch.version.cuda
    assert said.status == ("ok" if built_for else "limited")
    assert (built_for or "without CUDA") in said.detail


def test_providers_are_told_by_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries: set[str] = set()
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: "here" if name in libraries else None
    )
    offered: list[str] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    said = found()
    assert said["CUDA graphs"].status == said["TensorRT"].status == "missing"
    assert "onnxruntime-gpu" in (said["TensorRT"].fix or "")
    offered += [TENSORRT, CUDA]
    said = found()
    assert (said["CUDA graphs"].status, said["TensorRT"].status) == ("ok", "limited")
    libraries.add("tensorrt_libs")
    assert found()["TensorRT"].status == "ok"


def test_the_share_of_the_memory_is_told() -> None:
    topic = "share of GPU memory"
    assert "all of it" in found()[topic].detail
    assert "0.25 of the device" in found({"GPU_MEMORY_FRACTION": "0.25"})[topic].detail
    wrong = found({"GPU_MEMORY_FRACTION": "2"})[topic]
    assert (wrong.status, "isn't a share" in wrong.detail) == ("limited", True)
