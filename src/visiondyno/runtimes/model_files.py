"""Which files on this machine a model reference stands for, and what their content is."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visiondyno.errors import ModelError, Unavailable
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.graph_facts import files_digest
from visiondyno.runtimes.references import ResolvedReference
from visiondyno.specs.trained_model import RECORD, WEIGHTS

_METADATA = "metadata.yaml"
_OWN_FORMAT = (".xml", ".bin")
_ALSO_ONNX = ("openvino", "openvino-bf16", "cuda-graph", "tensorrt", "tensorrt-fp16")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """All files of one model.

    Attributes:
        main: the file or folder that is meant; itself the name of a member, or a folder of some.
        members: name, with `/`, from the folder that holds `main` → the file.
    """

    main: str
    members: dict[str, Path]


def model_files(resolved: ResolvedReference, *, is_deep: bool = True) -> ModelFiles | None:
    """The files of a model, with its card and its external weights; None if it has none here.

    Of a trained model's folder those two that are the model; of another folder all that aren't
    hidden. A model that can't be read has the files that can be told without reading it.

    Args:
        resolved: the reference.
        is_deep: False leaves out what only reading the model tells: an ONNX file's weights.

    Raises:
        ModelError: it is a folder that isn't a model, or no plain file.
    """
    path = resolved.path
    if path is None:
        return None
    if path.is_dir():
        name = path.resolve().name  # that of `.` too
        return ModelFiles(name, dict(_of_folder(resolved, path, name)))
    if not path.is_file():
        raise ModelError(
            f"{path} is a pipe, a device or a socket, which can't be a model; save what it gives "
            "to a file, and give that."
        )
    members = {path.name: path}
    beside = [card_path(path)]
    if path.suffix.lower() == ".xml":
        beside += [path.with_suffix(".bin"), path.with_name(_METADATA)]
    members.update((one.name, one) for one in beside if one.is_file())
    if is_deep and _is_onnx(resolved, path):
        members.update(_external_weights(path))
    return ModelFiles(path.name, members)


def content_digest(files: ModelFiles) -> str:
    """SHA-256 over all files: where the model lies, and what its main file is called, is left out.

    Raises:
        ModelError: a file can't be read.
    """
    total = hashlib.sha256()
    stem = Path(files.main).stem
    for name, path in sorted(files.members.items()):
        place = name.replace(files.main, "", 1).replace(stem, "", 1)
        try:
            digest = files_digest((path,))
        except OSError as error:
            raise ModelError(f"{path} can't be read: {error.strerror}.") from error
        total.update(f"{place}\0{digest}\n".encode())
    return f"sha256:{total.hexdigest()}"


def model_size_bytes(resolved: ResolvedReference) -> int | None:
    """All files of a model together, bytes; None if it has none here.

    Raises:
        ModelError: it can't be read as what it is.
    """
    if resolved.path is not None and _is_onnx(resolved, resolved.path):
        from visiondyno.runtimes.onnx_file import read_onnx

        return read_onnx(resolved.path).file_bytes
    files = model_files(resolved)
    return None if files is None else sum(path.stat().st_size for path in files.members.values())


def digest_in_description(resolved: ResolvedReference) -> str:
    """`ModelDescription.digest` of the model, without loading it.

    Raises:
        ModelError: a file can't be read.
        Unavailable: it can't be known without loading the model.
    """
    path, suffix = resolved.path, "" if resolved.path is None else resolved.path.suffix.lower()
    if resolved.runtime == "fake":
        return f"sha256:{hashlib.sha256(resolved.reference.encode()).hexdigest()}"
    if path is not None and resolved.runtime == "trained":
        from visiondyno.runtimes.trained_models import read_trained

        return f"sha256:{read_trained(path).weights_sha256}"
    if path is not None and _is_onnx(resolved, path):
        from visiondyno.runtimes.onnx_file import read_onnx

        return read_onnx(path).digest
    one_file = {"torch": (".pt2", ".torchscript"), "ultralytics": (".pt",), "litert": (".tflite",)}
    if path is not None and path.is_file() and suffix in one_file.get(resolved.runtime, ()):
        return files_digest((path,))
    if path is not None and path.is_file() and suffix == ".xml":
        weights = path.with_suffix(".bin")
        return files_digest((path, weights) if weights.is_file() else (path,))
    raise Unavailable(
        f"what {resolved.reference} is can't be told without loading it on the worker"
    )


def _of_folder(resolved: ResolvedReference, folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    if resolved.runtime == "onnx":
        raise ModelError(f"{folder} is a folder; give the model file inside it.")
    if resolved.runtime == "trained":
        found = [folder / RECORD, folder / WEIGHTS]
    else:
        found = sorted(folder.rglob("*"))
    for path in found:
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            yield f"{name}/{inside.as_posix()}", path


def _is_onnx(resolved: ResolvedReference, path: Path) -> bool:
    if resolved.runtime == "onnx":
        return True
    return resolved.runtime in _ALSO_ONNX and path.suffix.lower() not in _OWN_FORMAT


def _external_weights(path: Path) -> Iterator[tuple[str, Path]]:
    from visiondyno.runtimes.onnx_file import read_onnx

    try:
        external = read_onnx(path).external_files
    except ModelError:
        return  # whoever loads it says what is wrong
    folder = path.resolve().parent
    for file in external:
        yield file.relative_to(folder).as_posix(), file
