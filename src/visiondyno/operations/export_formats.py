"""An ONNX graph as the files of a format: ONNX itself, OpenVINO's IR, a TensorRT engine in ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import MissingExtra, ModelError, SpecError, Unavailable
from visiondyno.operations.export_graph import carry_metadata
from visiondyno.operations.onnx_files import HALF_NOTE, serialized, to_half
from visiondyno.runtimes.model_cards import METADATA_KEY
from visiondyno.specs.model_card import ModelCard

if TYPE_CHECKING:
    import onnx

_FATAL_ONLY = 4
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """Files of one model.

    Attributes:
        paths: the main file first.
        device: where it runs.
        notes: what its user must know.
    """

    paths: tuple[Path, ...]
    device: str = "cpu"
    notes: tuple[str, ...] = ()


def require_format(form: str) -> None:
    """Refuse what can't be written here, before anything is done for it.

    Raises:
        MissingExtra: what writes it isn't installed.
        Unavailable: there is no GPU, or ONNX Runtime has no TensorRT provider here.
    """
    if form == "openvino":
        _openvino()
    if form == "tensorrt":
        import onnxruntime

        _require_tensorrt(onnxruntime.get_available_providers())


def write_onnx(graph: "onnx.ModelProto", precision: str, folder: Path, stem: str) -> WrittenFiles:
    """The graph as one file.

    Raises:
        ModelError: it can't be halved, or is too long for one file.
    """
    path = folder / f"{stem}.onnx"
    is_half = precision == "fp16"
    path.write_bytes(serialized(to_half(graph) if is_half else graph))
    return WrittenFiles((path,), notes=(HALF_NOTE,) if is_half else ())


def write_openvino(
    graph: "onnx.ModelProto", card: ModelCard, precision: str, folder: Path, stem: str
) -> WrittenFiles:
    """The graph as OpenVINO's IR, the card in its `rt_info`.

    Raises:
        MissingExtra: openvino isn't installed.
        ModelError: OpenVINO can't convert it.
    """
    openvino = _openvino()
    source = folder / "source.onnx"
    source.write_bytes(serialized(graph))
    path = folder / f"{stem}.xml"
    try:
        # Its `convert_model` does the same, and where it fails leaves the root logger as it set it.
        model = openvino.Core().read_model(str(source))
        model.set_rt_info(card.model_dump_json(by_alias=True), ["framework", METADATA_KEY])
        openvino.save_model(model, str(path), compress_to_fp16=precision == "fp16")
    except Exception as error:  # those of its frontends share no base class but Exception
        raise ModelError(
            f"OpenVINO can't convert the model: {_one_line(error)}. Take 'format': 'onnx', and run "
            "it as openvino:FILE."
        ) from error
    finally:
        source.unlink()
    notes: tuple[str, ...] = ()
    if precision == "fp16":
        notes = (
            "The weights are stored in fp16; on processors OpenVINO computes with them in fp32.",
        )
    return WrittenFiles((path, path.with_suffix(".bin")), notes=notes)


def write_tensorrt(
    graph: "onnx.ModelProto", precision: str, folder: Path, stem: str
) -> WrittenFiles:
    """The graph with the engine that TensorRT builds for this machine's GPU inside.

    Raises:
        Unavailable: there is no GPU, or ONNX Runtime has no TensorRT provider here; `MissingExtra`
            where it isn't built for GPUs.
        SpecError: the graph takes images of several sizes, or batches.
        ModelError: no engine can be built.
    """
    import onnx
    import onnxruntime

    from visiondyno.runtimes.onnx_gpu import TENSORRT, preload_libraries, without_tf32

    _require_fixed(graph)
    preload_libraries()
    tf32_note = without_tf32()
    path = folder / f"{stem}.onnx"
    source = folder / "source" / path.name
    source.parent.mkdir()
    source.write_bytes(serialized(graph))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    for key, value in (("enable", "1"), ("file_path", str(path)), ("embed_mode", "1")):
        options.add_session_config_entry(f"ep.context_{key}", value)
    settings = {"device_id": "0", "trt_fp16_enable": "1" if precision == "fp16" else "0"}
    try:
        session = onnxruntime.InferenceSession(
            str(source), options, providers=[(TENSORRT, settings)], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise ModelError(f"TensorRT can't build an engine: {_one_line(error)}.") from error
    finally:
        source.unlink()
    if TENSORRT not in session.get_providers() or not path.is_file():
        raise Unavailable(
            "ONNX Runtime couldn't start its TensorRT provider; check the GPU driver and "
            "TensorRT's libraries ('dyno doctor')."
        )
    written = onnx.load(str(path))
    _require_engine(written)
    carry_metadata(written, graph)
    path.write_bytes(serialized(written))
    note = (
        "The engine inside is for this size of batch, and this machine's GPU, driver and TensorRT: "
        "export it again for others."
    )
    return WrittenFiles((path,), device="cuda", notes=(note, tf32_note))


def _require_tensorrt(providers: Sequence[str]) -> None:
    from visiondyno.runtimes.onnx_gpu import CUDA, TENSORRT

    if TENSORRT in providers:
        return
    if CUDA not in providers:
        raise MissingExtra("gpu", "'format': 'tensorrt'")
    raise Unavailable(
        "'format': 'tensorrt' needs ONNX Runtime's TensorRT provider, which isn't in this "
        "installation; take 'format': 'onnx', and run it with --device cuda."
    )


def _require_fixed(graph: "onnx.ModelProto") -> None:
    """Of free sizes ONNX Runtime builds an engine when it sees the first images, and writes none.

    Raises:
        SpecError: says which option fixes them.
    """
    weights = {tensor.name for tensor in graph.graph.initializer}
    for tensor in graph.graph.input:
        dims = tensor.type.tensor_type.shape.dim
        if tensor.name not in weights and any(dim.dim_value < 1 for dim in dims):
            raise SpecError(
                f"'format': 'tensorrt' builds an engine for one size, and the model's input "
                f"'{tensor.name}' takes any; give 'image_size' and 'batch_size'."
            )


def _require_engine(written: "onnx.ModelProto") -> None:
    held = [
        attribute.s
        for node in written.graph.node
        for attribute in node.attribute
        if node.op_type == "EPContext" and attribute.name == "ep_cache_context"
    ]
    if not any(held):
        raise ModelError(
            "TensorRT built no engine for any part of the model; take 'format': 'onnx', and run it "
            "with --device cuda."
        )


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "'format': 'openvino'") from error
    return openvino


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    # OpenVINO says first where in its source code something failed.
    told = [line for line in lines if not line.startswith(("Check '", "Exception from"))] or lines
    return " ".join(" ".join(told).split())[:_LONGEST_REASON].rstrip(". ") or type(error).__name__
