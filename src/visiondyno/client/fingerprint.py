"""What an object holds, as a hash: whether one that was sent before has changed since.

Identity won't do: objects change in place, and a new one may lie where a collected one lay.
"""

import hashlib
import pickle
import sys
import sysconfig
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))


def fingerprint(value: object) -> str | None:
    """A hash of all that `value` holds, and of the code of its classes and functions.

    Arrays and tensors count with their numbers, functions with their code, what they enclose, and
    the globals that they name; code of installed packages only with its name. Not seen: files, and
    whatever else lies outside of this process.
    Equal hashes mean equal content; equal content may have two hashes.

    Returns:
        64 hexadecimal digits; None where it holds what can't be read, such as an open file.
    """
    digest = hashlib.sha256()
    reader = _Reader(digest)
    try:
        reader.dump(value)
    except Exception:  # whatever the user's classes raise when they are pickled
        return None
    return digest.hexdigest()


class _Reader(pickle.Pickler):
    """Pickles into a hash; what pickle takes by name only, it takes by content. Never read back."""

    def __init__(self, digest: Any) -> None:
        super().__init__(_HashFile(digest), 5, buffer_callback=self._take)
        self._digest = digest
        self._inside: set[int] = set()

    def _take(self, buffer: pickle.PickleBuffer) -> None:
        raw = buffer.raw()
        self._digest.update(f"{raw.nbytes} bytes:".encode())
        self._digest.update(raw)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return _Seen, (value.__name__,)
        if isinstance(value, FunctionType | type):
            if value.__module__ == __name__ or _is_unchanging(value) or id(value) in self._inside:
                return _by_name(value)
            self._inside.add(id(value))  # it may name itself
            content = _function(value) if isinstance(value, FunctionType) else _class(value)
            return _Seen, (value.__module__, value.__qualname__, *content)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return _Seen, _tensor(value)
        return NotImplemented


class _Seen:
    """Stands for a value in the hash."""


class _HashFile:
    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(data)


def _is_unchanging(value: FunctionType | type) -> bool:
    return _is_installed(value.__module__ or "")


@cache
def _is_installed(module: str) -> bool:
    """Whether it is a package's or Python's own: code that nobody changes while it is used."""
    package = module.partition(".")[0]
    if package in sys.builtin_module_names or package in sys.stdlib_module_names:
        return True
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return path.startswith(_INSTALLED)


def _by_name(value: FunctionType | type) -> Any:
    if value is _Seen:
        return NotImplemented
    return _Seen, (value.__module__, value.__qualname__)


def _function(function: FunctionType) -> tuple[Any, ...]:
    names = _names(function.__code__)
    used = {name: function.__globals__[name] for name in names if name in function.__globals__}
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = (function.__defaults__, function.__kwdefaults__)
    return _code(function.__code__), defaults, enclosed, used


def _class(kind: type) -> tuple[Any, ...]:
    own = {
        name: getattr(value, "__func__", value)  # of class methods and static ones
        for name, value in vars(kind).items()
        if not name.startswith("__") or callable(value)
    }
    shown = (FunctionType, int, float, str, tuple, list, dict, property)
    content = {name: value for name, value in own.items() if isinstance(value, shown)}
    properties = [(p.fget, p.fset) for p in content.values() if isinstance(p, property)]
    plain = {name: value for name, value in content.items() if not isinstance(value, property)}
    return kind.__bases__, plain, properties


def _code(code: CodeType) -> tuple[Any, ...]:
    constants = [_code(part) if isinstance(part, CodeType) else part for part in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def _names(code: CodeType) -> list[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return sorted({*code.co_names, *(name for names in inner for name in names)})


def _tensor(tensor: Any) -> tuple[Any, ...]:
    import torch

    dense = tensor.detach().cpu().contiguous()
    numbers = dense.reshape(-1).view(torch.uint8).numpy()
    return str(tensor.dtype), tuple(tensor.shape), numbers
