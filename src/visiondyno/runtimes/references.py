"""Model references: which file, or which runtime, a user means."""

import difflib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from visiondyno.errors import ModelError

SHIPPED_PREFIX = "visiondyno"
FAKE_PREFIX = "fake"

_OTHER_RUNTIMES = ("ultralytics", "torchvision", "timm", "transformers", "detectron2")
_EARLIER_NAMES = ("Trained_yolov5", "Trained_yolov8", "efficientnet_b0", "detectron2")
_NOT_VISION = {
    "llama2_70b": "text",
    "opus_mt": "translation",
    "roberta_base": "text",
    "wav2vec2": "audio",
}
_USE_AN_EXPORT = "export the model to ONNX and give the path of the .onnx file"


@dataclass(frozen=True, slots=True)
class ResolvedReference:
    """What a reference stands for.

    Attributes:
        reference: as the user gave it.
        runtime: what executes it.
        path: of the model file; None for the fake runtime.
    """

    reference: str
    runtime: Literal["onnx", "fake"]
    path: Path | None


def resolve_reference(reference: str) -> ResolvedReference:
    """The file or runtime that `reference` stands for; reads no file.

    `path/to/model.onnx`, `visiondyno:NAME` (a shipped model), or `fake:detection` and
    `fake:classification`, optionally with `:SEED` (no file and no accuracy: for trying out and
    testing what lies above).

    Raises:
        ModelError: it names no file and no shipped model, another runtime's model, or a model
            that isn't a vision model.
    """
    if not reference.strip():
        raise ModelError("A model reference is empty; give the path of an .onnx file.")
    path = Path(reference).expanduser()
    if path.exists():
        return ResolvedReference(reference, "onnx", path)
    if reference in _NOT_VISION:
        raise ModelError(f"{reference} is not a vision model: {_NOT_VISION[reference]}.")
    prefix, colon, name = reference.partition(":")
    if colon and prefix == SHIPPED_PREFIX:
        return ResolvedReference(reference, "onnx", _shipped_path(name))
    if colon and prefix == FAKE_PREFIX:
        return ResolvedReference(reference, "fake", None)
    if colon and prefix in _OTHER_RUNTIMES:
        raise ModelError(
            f"{reference}: the {prefix} runtime isn't available in this version; {_USE_AN_EXPORT}."
        )
    if reference in _EARLIER_NAMES:
        raise ModelError(
            f"{reference}: the runtime of this name isn't available in this version; "
            f"{_USE_AN_EXPORT}."
        )
    raise ModelError(_no_such_file(reference, path))


def shipped_models() -> tuple[str, ...]:
    """Names of the models inside this package, for `visiondyno:NAME`, sorted."""
    folder = _shipped_folder()
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.stem for path in folder.glob("*.onnx")))


def _shipped_folder() -> Path:
    return Path(str(resources.files("visiondyno"))) / "shipped"


def _shipped_path(name: str) -> Path:
    known = shipped_models()
    if name not in known:
        listed = ", ".join(f"{SHIPPED_PREFIX}:{one}" for one in known) or "none"
        raise ModelError(f"There is no shipped model '{name}'; there are: {listed}.")
    return _shipped_folder() / f"{name}.onnx"


def _no_such_file(reference: str, path: Path) -> str:
    shipped = [f"{SHIPPED_PREFIX}:{name}" for name in shipped_models()]
    beside = []
    if path.parent.is_dir():
        beside = [str(path.parent / other.name) for other in path.parent.glob("*.onnx")]
    near = difflib.get_close_matches(str(path), beside) + difflib.get_close_matches(
        f"{SHIPPED_PREFIX}:{reference}", shipped
    )
    if near:
        return f"There is no model file {reference}; did you mean {' or '.join(near)}?"
    return (
        f"There is no model file {reference}; give the path of an .onnx file, or a shipped model "
        f"({', '.join(shipped) or 'none in this installation'})."
    )
