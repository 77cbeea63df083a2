"""`make bench-gpu` as far as a machine without a GPU can tell: its words, and that its arms run."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu as found  # type: ignore[import-not-found]

    module: ModuleType = found
    return module


@pytest.mark.torch
def test_without_a_gpu_it_says_so_and_ends_with_2() -> None:
    kept = ROOT / "benchmarks/results/gpu.json"
    before = kept.read_bytes() if kept.exists() else None
    done = run(sys.executable, "benchmarks/gpu.py", PYTHONPATH="src")
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("missing packages: ")
    assert "There is no GPU here that torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert (kept.read_bytes() if kept.exists() else None) == before


def test_a_bare_python_is_told_what_it_lacks() -> None:
    # No packages at all, and not even this environment's.
    done = run(sys.executable, "-S", "-I", "benchmarks/gpu.py")
    assert done.returncode == 2, done.stderr
    assert "missing packages: numpy, torch, pydantic, pynvml, onnx" in done.stdout
    assert "this Python has no numpy, torch, pydantic, pynvml. docs/gpu.md says" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_fails_is_left_out_with_its_reason(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError("CUDA error:\n  out of memory")

    findings = gpu.Findings()
    findings.attempt("torch_gpu", fails)
    findings.attempt("energy", lambda: findings.ratios.update(energy=None))
    gpu.onnx_runtime(findings, ["onnx", "google.protobuf"])
    assert findings.left_out == {
        "torch_gpu": "CUDA error: out of memory",
        **{f"onnx_{what}": "not installed: onnx, google.protobuf" for what in gpu.ONNX_ARMS},
    }
    assert list(findings.ratios) == ["energy"]
    assert "left out: torch_gpu: CUDA error: out of memory" in capsys.readouterr().out


def test_a_provider_is_claimed_only_where_it_is_offered(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    assert gpu.providers_missing("cuda_graph") is None
    assert "not TensorrtExecutionProvider" in gpu.providers_missing("tensorrt_fp16")
    assert gpu.missing_packages(("numpy", "no_such_package", "no_such.part")) == [
        "no_such_package",
        "no_such.part",
    ]


@pytest.mark.torch
def test_both_arms_of_torch_answer_the_same(gpu: ModuleType) -> None:
    import gpu_arms  # type: ignore[import-not-found]

    arms = gpu_arms.TorchArms("cpu")
    tensor = gpu_arms.images(2, 64, 64)
    np.testing.assert_array_equal(arms.ours(tensor), arms.bare(tensor))
    assert arms.bare(tensor).shape == (2, gpu_arms.CLASSES)
    assert gpu_arms.images_per_s(lambda _: None, tensor, 0.001) > 0
    arms.close()
    arm = gpu_arms.OnnxArm("", gpu.MODEL, "cpu")
    assert arm.run(gpu_arms.images(2, *arm.size)).shape[0] == 2
    arm.close()


def test_no_counter_beside_is_an_error(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from gpu_counters import Counters  # type: ignore[import-not-found]

    class Refusing:
        """A driver whose session can't be opened."""

        def nvmlInit_v2(self) -> int:  # noqa: N802 - NVML's name
            return 9

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Refusing())
    with pytest.raises(OSError, match="nvmlInit_v2 answers 9"):
        Counters()
