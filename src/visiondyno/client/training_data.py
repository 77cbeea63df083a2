"""Training data on their way to a worker: small sets inside the job, larger ones as a blob, once.

Whatever the way, the worker gets the same numbers: features as float32 (whole numbers where the
model looks them up), labels as int64 if their dtype is one of whole numbers, else as float32.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from visiondyno.blobs.base import is_sha256
from visiondyno.errors import DatasetError, SpecError, TooLarge
from visiondyno.specs.inline_data import InlineData
from visiondyno.specs.training_data import ImageData
from visiondyno.state.tensors import dtype_name
from visiondyno.state.writing import to_safetensors
from visiondyno.training.data import as_float32, check_finite

INLINE_LIMIT_BYTES = 100_000
"""Sets whose JSON is no longer travel inside the job."""

MAX_DATA_BYTES = 2 * 2**30
"""What is packed at most; more belongs on the worker, by reference."""

Array = NDArray[Any]
PutBlob = Callable[[bytes], object]
HasBlob = Callable[[str], bool]

_PREFIX = "sha256:"
_TAKEN = (
    "a dataset reference, ImageData, a pair of features and labels, or a map-style torch Dataset "
    "of such pairs"
)


class MapStyle(Protocol):
    """A `torch.utils.data.Dataset` with a length, whose items are (features, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def to_wire(
    data: object, put_blob: PutBlob, has_blob: HasBlob, what: str = "training_data"
) -> dict[str, Any] | str:
    """`data` as a job has it; uploads what is too large for one, unless it is there.

    Args:
        data: a reference (`mnist:train`, a path, `sha256:…`); `ImageData`, or a dict of its
            fields; features and labels as a pair or a dict, each an array of NumPy or torch, or
            nested lists; a `TensorDataset`; or any map-style `Dataset` of (features, label), each
            item of which is taken once, so that random transforms are frozen.
        put_blob: stores bytes under their SHA-256.
        has_blob: whether `sha256:…` is stored; asked first.
        what: which data they are, for messages.

    Returns:
        Inline lists, where their JSON has at most `INLINE_LIMIT_BYTES`; the reference; the fields
        of `ImageData` that aren't its defaults; or `sha256:…`.

    Raises:
        DatasetError: the data aren't numbers, are ragged, not finite, or something else.
        SpecError: a field of `ImageData` is wrong.
        TooLarge: they take more than `MAX_DATA_BYTES`.
    """
    if isinstance(data, str | os.PathLike):
        return _reference(os.fspath(data), what)
    if isinstance(data, ImageData) or (isinstance(data, Mapping) and "data" in data):
        return _image_data(data, what)
    features, labels = _checked(*_pair(data, what), what)
    inline = _inline({"features": features, "labels": labels})
    return inline or _uploaded(_packed(features, labels, what), put_blob, has_blob)


def features_to_wire(
    features: object, put_blob: PutBlob, has_blob: HasBlob, what: str = "features"
) -> list[Any] | str:
    """Features alone, as `predict` takes them: inline, or packed with labels of 0.

    Raises:
        DatasetError, TooLarge: as `to_wire`.
    """
    array = _numbers(features, what)
    _check_samples(array, what)
    inline = _inline({"features": array})
    if inline is not None:
        values: list[Any] = inline["features"]
        return values
    packed = _packed(array, np.zeros(len(array), np.uint8), what)
    return _uploaded(packed, put_blob, has_blob)


def pack_samples(features: object, labels: object, what: str = "training_data") -> bytes:
    """A safetensors file with the tensors `features` and `labels`, as workers read it.

    float64 becomes float32, which is what is trained on, bool becomes uint8; other dtypes stay.
    The same numbers of the same dtypes give the same bytes.

    Args:
        features: an array of NumPy or torch, or nested lists; one entry a sample.
        labels: the same.
        what: which data they are, for messages.

    Raises:
        DatasetError, TooLarge: as `to_wire`.
    """
    return _packed(*_checked(features, labels, what), what)


def _reference(text: str | bytes, what: str) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= 4096:
        raise DatasetError(f"'{what}' must be a reference of 1 to 4096 characters.")
    if text.startswith(_PREFIX) and not is_sha256(text.removeprefix(_PREFIX)):
        raise DatasetError(f"'{what}' is {text!r:.100}; after 'sha256:' come 64 digits 0–9 a–f.")
    return text


def _image_data(data: object, what: str) -> dict[str, Any]:
    try:
        checked = ImageData.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([what, *map(str, first["loc"])])
        raise SpecError(f"'{place}': {first['msg'].removeprefix('Value error, ')}.") from error
    return checked.model_dump(mode="json", exclude_defaults=True)


def _pair(data: object, what: str) -> tuple[object, object]:
    """Features and labels, however they are held together."""
    if isinstance(data, InlineData):
        return data.features, data.labels
    if isinstance(data, Mapping):
        if set(data) != {"features", "labels"}:
            raise DatasetError(
                f"'{what}' has the fields {', '.join(map(repr, data)) or 'none'}; give 'features' "
                "and 'labels', or 'data'."
            )
        return data["features"], data["labels"]
    tensors = getattr(data, "tensors", None)  # of a TensorDataset
    held = tensors if isinstance(tensors, tuple) else data
    if isinstance(held, tuple | list):
        if len(held) != 2:
            raise DatasetError(f"'{what}' holds {len(held)} parts; give features and labels.")
        return held[0], held[1]
    if not isinstance(data, type) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        if not _is_array(data):
            return _stacked(data, what)
        raise DatasetError(f"'{what}' is one array; give features and labels as a pair.")
    hint = "; give its 'dataset'" if hasattr(data, "dataset") else ""
    raise DatasetError(f"'{what}' is of type {type(data).__name__}{hint}. Taken are {_TAKEN}.")


def _stacked(dataset: MapStyle, what: str) -> tuple[Array, Array]:
    count = len(dataset)
    if count == 0:
        raise DatasetError(f"'{what}' holds no sample; give at least one.")
    first = _item(dataset[0], f"{what}[0]")
    _check_bytes(count * sum(part.nbytes for part in first), what)
    features, labels = (np.empty((count, *part.shape), part.dtype) for part in first)
    for index in range(count):
        item = first if index == 0 else _item(dataset[index], f"{what}[{index}]")
        for part, own, name in zip(item, first, ("features", "label"), strict=True):
            if part.shape != own.shape or part.dtype != own.dtype:
                raise DatasetError(
                    f"'{what}[{index}]': the shape of its {name} is {part.shape}, of {part.dtype}, "
                    f"and the first sample's {own.shape}, of {own.dtype}; all must be alike."
                )
        features[index], labels[index] = item
    return features, labels


def _item(item: object, place: str) -> tuple[Array, Array]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        shown = f"{len(item)} parts" if isinstance(item, tuple | list) else type(item).__name__
        raise DatasetError(f"'{place}' is {shown}; each sample must be (features, label).")
    features, label = item
    if not (_is_array(features) or isinstance(features, int | float | list | tuple)):
        raise DatasetError(
            f"'{place}' has features of type {type(features).__name__}; let the data set's "
            "transform make a tensor of them, such as torchvision's ToTensor()."
        )
    return _numbers(features, f"{place}[0]"), _numbers(label, f"{place}[1]")


def _checked(features: object, labels: object, what: str) -> tuple[Array, Array]:
    taken = _numbers(features, f"{what}.features"), _numbers(labels, f"{what}.labels")
    for array, name in zip(taken, ("features", "labels"), strict=True):
        _check_samples(array, f"{what}.{name}")
    counts = [len(array) for array in taken]
    if counts[0] != counts[1]:
        raise DatasetError(
            f"'{what}.features' holds {counts[0]} samples and '{what}.labels' {counts[1]}; give "
            "one label for each sample."
        )
    return taken


def _check_samples(array: Array, place: str) -> None:
    if array.ndim == 0:
        raise DatasetError(f"'{place}' is one number; give one entry for each sample.")
    if array.size == 0:
        raise DatasetError(f"'{place}' of shape {array.shape} holds no number; give some.")
    if array.dtype.kind == "f":
        check_finite(as_float32(array), place)


def _numbers(values: object, place: str) -> Array:
    """An array of a dtype that travels: whole numbers up to 64 bits, float16, float32."""
    array = _array(values, place)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 8:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise DatasetError(f"'{place}' holds a whole number beyond 63 bits.")
        return array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        return as_float32(array)
    if array.dtype.kind == "V" and dtype_name(array) is not None:  # bfloat16 and floats of 8 bits
        return as_float32(array)
    if array.dtype.kind not in "iuf":
        raise DatasetError(f"'{place}' holds {array.dtype}, and only real numbers are taken.")
    return array


def _array(values: object, place: str) -> Array:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(values, torch.Tensor):
        return _from_tensor(values, place)
    if not isinstance(values, list | tuple):
        return np.asarray(values)
    if values and any(hasattr(value, "dtype") for value in values):
        return _from_arrays(
            [_array(value, f"{place}[{i}]") for i, value in enumerate(values)], place
        )
    try:
        return InlineData.model_construct(features=_listed(values), labels=[]).features_array()
    except ValueError as error:
        text = str(error).replace("'features", f"'{place}", 1)
        raise DatasetError(f"{text}.") from error


def _from_tensor(tensor: Any, place: str) -> Array:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise DatasetError(f"'{place}' is sparse, quantised or on the meta device; make it dense.")
    dense = tensor.detach().resolve_conj().resolve_neg().cpu()
    if dense.is_floating_point() and dense.dtype not in (torch.float16, torch.float64):
        dense = dense.float()  # NumPy has no bfloat16, nor any float of 8 bits
    array: Array = dense.numpy()
    return array


def _from_arrays(arrays: Sequence[Array], place: str) -> Array:
    for index, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise DatasetError(
                f"'{place}[{index}]' has shape {array.shape}, and the first {arrays[0].shape}; "
                "all must be alike."
            )
    return np.stack(arrays)


def _listed(values: Sequence[Any]) -> list[Any]:
    return [_listed(value) if isinstance(value, list | tuple) else value for value in values]


def _is_array(value: object) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _inline(arrays: dict[str, Array]) -> dict[str, Any] | None:
    """The arrays as nested lists; None if they are too long."""
    # Every number takes two characters at least.
    if 2 * sum(array.size for array in arrays.values()) > INLINE_LIMIT_BYTES:
        return None
    lists = {name: array.tolist() for name, array in arrays.items()}
    return lists if len(json.dumps(lists)) <= INLINE_LIMIT_BYTES else None


def _packed(features: Array, labels: Array, what: str) -> bytes:
    _check_bytes(features.nbytes + labels.nbytes, what)
    return to_safetensors({"features": features, "labels": labels})


def _check_bytes(size_bytes: int, what: str) -> None:
    if size_bytes > MAX_DATA_BYTES:
        raise TooLarge(
            f"'{what}' takes {size_bytes:,} bytes, and {MAX_DATA_BYTES:,} at most are sent. Put "
            "the data where the worker is, and name them by a dataset reference."
        )


def _uploaded(data: bytes, put_blob: PutBlob, has_blob: HasBlob) -> str:
    reference = f"{_PREFIX}{hashlib.sha256(data).hexdigest()}"
    if not has_blob(reference):
        put_blob(data)
    return reference
