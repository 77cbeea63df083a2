"""From a model reference to a loaded model."""

from functools import cache
from importlib import import_module

from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.references import (
    ResolvedReference,
    RuntimeName,
    resolve_reference,
    shipped_models,
)

_CLASSES: dict[RuntimeName, str] = {
    "onnx": "visiondyno.runtimes.onnx:OnnxRuntime",
    "cuda-graph": "visiondyno.runtimes.onnx:CudaGraphRuntime",
    "tensorrt": "visiondyno.runtimes.onnx:TensorRtRuntime",
    "tensorrt-fp16": "visiondyno.runtimes.onnx:TensorRtFp16Runtime",
    "fake": "visiondyno.runtimes.fake:FakeRuntime",
    "torch": "visiondyno.runtimes.pytorch.programs:TorchRuntime",
    "ultralytics": "visiondyno.runtimes.pytorch.ultralytics:UltralyticsRuntime",
    "torchvision": "visiondyno.runtimes.pytorch.torchvision:TorchvisionRuntime",
    "timm": "visiondyno.runtimes.pytorch.timm:TimmRuntime",
    "transformers": "visiondyno.runtimes.pytorch.transformers:TransformersRuntime",
    "detectron2": "visiondyno.runtimes.pytorch.detectron2:Detectron2Runtime",
    "openvino": "visiondyno.runtimes.openvino:OpenVinoRuntime",
    "openvino-bf16": "visiondyno.runtimes.openvino:OpenVinoBf16Runtime",
    "litert": "visiondyno.runtimes.litert:LiteRtRuntime",
    "keras": "visiondyno.runtimes.keras:KerasRuntime",
    "tensorflow": "visiondyno.runtimes.tensorflow:TensorFlowRuntime",
    "trained": "visiondyno.runtimes.pytorch.trained:TrainedRuntime",
}
"""Imported when a reference needs it: most need packages that not everybody has."""


@cache
def runtime(name: RuntimeName) -> Runtime:
    """The runtime of this name; its own packages are imported when it loads a model."""
    module, _, attribute = _CLASSES[name].partition(":")
    made: Runtime = getattr(import_module(module), attribute)()
    return made


def load_model(reference: str, options: LoadOptions | None = None) -> LoadedModel:
    """The model that `reference` stands for, ready to run; close it after use.

    Nothing is downloaded: see `fetch_weights`.

    Raises:
        ModelError: it can't be found, read, understood or run.
        SpecError: an option is wrong.
        Unavailable: the device, or a package, isn't here.
    """
    return runtime(resolve_reference(reference).runtime).load(reference, options or LoadOptions())


def fetch_weights(reference: str, on_progress: Progress | None = None) -> None:
    """Download what `load_model` needs and this machine hasn't got yet; see `Runtime.fetch`.

    Raises:
        ModelError: there is no such model, or what came isn't what was announced.
        StorageFull: the disk has no room.
        Unavailable: the server can't be reached, `VISIONDYNO_OFFLINE` is set and weights are
            missing, or a package isn't here.
    """
    resolved = resolve_reference(reference)
    # An ONNX file is here; importing what runs it would be the costliest part of finding that out.
    if resolved.runtime != "onnx":
        runtime(resolved.runtime).fetch(reference, on_progress)


__all__ = [
    "ResolvedReference",
    "fetch_weights",
    "load_model",
    "resolve_reference",
    "runtime",
    "shipped_models",
]
