"""The arms of `gpu.py`: our runtimes on a GPU, and the plain loops beside them."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gpu_counters import Counters
from visiondyno.errors import Unavailable
from visiondyno.probes.energy import EnergyProbe
from visiondyno.probes.gpu import GpuProbe
from visiondyno.runtimes.base import LoadOptions, ModelDescription
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import TorchModel, parameter_count
from visiondyno.runtimes.registry import load_model
from visiondyno.specs.model_card import InputCard, ModelCard
from visiondyno.vision.preprocess import Geometry, PreparedBatch

SIDE = 640
CLASSES = 100
WARM_UP = 20
MEBIBYTE = 1 << 20


class Residual(nn.Module):  # type: ignore[misc] # torch has no types here
    """Two convolutions and a way past them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Same shape in and out."""
        return images + self.body(images)


def network() -> nn.Module:
    """A backbone of a small detector's size with random weights: 3 × 640 × 640 to 100 classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for channels in (16, 32, 64, 128, 256):
        layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.SiLU()]
        layers += [Residual(channels), Residual(channels)]
        before = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)]
    return nn.Sequential(*layers).eval()


def images(batch: int, height: int, width: int) -> NDArray[np.float32]:
    """Noise, in the form of a prepared batch."""
    return np.random.default_rng(0).random((batch, 3, height, width), np.float32)


def prepared(tensor: NDArray[Any]) -> PreparedBatch:
    """As if `preprocess` had made it."""
    height, width = tensor.shape[2:]
    return PreparedBatch(tensor, (Geometry(1, 1, 0, 0, width, height),) * len(tensor))


class TorchArms:
    """One module on the GPU, run by our runtime and by a bare loop."""

    def __init__(self, device: str = "cuda") -> None:
        # First: it switches TensorFloat-32 off, for both arms.
        on = TorchDevice(LoadOptions(device=device), "This benchmark")
        self._module = network().to(on.device)
        self._device = on.device
        card = ModelCard(
            task="classification",
            head="classification",
            classes=tuple(f"class {number}" for number in range(CLASSES)),
            input=InputCard(height=SIDE, width=SIDE, resize="stretch"),
            activation="softmax",
        )
        description = ModelDescription(
            reference="benchmark",
            runtime=f"torch {on.version}",
            device=on.name,
            precision="fp32",
            provider=on.provider,
            card=card,
            card_source={},
            batch_size=None,
            parameters=parameter_count(self._module),
            file_bytes=0,
            digest="",
        )
        self._model = TorchModel(description, self._module, on)

    def ours(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """By the torch runtime: an array in, an array out."""
        answer: NDArray[Any] = self._model.infer(prepared(tensor))[0]
        return answer

    def bare(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """By a loop as an engineer writes it."""
        with torch.inference_mode():
            answer: NDArray[Any] = (
                self._module(torch.from_numpy(tensor).to(self._device)).cpu().numpy()
            )
        return answer

    def close(self) -> None:
        """Give the memory back."""
        self._model.close()
        del self._module


def images_per_s(
    run: Callable[[NDArray[Any]], object], tensor: NDArray[Any], seconds: float
) -> float:
    """Of inferences one after another, for at least `seconds` after a warm-up."""
    for _ in range(WARM_UP):
        run(tensor)
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        run(tensor)
        count += 1
    return count * len(tensor) / took


def energy_pair(
    counters: Counters, run: Callable[[NDArray[Any]], object], seconds: float
) -> tuple[float, float]:
    """Joules of a window: by our probe, and by the counter read around it.

    Raises:
        Unavailable: the probe measured nothing, with its reason.
    """
    tensor = images(8, SIDE, SIDE)
    with tempfile.TemporaryDirectory() as nothing:
        # Without the processor's counters, which the one beside doesn't have.
        probe = EnergyProbe("cuda", root=Path(nothing))
        before = counters.energy_joules()
        probe.start()
        images_per_s(run, tensor, seconds)
        found = probe.stop()["energy_joules"]
        beside = counters.energy_joules() - before
    if found.value is None:
        raise Unavailable(found.reason or "the probe gives no energy")
    return found.value, beside


def memory_pair(
    counters: Counters, baselines: tuple[int | None, int], mebibytes: int
) -> tuple[float, float]:
    """Peak MiB of this process with a block of so many: by our probe, and by NVML beside it.

    Args:
        counters: read while the block is there.
        baselines: bytes in use before CUDA was initialised: our probe's, and NVML's.
        mebibytes: of the block.

    Raises:
        Unavailable: the probe measured nothing, with its reason.
    """
    ours_before, beside_before = baselines
    torch.cuda.empty_cache()
    probe = GpuProbe("cuda", ours_before)
    probe.start()
    block = torch.ones(mebibytes * MEBIBYTE, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    time.sleep(1.2)
    beside = counters.used_bytes() - beside_before
    found = probe.stop()["peak_vram_bytes"]
    del block
    if found.value is None:
        raise Unavailable(found.reason or "the probe gives no memory")
    return found.value / MEBIBYTE, beside / MEBIBYTE


class OnnxArm:
    """A shipped detector, by one of our runtimes on the GPU or the processor."""

    def __init__(self, prefix: str, path: Path, device: str = "cuda") -> None:
        self._model = load_model(f"{prefix}{path}", LoadOptions(device=device))
        self.notes = self._model.description.notes
        card = self._model.description.card.input
        self.size = (card.height, card.width)

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """An array in, an array out."""
        answer: NDArray[Any] = self._model.infer(prepared(tensor))[0]
        return answer

    def close(self) -> None:
        """Free the GPU's memory."""
        self._model.close()


def plain_session(path: Path) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """`InferenceSession.run` on the CUDA provider, as an engineer writes it."""
    import onnxruntime

    provider = ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})
    session = onnxruntime.InferenceSession(str(path), providers=[provider], enable_fallback=0)
    name = session.get_inputs()[0].name

    def run(tensor: NDArray[Any]) -> NDArray[Any]:
        answer: NDArray[Any] = session.run(None, {name: tensor})[0]
        return answer

    return run
