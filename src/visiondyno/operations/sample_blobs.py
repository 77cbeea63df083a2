"""Samples of a blob: a safetensors file with the tensors `features` and `labels`, memory-mapped.

Features may have any real dtype and are taken as float32, unscaled: a uint8 of 255 is 255.0. Labels
are taken as int64 if they are whole numbers by dtype, else as float32.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visiondyno.errors import DatasetError, ModelError, StorageFull
from visiondyno.operations.context import OperationContext
from visiondyno.state.reading import Header, parse_header
from visiondyno.state.tensors import DTYPES, MAX_HEADER_BYTES, Entry
from visiondyno.training.array_samples import ArraySamples
from visiondyno.training.data import as_float32, check_finite, takes_whole_numbers

if TYPE_CHECKING:
    from torch import nn

    from visiondyno.operations.worker_files import WorkerFiles

_NAMES = ("features", "labels")
_WHOLE = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "I64"})
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_SCANNED_AT_ONCE_BYTES = 2**25
_ATTEMPTS = 5
_PACK = (
    "Pack them as safetensors with the tensors 'features' and 'labels'; "
    "visiondyno.client.training_data.pack_samples does it"
)
_KNOWN = "samples-checked"


def blob_samples(
    reference: str,
    module: "nn.Module | None",
    what: str,
    files: "WorkerFiles",
    context: OperationContext,
) -> ArraySamples:
    """The samples of the blob `reference`, as `module` takes them.

    Only a batch at a time is copied. That all numbers are finite is looked at once on a machine,
    and noted in its cache.

    Raises:
        DatasetError: it is something else than such a file, or a number is NaN or infinite.
        NotFound: there is no such blob.
        SpecError, OperationFailed, TransportDown, StorageFull: as `WorkerFiles.fetch`.
    """
    import torch

    context.progress("reading the data", data=reference)
    arrays, whole = _mapped(reference, what, files, context)
    features, labels = arrays["features"], arrays["labels"]
    _check_shapes(features, labels, what)
    known = files.cache.get(_KNOWN, reference) is not None
    if not known and not whole["features"]:
        _check_all(features, f"{what}.features", context)
    if takes_whole_numbers(module) and not whole["features"]:
        raise DatasetError(
            f"'{what}.features' must be whole numbers, and the blob has {features.dtype}: the "
            "model begins with an embedding."
        )
    if whole["labels"]:
        taken: NDArray[Any] = labels.astype(np.int64)
    else:
        taken = np.array(as_float32(labels))  # of its own memory, not the file's
        check_finite(taken, f"{what}.labels")
    if not known:
        files.cache.put(_KNOWN, reference, b"")
    return ArraySamples(features, torch.from_numpy(taken), whole=takes_whole_numbers(module))


def _mapped(
    reference: str, what: str, files: "WorkerFiles", context: OperationContext
) -> tuple[dict[str, NDArray[Any]], dict[str, bool]]:
    """Features and labels on the file's own memory, and which of them are whole numbers."""
    view = _view(reference, what, files, context)
    header = _header(view, what)
    for entry in header.entries:
        if entry.dtype not in _WHOLE | _FLOATS:
            raise DatasetError(
                f"'{what}.{entry.name}' has the dtype {entry.dtype} in the blob; taken are "
                f"{', '.join(sorted(_WHOLE | _FLOATS))}. Convert it."
            )
    whole = {entry.name: entry.dtype in _WHOLE for entry in header.entries}
    return {entry.name: _array(entry, view, header) for entry in header.entries}, whole


def _array(entry: Entry, view: mmap.mmap | bytes, header: Header) -> NDArray[Any]:
    dtype = DTYPES[entry.dtype]
    if entry.begin == entry.end:  # there is no memory to lie on
        return np.empty(entry.shape, dtype)
    return np.ndarray(entry.shape, dtype, view, header.data_begin + entry.begin)


def _view(
    reference: str, what: str, files: "WorkerFiles", context: OperationContext
) -> mmap.mmap | bytes:
    for _ in range(_ATTEMPTS):
        path = files.fetch(reference, f"'{what}'", context.check)
        try:
            return _map(path)
        except FileNotFoundError:  # another worker evicted it before it was opened
            continue
    raise StorageFull(
        f"'{what}' ({reference}) was evicted from {files.cache.folder} before it could be opened, "
        f"{_ATTEMPTS} times. Raise VISIONDYNO_CACHE_BYTES: the workers need more than it allows."
    )


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # nothing in it, which can't be mapped
            return b""


def _header(view: mmap.mmap | bytes, what: str) -> Header:
    try:
        header = parse_header(memoryview(view))
    except ModelError as error:
        raise DatasetError(f"'{what}': the blob {_what_it_is(view[:8])}. {_PACK}.") from error
    names = sorted(entry.name for entry in header.entries)
    if names != sorted(_NAMES):
        shown = ", ".join(ascii(name[:80]) for name in names[:5]) or "no tensor"
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise DatasetError(
            f"'{what}': the blob holds {shown}{more}, and exactly 'features' and 'labels' are "
            f"taken. {_PACK}."
        )
    return header


def _what_it_is(beginning: bytes) -> str:
    if beginning.startswith((b"PK", b"\x80")):
        return "is a zip file or a pickle, such as torch.save and numpy.savez write: never opened"
    if beginning.startswith(b"\x93NUMPY"):
        return "is one array of NumPy"
    if not beginning:
        return "is empty"
    return f"isn't safetensors, or its header is damaged or over {MAX_HEADER_BYTES:,} bytes"


def _check_shapes(features: NDArray[Any], labels: NDArray[Any], what: str) -> None:
    for name, array in zip(_NAMES, (features, labels), strict=True):
        if array.ndim == 0:
            raise DatasetError(
                f"'{what}.{name}' is one number in the blob; give one entry for each sample."
            )
    if len(features) != len(labels):
        raise DatasetError(
            f"'{what}.features' holds {len(features)} samples in the blob and '{what}.labels' "
            f"{len(labels)}; give one label for each sample."
        )
    if len(features) == 0:
        raise DatasetError(f"'{what}.features' holds no sample in the blob; give at least one.")


def _check_all(values: NDArray[Any], place: str, context: OperationContext) -> None:
    for first, part in _parts(values):
        context.check()
        check_finite(as_float32(part), place, first)


def _parts(values: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """The values a few rows at a time, each with the index of the first row."""
    row_bytes = values[:1].size * 4
    rows = max(1, _SCANNED_AT_ONCE_BYTES // max(1, row_bytes))
    for first in range(0, len(values), rows):
        yield first, values[first : first + rows]
