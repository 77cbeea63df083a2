"""An ONNX graph as the files of a format: ONNX itself, OpenVINO's IR, a TensorRT engine in ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visiondyno.errors import MissingExtra, ModelError, Unavailable
from visiondyno.operations.export_graph import carry_card
from visiondyno.operations.onnx_files import serialized, to_half
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


def write_onnx(graph: "onnx.ModelProto", precision: str, folder: Path, stem: str) -> WrittenFiles:
    """The graph as one file.

    Raises:
        ModelError: it can't be halved, or is too long for one file.
    """
    path = folder / f"{stem}.onnx"
    path.write_bytes(serialized(to_half(graph) if precision == "fp16" else graph))
    return WrittenFiles((path,))


def write_openvino(
    graph: "onnx.ModelProto", card: ModelCard, precision: str, folder: Path, stem: str
) -> WrittenFiles:
    """The graph as OpenVINO's IR, the card in its `rt_info`.

    Raises:
        MissingExtra: openvino isn't installed.
        ModelError: OpenVINO can't convert it.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "'format': 'openvino'") from error
    source = folder / "source.onnx"
    source.write_bytes(serialized(graph))
    path = folder / f"{stem}.xml"
    try:
        model = openvino.convert_model(str(source))
        model.set_rt_info(card.model_dump_json(by_alias=True), ["framework", METADATA_KEY])
        openvino.save_model(model, str(path), compress_to_fp16=precision == "fp16")
    except RuntimeError as error:
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
    graph: "onnx.ModelProto", card: ModelCard, precision: str, folder: Path, stem: str
) -> WrittenFiles:
    """The graph with the engine that TensorRT builds for this machine's GPU inside.

    Raises:
        Unavailable: there is no GPU, or ONNX Runtime has no TensorRT provider here; `MissingExtra`
            where it isn't built for GPUs.
        ModelError: no engine can be built.
    """
    import onnx
    import onnxruntime

    from visiondyno.runtimes.onnx_gpu import TENSORRT, preload_libraries, without_tf32

    _require_tensorrt(onnxruntime.get_available_providers())
    preload_libraries()
    tf32_note = without_tf32()
    source, path = folder / "source.onnx", folder / f"{stem}.onnx"
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
    carry_card(written, card)
    path.write_bytes(serialized(written))
    note = (
        "The engine inside is for this machine's GPU, driver and TensorRT: export it again on "
        "another machine."
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON].rstrip(". ") or type(error).__name__
