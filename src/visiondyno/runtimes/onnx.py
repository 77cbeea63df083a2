"""The ONNX runtime: models as .onnx files, run by ONNX Runtime."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
from numpy.typing import NDArray

from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription, Runtime
from visiondyno.runtimes.file_model import CardedGraph, FileModel, carded_graph
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.onnx_binding import BoundSession
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.onnx_gpu import (
    RECORD_PLACEMENT,
    Engine,
    Execution,
    execution,
    placement,
    placement_notes,
    preload_libraries,
    require_device,
    require_providers,
)
from visiondyno.runtimes.onnx_graph import graph_of
from visiondyno.runtimes.onnx_profile import OnnxProfile
from visiondyno.runtimes.references import resolve_reference
from visiondyno.vision.heads import Output

_FATAL_ONLY = 4
_LONGEST_REASON = 200


class OnnxRuntime(Runtime):
    """Runs .onnx files by ONNX Runtime, on the device asked for and no other."""

    name = "onnx"
    engine: ClassVar[Engine] = "plain"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Read the file, resolve its card, and make a session on `options.device`.

        Raises:
            ModelError: the file can't be read, understood or run.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here, or its provider didn't start.
        """
        # A wrong device is told before a file is read.
        require_device(options, self.engine)
        path = resolve_reference(reference).path
        if path is None:
            raise ModelError(f"{reference} isn't an ONNX model; give the path of an .onnx file.")
        return open_onnx(reference, read_onnx(path), path, options, engine=self.engine)


class CudaGraphRuntime(OnnxRuntime):
    """The same on a GPU, its kernels launched as one captured CUDA graph."""

    name = "cuda-graph"
    engine: ClassVar[Engine] = "cuda-graph"


class TensorRtRuntime(OnnxRuntime):
    """The same compiled by TensorRT: a runtime of its own, since it answers otherwise."""

    name = "tensorrt"
    engine: ClassVar[Engine] = "tensorrt"


class TensorRtFp16Runtime(OnnxRuntime):
    """The same, with layers in fp16 where TensorRT finds them faster."""

    name = "tensorrt-fp16"
    engine: ClassVar[Engine] = "tensorrt-fp16"


def open_onnx(
    reference: str,
    facts: GraphFacts,
    path: Path,
    options: LoadOptions,
    notes: tuple[str, ...] = (),
    engine: Engine = "plain",
) -> LoadedModel:
    """The model in the ONNX file `path`, which `facts` tell of.

    Args:
        reference: as the user gave it.
        facts: of `path`, or of the file that `path` was converted from.
        path: of the ONNX file.
        options: see `OnnxRuntime.load`.
        notes: more of what a reader of the report must know.
        engine: what runs it.

    Raises:
        ModelError: no card is found, or ONNX Runtime can't run it.
        SpecError: the device's name is wrong.
        Unavailable: the device isn't here, or its provider didn't start.
    """
    plan = execution(options, engine, facts)
    graph = carded_graph(facts, options.card)
    profile = OnnxProfile(path, options.device) if options.profile else None
    session = _session(path, options, plan, profile)
    require_providers(session, plan, options.device)
    placed = placement_notes(None if plan.device_id is None else placement(session), plan)
    of_profile = () if profile is None else (profile.note,)
    description = graph.describe(
        reference,
        options,
        runtime=f"onnxruntime {onnxruntime.__version__}",
        provider=plan.provider,
        precision="mixed" if engine == "tensorrt-fp16" else None,
        notes=(*plan.notes, *placed, *of_profile, *notes),
    )
    return _OnnxModel(description, graph, session, _bound(session, plan), profile)


class _OnnxModel(FileModel):
    def __init__(
        self,
        description: ModelDescription,
        graph: CardedGraph,
        session: Any,
        bound: BoundSession | None,
        profile: OnnxProfile | None,
    ) -> None:
        super().__init__(description, graph)
        self._session = session
        self._bound = bound
        self._profile = profile
        self.graph = graph_of(session, self._run_graph)
        if profile is not None:
            self.operator_times = lambda: profile.operators(self._session)

    def _run_graph(self, wanted: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[Output]:
        self._require_open()
        try:
            if self._bound is not None:
                return self._bound.run(wanted, feeds)
            outputs: list[Output] = self._session.run(list(wanted), dict(feeds))
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            raise ModelError(
                f"{self.description.reference} stopped while running: {_reason(error)}"
            ) from error
        return outputs

    def _free(self) -> None:
        if self._bound is not None:
            self._bound.close()
        self._session = None
        if self._profile is not None:
            self._profile.close()


def _bound(session: Any, plan: Execution) -> BoundSession | None:
    """On a GPU, memory that stays there; None where a tensor isn't of numbers, and on the CPU."""
    if plan.device_id is None:
        return None
    tensors = (*session.get_inputs(), *session.get_outputs())
    if any(not one.type.startswith("tensor(") or "string" in one.type for one in tensors):
        return None
    return BoundSession(session, "cuda", plan.device_id, captures=plan.captures)


def _session(
    path: Path,
    options: LoadOptions,
    plan: Execution,
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
    if plan.device_id is not None:
        preload_libraries()
        session_options.add_session_config_entry(RECORD_PLACEMENT, "1")
    try:
        # By itself it would make, and at a failure of the GPU remake, the session on the CPU.
        return onnxruntime.InferenceSession(
            str(path), session_options, providers=list(plan.providers), enable_fallback=0
        )
    except Exception as error:
        # ONNX Runtime's exceptions share no base class but Exception.
        if plan.device_id is not None and _is_of_the_driver(error):
            raise Unavailable(
                f"Device '{options.device}' can't be used here: {_reason(error)}"
            ) from error
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} can't load {path}: {_reason(error)}"
        ) from error


def _is_of_the_driver(error: Exception) -> bool:
    text = str(error).lower()
    # What can't be captured names CUDA as well, and is of the model.
    return "cuda" in text and "graph" not in text


def _reason(error: Exception) -> str:
    """The telling part of an ONNX Runtime message, one line, without its source code places."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+ .*?\) ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text).strip()
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1].rsplit(" ", 1)[0] + "…"
    return text or type(error).__name__
