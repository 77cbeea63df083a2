"""How ONNX Runtime runs a file: its CPU, CUDA and TensorRT providers, with their settings."""

import contextlib
import io
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import onnxruntime

from visiondyno.errors import MissingExtra, ModelError, StorageFull, Unavailable
from visiondyno.runtimes.base import LoadOptions, gpu_number
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.whole_file import cache_folder

Engine = Literal["plain", "cuda-graph", "tensorrt", "tensorrt-fp16"]
"""What is to run the graph; `plain` is the CUDA provider on a GPU, the CPU provider elsewhere."""

CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
_ENGINE_OPERATOR = "EPContext"
_TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
# Their outputs' shapes, or which nodes run, depend on the data: a captured graph has neither.
_UNCAPTURABLE = frozenset(
    {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"}
)
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Execution:
    """How a session is made.

    Attributes:
        providers: names and settings, the first that can run a node runs it.
        device_id: number of the GPU; None on the processor.
        captures: CUDA graphs are captured and replayed.
        notes: what a reader of the report must know.
    """

    providers: tuple[tuple[str, dict[str, str]], ...]
    device_id: int | None = None
    captures: bool = False
    notes: tuple[str, ...] = ()

    @property
    def provider(self) -> str:
        """The one that was asked for."""
        return self.providers[0][0]


def require_device(options: LoadOptions, engine: Engine) -> int | None:
    """The GPU's number, None of the processor, after checks that need no file.

    Raises:
        SpecError: the device's name is wrong.
        Unavailable: the engine doesn't run on this device, or isn't in this installation
            (`MissingExtra`).
    """
    number = gpu_number(options.device)
    if number is None:
        if engine != "plain":
            raise Unavailable(
                f"Device 'cpu' can't run '{engine}:', which is of NVIDIA's GPUs; give --device "
                f"cuda, or the file without '{engine}:'."
            )
        return None
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        raise MissingExtra("gpu", f"Device '{options.device}'")
    if engine.startswith("tensorrt") and TENSORRT not in available:
        raise Unavailable(_NO_TENSORRT)
    return number


_NO_TENSORRT = (
    "TensorRT isn't in this ONNX Runtime: its TensorRT provider isn't offered ('dyno doctor'); "
    "install onnxruntime-gpu and TensorRT, or run the file without the prefix."
)


def execution(options: LoadOptions, engine: Engine, facts: GraphFacts) -> Execution:
    """How the file that `facts` tell of is run by `engine`.

    Raises:
        ModelError: it can't be run so.
        SpecError: the device's name is wrong.
        StorageFull: there is no room for TensorRT's engines.
        Unavailable: the device or the engine isn't here, or the file holds an engine of a GPU.
    """
    number = require_device(options, engine)
    holds_engine = _ENGINE_OPERATOR in facts.operators
    if number is None:
        if holds_engine:
            raise Unavailable(
                f"{facts.path} holds a compiled engine, which runs on the GPU that it was made "
                "for; give --device cuda, or the model that it was exported from."
            )
        return Execution(((CPU, {}),))
    if holds_engine:
        return _of_held_engine(options, engine, facts, number)
    cuda = (CUDA, cuda_settings(number, options.gpu_memory_limit_bytes))
    notes = _limit_notes(options.gpu_memory_limit_bytes)
    if engine == "plain":
        return Execution((cuda,), number, notes=notes)
    if engine == "cuda-graph":
        _require_capturable(facts)
        cuda[1]["enable_cuda_graph"] = "1"
        return Execution((cuda,), number, captures=True, notes=(*notes, _CAPTURE_NOTE))
    is_half = engine == "tensorrt-fp16"
    tf32_note = without_tf32()
    settings = tensorrt_settings(
        number, is_half=is_half, digest=facts.digest, limit_bytes=options.gpu_memory_limit_bytes
    )
    return Execution(((TENSORRT, settings), cuda), number, notes=(*notes, tf32_note))


_CAPTURE_NOTE = (
    "CUDA graphs: the second inference of each input shape is captured, later ones replay it; the "
    "first two are slower."
)


def cuda_settings(number: int, limit_bytes: int | None) -> dict[str, str]:
    """Of the CUDA provider on GPU `number`, its arena kept to `limit_bytes`."""
    # TensorFloat-32 would make an fp32 model less precise than it says.
    settings = {"device_id": str(number), "use_tf32": "0"}
    if limit_bytes is not None:
        settings["gpu_mem_limit"] = str(limit_bytes)
        # Doubling what it holds (the default) would reserve up to twice what is needed.
        settings["arena_extend_strategy"] = "kSameAsRequested"
    return settings


def tensorrt_settings(
    number: int, *, is_half: bool, digest: str, limit_bytes: int | None
) -> dict[str, str]:
    """Of the TensorRT provider; engines and timings are kept in VisionDyno's cache folder.

    The folder's name says all that an engine depends on but GPU and TensorRT: ONNX Runtime puts
    the GPU's architecture into the file's name, and TensorRT refuses engines of another version.

    Args:
        number: of the GPU.
        is_half: layers may compute in fp16.
        digest: `sha256:…` of the model.
        limit_bytes: of the workspace in which TensorRT tries and runs layers; None: no limit.

    Raises:
        StorageFull: the folder can't be made.
    """
    root = cache_folder() / "tensorrt"
    tf32 = os.environ.get(_TF32_VARIABLE, "")
    kind = f"{'fp16' if is_half else 'fp32'}{'' if tf32 == '0' else '-tf32'}"
    name = digest.removeprefix("sha256:")
    folder = root / f"{name}-{kind}-{onnxruntime.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFull(
            f"TensorRT's engines can't be kept in {folder} ({error.strerror}); set XDG_CACHE_HOME "
            "to a folder that can be written and has room."
        ) from error
    settings = {
        "device_id": str(number),
        "trt_fp16_enable": "1" if is_half else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(root),
    }
    if limit_bytes is not None:
        settings["trt_max_workspace_size"] = str(limit_bytes)
    return settings


def preload_libraries() -> None:
    """Find the CUDA and cuDNN libraries that Python packages bring; ONNX Runtime can from 1.21 on.

    Without it they are found only where the system's loader looks.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:
        return
    # It prints what it can't find; whether the provider starts tells what matters.
    with contextlib.redirect_stdout(io.StringIO()):
        preload()


def require_providers(session: Any, plan: Execution, device: str) -> None:
    """Refuse a session that ONNX Runtime made without what was asked for.

    Raises:
        Unavailable: a provider didn't start; it is left out without an error then.
    """
    missing = [name for name, _ in plan.providers if name not in session.get_providers()]
    if missing:
        raise Unavailable(
            f"Device '{device}' can't be used here: ONNX Runtime couldn't start {missing[0]}; "
            "check the GPU driver and the CUDA and cuDNN libraries ('dyno doctor')."
        )


def placement(session: Any) -> Counter[tuple[str, str]] | None:
    """How many nodes of which type each provider runs, as (provider, type); None: it isn't told.

    Of a session made with `RECORD_PLACEMENT`, by a recent ONNX Runtime. A node that a
    provider compiles counts as those that it was made of.
    """
    told = getattr(session, "get_provider_graph_assignment_info", None)
    if told is None:
        return None
    return Counter(
        (str(part.ep_name), str(node.op_type)) for part in told() for node in part.get_nodes()
    )


def placement_notes(found: Counter[tuple[str, str]] | None, plan: Execution) -> tuple[str, ...]:
    """What runs elsewhere than was asked for; nothing on the CPU, where there is no elsewhere.

    Args:
        found: see `placement`.
        plan: how the session was made.

    Raises:
        ModelError: nothing at all runs where it was asked for.
    """
    if plan.device_id is None:
        return ()
    if found is None:
        return ("This ONNX Runtime doesn't tell which operators run on the processor.",)
    total = found.total()
    wanted = sum(count for (name, _), count in found.items() if name == plan.provider)
    if total and not wanted:
        raise ModelError(
            f"None of the model's {total} operators can be run by {plan.provider}; run it without "
            "a prefix, or on --device cpu."
        )
    notes = []
    others = sorted({name for name, _ in found} - {plan.provider})
    for other in others:
        types = Counter({kind: n for (name, kind), n in found.items() if name == other})
        named = ", ".join(kind for kind, _ in types.most_common(_MOST_NAMED))
        more = ", …" if len(types) > _MOST_NAMED else ""
        notes.append(
            f"{types.total()} of {total} operators run by {other} instead of {plan.provider}: "
            f"{named}{more}."
        )
    return tuple(notes)


def _of_held_engine(
    options: LoadOptions, engine: Engine, facts: GraphFacts, number: int
) -> Execution:
    if engine != "plain":
        raise ModelError(
            f"{facts.path} holds a compiled engine already; give it without '{engine}:'."
        )
    require_device(options, "tensorrt")
    cuda = (CUDA, cuda_settings(number, options.gpu_memory_limit_bytes))
    notes = (
        *_limit_notes(options.gpu_memory_limit_bytes),
        "The file holds an engine of TensorRT: its precision is that of its export.",
    )
    return Execution(((TENSORRT, {"device_id": str(number)}), cuda), number, notes=notes)


def _require_capturable(facts: GraphFacts) -> None:
    found = sorted(facts.operators & _UNCAPTURABLE)
    if found:
        raise ModelError(
            f"{facts.path} can't be captured as a CUDA graph: {', '.join(found)} decides by the "
            "data what is computed. Run it without 'cuda-graph:'."
        )


def without_tf32() -> str:
    """Have TensorRT compute fp32 as fp32 unless the user said otherwise; what came of it, in words.

    ONNX Runtime's TensorRT provider has no setting for it, and NVIDIA's libraries read the variable
    when they start.
    """
    if os.environ.setdefault(_TF32_VARIABLE, "0") == "0":
        return (
            f"{_TF32_VARIABLE}=0: NVIDIA's libraries that start after it don't round fp32 to "
            "TensorFloat-32."
        )
    said = os.environ[_TF32_VARIABLE]
    return f"{_TF32_VARIABLE}={said}: TensorRT may round fp32 to TensorFloat-32."


def _limit_notes(limit_bytes: int | None) -> tuple[str, ...]:
    if limit_bytes is None:
        return ()
    note = (
        f"GPU memory: ONNX Runtime's arena may take {limit_bytes / 1e9:.2f} GB, this process's "
        "share of the GPU; the CUDA context and cuDNN's own memory come on top."
    )
    return (note,)
