"""The keras runtime: whole models of Keras (`.keras`, `.h5`), converted to ONNX and run there."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.conversion import Converted, convert, kept
from visiondyno.runtimes.graph_facts import GraphFacts, files_digest
from visiondyno.runtimes.onnx import open_onnx
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference

_CHILD = "visiondyno.runtimes.keras_conversion"
INPUT_NOTE = (
    "How its input is scaled is a guess from its shape, and models of Keras differ in that: check "
    "'input' in a model card."
)


class KerasRuntime(Runtime):
    """Runs models of Keras as ONNX, converted once by Keras itself on torch or TensorFlow.

    The converted file answers as the original on noise, or isn't used. It is kept in the cache
    folder by the content of the original.
    """

    name = "keras"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:  # noqa: ARG002 - nothing to count
        """Convert the model unless that was done before, so that no load time holds it."""
        _converted(_path_of(reference))

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Convert the model unless that was done before, and load the ONNX file.

        Raises:
            ModelError: the file can't be read or converted, would run code of its own, or answers
                otherwise once converted.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here; `MissingExtra` without keras, or without both torch
                and TensorFlow.
        """
        path = _path_of(reference)
        facts, made = _facts(path)
        model = open_onnx(reference, facts, made.path, options, notes=(made.note,))
        return with_input_note(model)


def read_keras(path: Path) -> GraphFacts:
    """What the converted model says about itself; raises as `KerasRuntime.load`."""
    return _facts(path)[0]


def with_input_note(model: LoadedModel) -> LoadedModel:
    """The model, with a note where only its shape tells how its input is scaled."""
    said = model.description
    if said.card_source["input"] == "shape":
        model.description = replace(said, notes=(*said.notes, INPUT_NOTE))
    return model


def _path_of(reference: str) -> Path:
    path = resolve_reference(reference).path
    if path is None or not path.is_file():
        raise ModelError(f"{reference} is no file; give the path of a .keras or .h5 file.")
    return path


def _facts(path: Path) -> tuple[GraphFacts, Converted]:
    made = _converted(path)
    facts = replace(
        read_onnx(made.path),
        path=path,
        digest=files_digest((path,)),
        file_bytes=path.stat().st_size,
        external_files=(),
    )
    return facts, made


def _converted(path: Path) -> Converted:
    """The file as ONNX, by the first backend that can."""
    digest = files_digest((path,))
    if (found := kept(digest)) is not None:
        return found
    first: ModelError | MissingExtra | None = None
    for backend in _backends():
        try:
            return convert(path, digest, ["-m", _CHILD, backend])
        except ModelError as error:
            first = first or error
    if first is None:
        first = MissingExtra("keras" if find_spec("keras") is None else "torch", f"{path}")
    raise first


def _backends() -> list[str]:
    """Those of Keras' that are installed and can write ONNX."""
    if find_spec("keras") is None:
        return []
    can_tensorflow = find_spec("tensorflow") is not None and find_spec("tf2onnx") is not None
    found = ["torch"] if find_spec("torch") is not None else []
    return [*found, "tensorflow"] if can_tensorflow else found
