"""The tensorflow runtime: SavedModel folders, converted to ONNX and run there."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.conversion import Converted, convert, kept
from visiondyno.runtimes.exported_metadata import metadata_beside
from visiondyno.runtimes.graph_facts import GraphFacts, files_digest
from visiondyno.runtimes.keras import with_input_note
from visiondyno.runtimes.onnx import open_onnx
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference

_CHILD = "visiondyno.runtimes.saved_model_conversion"


class TensorFlowRuntime(Runtime):
    """Runs SavedModels as ONNX, converted once by tf2onnx.

    The converted file answers as the original on noise, or isn't used. It is kept in the cache
    folder by the content of the SavedModel's files; a model that was converted before needs no
    TensorFlow.
    """

    name = "tensorflow"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:  # noqa: ARG002 - nothing to count
        """Convert the model unless that was done before, so that no load time holds it."""
        _converted(_folder_of(reference))

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """Convert the model unless that was done before, and load the ONNX file.

        Raises:
            ModelError: the folder can't be read or converted, or answers otherwise once converted.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here; `MissingExtra` without TensorFlow and tf2onnx.
        """
        facts, made = _facts(_folder_of(reference))
        model = open_onnx(reference, facts, made.path, options, notes=(made.note,))
        return with_input_note(model)


def read_saved_model(folder: Path) -> GraphFacts:
    """What the converted model says about itself; raises as `TensorFlowRuntime.load`."""
    return _facts(folder)[0]


def _folder_of(reference: str) -> Path:
    path = resolve_reference(reference).path
    if path is None or not (path / "saved_model.pb").is_file():
        raise ModelError(f"{reference} is no SavedModel; give the folder of a saved_model.pb.")
    return path


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(one for one in folder.rglob("*") if one.is_file()))


def _facts(folder: Path) -> tuple[GraphFacts, Converted]:
    made = _converted(folder)
    facts = read_onnx(made.path)
    files = _files(folder)
    facts = replace(
        facts,
        path=folder,
        metadata=facts.metadata | metadata_beside(folder),
        digest=files_digest(files),
        file_bytes=sum(one.stat().st_size for one in files),
        external_files=files,
    )
    return facts, made


def _converted(folder: Path) -> Converted:
    digest = files_digest(_files(folder))
    if (found := kept(digest)) is not None:
        return found
    if find_spec("tensorflow") is None or find_spec("tf2onnx") is None:
        raise MissingExtra("tensorflow", f"{folder}")
    return convert(folder, digest, ["-m", _CHILD])
