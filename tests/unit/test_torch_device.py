"""Where torch runs a model, as far as a machine without a GPU can tell."""

import subprocess
import sys

import pytest

from visiondyno.errors import SpecError, Unavailable
from visiondyno.runtimes.base import LoadOptions
from visiondyno.runtimes.pytorch.device import TorchDevice

pytestmark = pytest.mark.torch


def test_fp32_is_computed_as_fp32() -> None:
    # In a process of its own: it is the whole process's setting.
    code = (
        "import torch; from visiondyno.runtimes.pytorch.device import exact_fp32; exact_fp32();"
        "print(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ieee", "ieee"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "CPU", ""])
def test_a_device_that_is_none(device: str) -> None:
    with pytest.raises(SpecError, match="isn't a device; use cpu, cuda or cuda:N"):
        TorchDevice(LoadOptions(device=device), "This")


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(Unavailable, match="Device 'cuda:63' can't be used here"):
        TorchDevice(LoadOptions(device="cuda:63"), "This")
