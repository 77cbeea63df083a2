"""Model references: which file, or which runtime, a user means."""

import difflib
import errno
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from visiondyno.errors import ModelError
from visiondyno.specs.trained_model import RECORD

RuntimeName = Literal[
    "onnx",
    "cuda-graph",
    "tensorrt",
    "tensorrt-fp16",
    "fake",
    "torch",
    "ultralytics",
    "torchvision",
    "timm",
    "transformers",
    "detectron2",
    "openvino",
    "openvino-bf16",
    "litert",
    "keras",
    "tensorflow",
    "trained",
]

SHIPPED_PREFIX = "visiondyno"
FAKE_PREFIX = "fake"

_BY_NAME: dict[str, RuntimeName] = {
    "torch": "torch",
    "ultralytics": "ultralytics",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "detectron2": "detectron2",
    "openvino": "openvino",
    "openvino-bf16": "openvino-bf16",
    "cuda-graph": "cuda-graph",
    "tensorrt": "tensorrt",
    "tensorrt-fp16": "tensorrt-fp16",
}
"""Prefixes before a colon. `openvino:model.onnx` runs a file that another runtime reads too,
`openvino-bf16:` in lower precision; so do `cuda-graph:`, `tensorrt:` and `tensorrt-fp16:`."""

_PREFIXES = (SHIPPED_PREFIX, FAKE_PREFIX, "family", *_BY_NAME)

_OF_ULTRALYTICS = re.compile(r"yolov?\d+[\w-]{0,20}(\.pt|\.yaml)?")

_BY_SUFFIX: dict[str, RuntimeName] = {
    ".pt": "ultralytics",
    ".pt2": "torch",
    ".torchscript": "torch",
    ".xml": "openvino",
    ".tflite": "litert",
    ".keras": "keras",
    ".h5": "keras",
}
"""All other files are taken for ONNX."""

MODEL_SUFFIXES = frozenset({".onnx", *_BY_SUFFIX})
"""Of files that are models, in lower case."""

EARLIER_NAMES = {
    "Trained_yolov5": "yolov5",
    "Trained_yolov8": "yolov8",
    "efficientnet_b0": "efficientnet_b0",
    "detectron2": "detectron2",
}
"""What earlier tools called a family of models, and its name."""

FAMILY_PREFIX = "family:"
"""Before a family's name, where models are compared: the newest trained one stands for it."""

_NOT_VISION = {
    "llama2_70b": "text",
    "opus_mt": "translation",
    "roberta_base": "text",
    "wav2vec2": "audio",
}


@dataclass(frozen=True, slots=True)
class ResolvedReference:
    """What a reference stands for.

    Attributes:
        reference: as the user gave it.
        runtime: what executes it.
        path: of the model's file or folder; None where it is known by name alone.
        name: what stands after the prefix; empty where there is none.
    """

    reference: str
    runtime: RuntimeName
    path: Path | None
    name: str = ""


def resolve_reference(reference: str) -> ResolvedReference:
    """The file or runtime that `reference` stands for; reads no file.

    `path/to/model.onnx` (or a file or folder of another runtime: see docs/model-references.md),
    `visiondyno:NAME` (a shipped model), `RUNTIME:NAME` or `RUNTIME:PATH`, or `fake:detection` and
    `fake:classification`, optionally with `:SEED` (no file and no accuracy: for trying out and
    testing what lies above).

    Raises:
        ModelError: it names no file, no shipped model and no runtime, or a model that isn't a
            vision model.
    """
    if not reference.strip():
        raise ModelError("A model reference is empty; give the path of an .onnx file.")
    path = expanded(reference)
    if is_there(path):
        return ResolvedReference(reference, _runtime_of_file(path), path)
    if reference in _NOT_VISION:
        raise ModelError(f"{reference} is not a vision model: {_NOT_VISION[reference]}.")
    prefix, colon, name = reference.partition(":")
    if colon and prefix == SHIPPED_PREFIX:
        return ResolvedReference(reference, "onnx", _shipped_path(name), name)
    if colon and prefix == FAKE_PREFIX:
        return ResolvedReference(reference, "fake", None, name)
    if colon and prefix in _BY_NAME:
        return _of_runtime(reference, _BY_NAME[prefix], name)
    if reference in EARLIER_NAMES or reference.startswith(FAMILY_PREFIX):
        raise ModelError(
            f"{reference} names a family, not a model: 'dyno compare' finds the one that stands "
            "for it; here name a model such as ultralytics:yolov8n or torchvision:efficientnet_b0, "
            "or the folder of a training."
        )
    raise ModelError(_no_such_model(reference, path))


def shipped_models() -> tuple[str, ...]:
    """Names of the models inside this package, for `visiondyno:NAME`, sorted."""
    folder = _shipped_folder()
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.stem for path in folder.glob("*.onnx")))


def _runtime_of_file(path: Path) -> RuntimeName:
    if not path.is_dir():
        return _BY_SUFFIX.get(path.suffix.lower(), "onnx")
    if (path / RECORD).is_file():
        return "trained"
    if (path / "saved_model.pb").is_file():
        return "tensorflow"
    if any(path.glob("*.xml")):
        return "openvino"
    return "transformers" if (path / "config.json").is_file() else "onnx"


def _of_runtime(reference: str, runtime: RuntimeName, name: str) -> ResolvedReference:
    if not name.strip():
        raise ModelError(f"'{reference}' names no model; write {runtime}:NAME.")
    path = expanded(name)
    # A file beside the command wins over a name; a bare name is never looked for as a folder.
    is_file = is_there(path) and (path.is_file() or "/" in name or path.suffix != "")
    return ResolvedReference(reference, runtime, path if is_file else None, name)


def _shipped_folder() -> Path:
    return Path(str(resources.files("visiondyno"))) / "shipped"


def _shipped_path(name: str) -> Path:
    known = shipped_models()
    if name not in known:
        listed = ", ".join(f"{SHIPPED_PREFIX}:{one}" for one in known) or "none"
        raise ModelError(f"There is no shipped model '{name}'; there are: {listed}.")
    return _shipped_folder() / f"{name}.onnx"


def expanded(text: str) -> Path:
    """The path that `text` may be, `~` of somebody here replaced."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # `~NAME` of nobody here: a folder may be called so
        return path


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        ModelError: that can't be told.
    """
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise ModelError(
            f"{path} can't be looked at: {error.strerror}. Check the rights of its folders."
        ) from error


def _no_such_model(reference: str, path: Path) -> str:
    prefix, colon, name = reference.partition(":")
    if colon and (near := difflib.get_close_matches(prefix.strip().lower(), _PREFIXES, n=1)):
        return f"There is no model {reference:.200}; did you mean {near[0]}:{name.strip():.200}?"
    near = difflib.get_close_matches(str(path), _models_beside(path))
    if not near and _OF_ULTRALYTICS.fullmatch(reference):
        return (
            f"There is no model file {reference:.200}; did you mean ultralytics:{reference:.200}?"
        )
    shipped = [f"{SHIPPED_PREFIX}:{one}" for one in shipped_models()]
    # Of the name alone: the prefix that they share would make any of them look near.
    near += [
        f"{SHIPPED_PREFIX}:{one}" for one in difflib.get_close_matches(reference, shipped_models())
    ]
    if near:
        return f"There is no model file {reference:.200}; did you mean {' or '.join(near)}?"
    return (
        f"There is no model file {reference:.200}; give the path of a model's file, the name of a "
        "library's model (ultralytics:yolov8n, torchvision:resnet50; docs/model-references.md has "
        f"all kinds), or a shipped model ({', '.join(shipped) or 'none in this installation'})."
    )


def _models_beside(path: Path) -> list[str]:
    try:
        others = [one for one in path.parent.iterdir() if one.suffix.lower() in MODEL_SUFFIXES]
    except (OSError, ValueError):  # no such folder, or one that may not be read
        return []
    return [str(path.parent / one.name) for one in others]
