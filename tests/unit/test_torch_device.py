"""Where torch runs a model, as far as a machine without a GPU can tell."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from visiondyno.errors import SpecError, Unavailable
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch import device as module
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import reason

pytestmark = pytest.mark.torch


def test_fp32_is_computed_as_fp32_while_a_model_answers() -> None:
    # In a process of its own: it is the whole process's setting.
    code = (
        "import torch\n"
        "from torch.backends import cuda, cudnn\n"
        "from visiondyno.runtimes.pytorch.fp32 import exact_fp32, fp32_as_it_was\n"
        "def told(): return [cuda.matmul.fp32_precision, cudnn.conv.fp32_precision,"
        " cudnn.rnn.fp32_precision, cudnn.allow_tf32, cuda.matmul.allow_tf32]\n"
        "before = told()\n"
        "for _ in range(2):\n"
        "    exact_fp32()\n"
        "    assert told() == ['ieee', 'ieee', 'ieee', False, False], told()\n"
        "    with cudnn.flags(enabled=False): pass\n"
        "    fp32_as_it_was()\n"
        "    assert told() == before, (told(), before)\n"
        "fp32_as_it_was()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "CPU", ""])
def test_a_device_that_is_none(device: str) -> None:
    with pytest.raises(SpecError, match="isn't a device; use cpu, cuda or cuda:N"):
        TorchDevice(LoadOptions(device=device), "This")


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(Unavailable, match="Device 'cuda:63' can't be used here"):
        TorchDevice(LoadOptions(device="cuda:63"), "This")


def test_a_share_of_the_memory_is_kept_on_a_gpu_without_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All of torch but the driver is real; of `cuda` without a number it would take no share.
    import torch

    told: list[tuple[float, int]] = []
    properties = SimpleNamespace(total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda *given: told.append(given), raising=False
    )
    monkeypatch.setattr(module, "exact_fp32", lambda: None)
    for name in ("cuda", "cuda:1"):
        on = TorchDevice(LoadOptions(device=name, gpu_memory_limit_bytes=2 << 30), "This")
        assert any("25% of the GPU" in note for note in on.notes)
    assert told == [(0.25, 0), (0.25, 1)]


def test_a_script_that_fails_says_why() -> None:
    import torch

    class Fails(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images @ images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still about
        script = torch.jit.script(Fails())
    with pytest.raises(RuntimeError) as caught:
        script(torch.ones(2, 3))
    assert "TorchScript" in str(caught.value)
    said = reason(caught.value)
    assert "TorchScript" not in said
    assert "2x3" in said
