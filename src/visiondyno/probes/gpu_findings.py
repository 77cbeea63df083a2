"""What of a GPU this installation can use: torch, CUDA graphs, TensorRT, a share of the memory."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from visiondyno.errors import INSTALL_GPU, SpecError, Unavailable
from visiondyno.probes.finding import Finding
from visiondyno.probes.gpu_share import memory_fraction
from visiondyno.probes.nvml import Nvml


def gpu_findings(
    library: Any, environ: Mapping[str, str], torch_version: Path | None = None
) -> list[Finding]:
    """What can be used of this machine's GPUs; nothing is said where there is none.

    Args:
        library: NVML's functions.
        environ: for the share of the memory.
        torch_version: torch's `version.py`; None: of the torch that is installed, if any.
    """
    try:
        with Nvml(library) as nvml:
            count = len(nvml.gpus())
    except Unavailable:
        return []
    if not count:
        return []
    path = _torch_version_file() if torch_version is None else torch_version
    return [_torch(path), *_onnx(), _share(environ)]


def _torch_version_file() -> Path | None:
    """Importing torch would take seconds; what it was built for stands in a small file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "version.py"


def _torch(path: Path | None) -> Finding:
    topic = "torch on a GPU"
    if path is None or not path.is_file():
        return Finding(topic, "missing", "torch isn't installed", "pip install 'visiondyno[torch]'")
    said = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", path.read_text("utf-8"), re.M)
    if said is None:
        return Finding(
            topic,
            "limited",
            "this torch was built without CUDA",
            "pip install --force-reinstall torch (see pytorch.org for the build of your driver)",
        )
    return Finding(topic, "ok", f"built for CUDA {said[1]}; fp32 is computed as fp32 (no TF32)")


def _onnx() -> list[Finding]:
    offered = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in offered:
        graphs = Finding("CUDA graphs", "ok", "cuda-graph:FILE.onnx, on memory bound on the GPU")
    else:
        graphs = Finding(
            "CUDA graphs", "missing", "this onnxruntime has no CUDA provider", INSTALL_GPU
        )
    if "TensorrtExecutionProvider" not in offered:
        return [
            graphs,
            Finding(
                "TensorRT", "missing", "this onnxruntime has no TensorRT provider", INSTALL_GPU
            ),
        ]
    detail = "tensorrt:FILE.onnx and tensorrt-fp16:FILE.onnx; engines are kept in the cache folder"
    if importlib.util.find_spec("tensorrt_libs") or importlib.util.find_spec("tensorrt"):
        return [graphs, Finding("TensorRT", "ok", detail)]
    return [
        graphs,
        Finding(
            "TensorRT",
            "limited",
            "the provider is offered, but its library isn't among Python's packages: it must be "
            "where the system's loader looks",
            "pip install tensorrt",
        ),
    ]


def _share(environ: Mapping[str, str]) -> Finding:
    topic = "share of GPU memory"
    try:
        fraction = memory_fraction(environ)
    except SpecError as error:
        return Finding(topic, "limited", error.message)
    if fraction is None:
        return Finding(
            topic, "ok", "all of it; 'dyno doctor --workers' suggests shares for several"
        )
    return Finding(topic, "ok", f"{fraction:g} of the device for each process")
