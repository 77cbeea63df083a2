"""Between a torch module and a state. Torch is imported inside the functions only.

Tensors that are one and the same under several names (tied weights) are in the state once, under
the name that sorts first, and are loaded from any of their names.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from visiondyno.errors import ModelError
from visiondyno.state.tensors import DTYPES, State, Tensor, dtype_name, quoted, raw_bytes

# torch has no types for us, and no module here imports it at its top.
Module: TypeAlias = Any
TorchTensor: TypeAlias = Any

_SHOWN = 5

# dtypes of torch by their safetensors names, as attributes of torch
_TORCH = {
    "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64",
    "F32": "float32", "U32": "uint32", "I32": "int32",
    "BF16": "bfloat16", "F16": "float16", "U16": "uint16", "I16": "int16",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_NAME_OF = {attribute: name for name, attribute in _TORCH.items()}


def from_module(module: Module, *, copy: bool = True) -> dict[str, Tensor]:
    """The parameters and persistent buffers of a module.

    Args:
        module: on any device.
        copy: False shares the memory of what is contiguous and on the CPU, so that further
            training changes the state too: for a state that is encoded at once.

    Returns:
        Arrays by their names in `module.state_dict()`.

    Raises:
        ModelError: an entry isn't a dense tensor of a dtype that safetensors has.
    """
    return from_tensors({names[0]: tensor for names, tensor in _distinct(module)}, copy=copy)


def load_into(module: Module, state: State) -> None:
    """Copy a state into a module, on whatever device its tensors are; all of it or nothing.

    Args:
        module: its state must have the same names, shapes and dtypes; of tied weights any name
            will do, and several must agree.
        state: arrays by name.

    Raises:
        ModelError: it doesn't fit; missing, unexpected and mismatched tensors are named.
    """
    import torch

    groups = _distinct(module)
    _check_names(groups, state)
    chosen = []
    problems = []
    for names, tensor in groups:
        given = [name for name in names if name in state]
        problems += [_mismatch(name, tensor, state[name]) for name in given]
        problems += [_disagreement(given[0], name, state) for name in given[1:]]
        chosen.append((tensor, given[0]))
    found = [problem for problem in problems if problem]
    if found:
        raise ModelError(
            f"The model state doesn't fit the model: {_listed(found)}. Load it into the model it "
            "was made by"
        )
    with torch.no_grad():
        for tensor, name in chosen:
            tensor.copy_(to_tensor(state[name]))


def to_tensor(array: Tensor) -> TorchTensor:
    """An array as a new tensor on the processor, bit for bit.

    Raises:
        ModelError: its dtype isn't one that safetensors has.
    """
    import torch

    dtype = dtype_name(array)
    if dtype is None:
        raise ModelError(
            f"An array of the state has the dtype {array.dtype}, which safetensors doesn't have. "
            f"Convert it to one of {', '.join(_TORCH)}"
        )
    tensor = torch.empty(array.shape, dtype=getattr(torch, _TORCH[dtype]))
    np.copyto(_bytes_of(tensor), raw_bytes(array))
    return tensor


def from_tensors(tensors: Mapping[str, TorchTensor], *, copy: bool = True) -> dict[str, Tensor]:
    """Tensors as a state, such as those of an optimiser.

    Args:
        tensors: by name, on any device, of any shape (0-dimensional too).
        copy: as of `from_module`.

    Raises:
        ModelError: one isn't a dense tensor of a dtype that safetensors has.
    """
    state = {}
    for name, tensor in tensors.items():
        _check_dense(name, tensor)
        array = _to_array(tensor)
        shared = array.ctypes.data == tensor.data_ptr()
        state[name] = array.copy() if copy and shared else array
    return state


def to_tensors(state: State) -> dict[str, TorchTensor]:
    """A state as tensors: bit for bit, on the CPU, with memory of their own.

    Raises:
        ModelError: a dtype isn't one that safetensors has.
    """
    return {name: to_tensor(array) for name, array in state.items()}


def _distinct(module: Module) -> list[tuple[list[str], TorchTensor]]:
    groups: dict[object, list[str]] = defaultdict(list)
    tensors = module.state_dict(keep_vars=False)
    for name in sorted(tensors):
        tensor = tensors[name]
        _check_dense(name, tensor)
        place: object = name
        if tensor.numel():  # all empty tensors lie at address 0
            place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        groups[place].append(name)
    return [(names, tensors[names[0]]) for names in groups.values()]


def _check_dense(name: str, tensor: Any) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise ModelError(
            f"The model keeps {quoted(name)}, a {type(tensor).__name__}, in its state: only "
            "tensors can be sent. Register it as a buffer, or leave it out of the state"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise ModelError(
            f"{quoted(name)} in the model's state is sparse, quantised or on the meta device: only "
            "dense tensors with memory of their own can be sent. Convert it first"
        )
    if _torch_name(tensor) not in _NAME_OF:
        raise ModelError(
            f"{quoted(name)} in the model's state has the dtype {tensor.dtype}, which safetensors "
            f"doesn't have. Convert it to one of {', '.join(_NAME_OF)}"
        )


def _torch_name(tensor: TorchTensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _to_array(tensor: TorchTensor) -> Tensor:
    dtype = DTYPES[_NAME_OF[_torch_name(tensor)]]
    dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    array: Tensor = _bytes_of(dense).view(dtype).reshape(tuple(tensor.shape))
    return array


def _bytes_of(tensor: TorchTensor) -> Tensor:
    import torch

    # NumPy knows no bfloat16 of its own: only the bytes cross.
    array: Tensor = tensor.reshape(-1).view(torch.uint8).numpy()
    return array


def _check_names(groups: list[tuple[list[str], TorchTensor]], state: State) -> None:
    missing = [quoted(names[0]) for names, _ in groups if not state.keys() & set(names)]
    known = {name for names, _ in groups for name in names}
    unexpected = [quoted(name) for name in sorted(state.keys() - known)]
    parts = []
    if missing:
        parts.append(f"it lacks {_listed(missing)}")
    if unexpected:
        parts.append(f"the model has no {_listed(unexpected)}")
    if parts:
        raise ModelError(
            f"The model state is of another model: {', and '.join(parts)}. Send the state of a "
            "model of the same model_config"
        )


def _mismatch(name: str, tensor: TorchTensor, array: Tensor) -> str | None:
    expected = f"{_torch_name(tensor)} {list(tensor.shape)}"
    got = f"{_TORCH.get(str(dtype_name(array)), array.dtype)} {list(array.shape)}"
    return None if expected == got else f"{quoted(name)} is {got}, the model has {expected}"


def _disagreement(first: str, second: str, state: State) -> str | None:
    if np.array_equal(raw_bytes(state[first]), raw_bytes(state[second])):
        return None
    return f"{quoted(first)} and {quoted(second)} are one tensor in the model, but differ"


def _listed(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
