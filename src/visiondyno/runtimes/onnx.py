"""The ONNX runtime: models as .onnx files, run by ONNX Runtime."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from visiondyno.errors import MissingExtra, ModelError, Unavailable
from visiondyno.runtimes.base import (
    Device,
    LoadedModel,
    LoadOptions,
    ModelDescription,
    Runtime,
    gpu_number,
)
from visiondyno.runtimes.file_model import CardedGraph, FileModel, carded_graph
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.onnx_graph import graph_of
from visiondyno.runtimes.onnx_profile import OnnxProfile
from visiondyno.runtimes.references import resolve_reference
from visiondyno.vision.heads import Output

_FATAL_ONLY = 4
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_LONGEST_REASON = 200


class OnnxRuntime(Runtime):
    """Runs .onnx files by ONNX Runtime, on the device asked for and no other."""

    name = "onnx"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Read the file, resolve its card, and make a session on `options.device`.

        Raises:
            ModelError: the file can't be read, understood or run.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here, or its provider didn't start.
        """
        # A wrong device is told before a file is read.
        _provider(options.device, options.gpu_memory_limit_bytes)
        path = resolve_reference(reference).path
        if path is None:
            raise ModelError(f"{reference} isn't an ONNX model; give the path of an .onnx file.")
        return open_onnx(reference, read_onnx(path), path, options)


def open_onnx(
    reference: str,
    facts: GraphFacts,
    path: Path,
    options: LoadOptions,
    notes: tuple[str, ...] = (),
) -> LoadedModel:
    """The model in the ONNX file `path`, which `facts` tell of.

    Args:
        reference: as the user gave it.
        facts: of `path`, or of the file that `path` was converted from.
        path: of the ONNX file.
        options: see `OnnxRuntime.load`.
        notes: more of what a reader of the report must know.

    Raises:
        ModelError: no card is found, or ONNX Runtime can't run it.
        SpecError: the device's name is wrong.
        Unavailable: the device isn't here, or its provider didn't start.
    """
    provider, provider_options = _provider(options.device, options.gpu_memory_limit_bytes)
    graph = carded_graph(facts, options.card)
    profile = OnnxProfile(path, options.device) if options.profile else None
    session = _session(path, options, provider, provider_options, profile)
    _require_provider(session, provider, options.device)
    description = graph.describe(
        reference,
        options,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        provider=provider,
        notes=(*_limit_notes(provider_options), *notes),
    )
    return _OnnxModel(description, graph, session, profile)


class _OnnxModel(FileModel):
    def __init__(
        self,
        description: ModelDescription,
        graph: CardedGraph,
        session: Any,
        profile: OnnxProfile | None,
    ) -> None:
        super().__init__(description, graph)
        self._session = session
        self._profile = profile
        self.graph = graph_of(session, self._run_graph)
        if profile is not None:
            self.operator_times = lambda: profile.operators(self._session)

    def _run_graph(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Output]:
        self._require_open()
        try:
            outputs: list[Output] = self._session.run(list(wanted), dict(feeds))
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            raise ModelError(
                f"{self.description.reference} stopped while running: {_reason(error)}"
            ) from error
        return outputs

    def _free(self) -> None:
        self._session = None
        if self._profile is not None:
            self._profile.close()


def _provider(device: Device, limit_bytes: int | None) -> tuple[str, dict[str, str]]:
    number = gpu_number(device)
    if number is None:
        return _CPU, {}
    if _CUDA not in onnxruntime.get_available_providers():
        raise MissingExtra("gpu", f"Device '{device}'")
    # TensorFloat-32 would make an fp32 model less precise than it says.
    provider_options = {"device_id": str(number), "use_tf32": "0"}
    if limit_bytes is not None:
        provider_options["gpu_mem_limit"] = str(limit_bytes)
        # Doubling what it holds (the default) would reserve up to twice what is needed.
        provider_options["arena_extend_strategy"] = "kSameAsRequested"
    return _CUDA, provider_options


def _limit_notes(provider_options: dict[str, str]) -> tuple[str, ...]:
    if "gpu_mem_limit" not in provider_options:
        return ()
    gigabytes = int(provider_options["gpu_mem_limit"]) / 1e9
    note = (
        f"GPU memory: ONNX Runtime's arena may take {gigabytes:.2f} GB, this process's share of "
        "the GPU; the CUDA context and cuDNN's own memory come on top."
    )
    return (note,)


def _session(
    path: Path,
    options: LoadOptions,
    provider: str,
    provider_options: dict[str, str],
    profile: OnnxProfile | None,
) -> Any:
    # Problems come as exceptions; ONNX Runtime would print them, and warnings, as well.
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = _FATAL_ONLY
    if options.intra_op_threads is not None:
        session_options.intra_op_num_threads = options.intra_op_threads
    if profile is not None:
        profile.apply(session_options)
    try:
        return onnxruntime.InferenceSession(
            str(path), session_options, providers=[(provider, provider_options)]
        )
    except Exception as error:
        # ONNX Runtime's exceptions share no base class but Exception.
        if provider == _CUDA and "cuda" in str(error).lower():
            raise Unavailable(
                f"Device '{options.device}' can't be used here: {_reason(error)}"
            ) from error
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} can't load {path}: {_reason(error)}"
        ) from error


def _require_provider(session: Any, provider: str, device: Device) -> None:
    # ONNX Runtime drops a provider that fails to start and goes on with the CPU.
    if provider not in session.get_providers():
        raise Unavailable(
            f"Device '{device}' can't be used here: ONNX Runtime couldn't start {provider}; check "
            "the GPU driver and the CUDA and cuDNN libraries ('dyno doctor')."
        )


def _reason(error: Exception) -> str:
    """The telling part of an ONNX Runtime message, one line, without its source code places."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+ .*?\) ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text).strip()
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + "…"
    return text or type(error).__name__
