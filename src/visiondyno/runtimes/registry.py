"""From a model reference to a loaded model."""

from visiondyno.runtimes.base import LoadedModel, LoadOptions, Runtime
from visiondyno.runtimes.fake import FakeRuntime
from visiondyno.runtimes.onnx import OnnxRuntime
from visiondyno.runtimes.references import (
    ResolvedReference,
    resolve_reference,
    shipped_models,
)

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(), FakeRuntime())}


def load_model(reference: str, options: LoadOptions | None = None) -> LoadedModel:
    """The model that `reference` stands for, ready to run; close it after use.

    Raises:
        ModelError: it can't be found, read, understood or run.
        SpecError: an option is wrong.
        Unavailable: the device isn't here.
    """
    runtime = RUNTIMES[resolve_reference(reference).runtime]
    return runtime.load(reference, options or LoadOptions())


__all__ = [
    "RUNTIMES",
    "ResolvedReference",
    "load_model",
    "resolve_reference",
    "shipped_models",
]
