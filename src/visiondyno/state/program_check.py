"""Whether a file of `torch.export` holds a graph and numbers, and nothing else.

`torch.export.load` unpickles what a file says is pickled, evaluates its size expressions with
Python's `eval`, and resolves the names of functions in all of torch (`torch.os.system`). So the
file is read here first, as a zip of JSON, and refused unless all of it is known to be harmless.
What torch gets is written anew from the parts that were looked at: readers of zip files differ in
what they take a crafted one to hold. What isn't covered: how much memory and time the graph takes
when it runs.
"""

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from visiondyno.errors import ModelError

MAX_PROGRAM_BYTES = 16_000_000_000
"""Of the whole file."""

_MAX_JSON_BYTES = 64_000_000
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_TENSOR_FILE = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_TENSOR_NAME = re.compile(r"(weight|tensor)_\d+")
_CONFIG_FILE = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_PLAIN_FILES = frozenset(
    {"archive_format", "archive_version", "byteorder", "version", ".data/version"}
    | {".data/serialization_id", "models/model.json", _SAMPLE_INPUTS}
)
_OPERATORS = frozenset(
    {"getitem", "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow", "and_", "or_"}
    | {"eq", "ne", "lt", "le", "gt", "ge", "not_"}
)
_OF_TORCH = frozenset(
    {"torch.sym_max", "torch.sym_min", "torch.sym_not", "torch.sym_ite", "torch.sym_float"}
    | {"torch.sym_int", "torch.sym_sum", "math.ceil", "math.floor", "math.trunc"}
)
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, ValueError, KeyError, RecursionError)
_OPERATION = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.(\w+)\.(\w+)")
# Files, and memory as somebody else's job left it.
_REFUSED_OPERATION = re.compile(
    r"from_file|_?(new_)?empty(_\w+)?|_?resize_?(as)?(_\w+)?|set_?|data"
)
_OF_EXPRESSIONS = frozenset(
    {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "FloorDiv", "CleanDiv"}
    | {"CeilDiv", "Mod", "PythonMod", "ModularIndexing", "Equality", "Unequality", "And", "Or"}
    | {"Not", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"}
)
_SYMBOL = re.compile(r"[a-z_]{1,8}\d{1,9}")
_MAX_POWERS, _HIGHEST_POWER, _LARGEST_SIZE = 3, 8, 2**63
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", None})


class _Refused(Exception):
    """Why a file isn't taken."""


def checked_program(
    data: bytes, what: str = "'model_config.program'", *, max_bytes: int = MAX_PROGRAM_BYTES
) -> io.BytesIO:
    """A file for `torch.export.load`, of the same program, with nothing in it but what was checked.

    Its sample inputs, which nothing here needs, are left out: torch would unpickle them.

    Args:
        data: what `torch.export.save` wrote, or anything.
        what: it is, for messages.
        max_bytes: how long it may be.

    Raises:
        ModelError: it isn't a program of `torch.export`, or holds more than a graph and numbers.
    """
    try:
        _check_length(len(data), max_bytes)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(archive, len(data))
            return _rewritten(archive)
    except _Refused as refusal:
        raise _for_the_sender(what, str(refusal)) from refusal
    except (*_UNREADABLE, AttributeError, TypeError) as error:
        raise _for_the_sender(what, f"it can't be read ({type(error).__name__})") from error


def _check_length(file_bytes: int, max_bytes: int) -> None:
    if file_bytes > max_bytes:
        raise _Refused(f"it is larger than {max_bytes / 1e9:.1f} GB")


def _check_archive(archive: zipfile.ZipFile, file_bytes: int) -> None:
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _Refused("a part of it is compressed, which torch.export.save doesn't do")
    if sum(entry.file_size for entry in entries) > file_bytes:
        raise _Refused("its parts overlap")
    names = [entry.filename for entry in entries]
    parts = {name.partition("/")[2]: name for name in names}
    if "models/model.json" not in parts or len(parts) != len(names):
        raise _Refused("it has no 'models/model.json', or a part twice")
    for part, name in parts.items():
        if _CONFIG_FILE.fullmatch(part):
            folder = name.rpartition("/")[0]
            sizes = {e.filename: e.file_size for e in entries if e.filename.startswith(folder)}
            _check_config(_parsed(archive, name), part, folder, sizes)
        elif part not in _PLAIN_FILES and not _TENSOR_FILE.fullmatch(part):
            raise _Refused(f"it holds '{part[:80]}', which a graph with its weights doesn't need")
    _check_graph(_parsed(archive, parts["models/model.json"]))


def _rewritten(archive: zipfile.ZipFile) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as clean:
        for name in archive.namelist():
            _, _, part = name.partition("/")
            if part != _SAMPLE_INPUTS:
                clean.writestr(f"archive/{part}", archive.read(name))
        clean.writestr(f"archive/{_SAMPLE_INPUTS}", b"")
    buffer.seek(0)
    return buffer


def _parsed(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > _MAX_JSON_BYTES:
        raise _Refused(f"a part of it that describes it is over {_MAX_JSON_BYTES:,} bytes")
    return json.loads(archive.read(name))


def _check_config(config: dict[str, Any], part: str, folder: str, sizes: dict[str, int]) -> None:
    for name, payload in config["config"].items():
        if payload.get("use_pickle") is not False:
            raise _Refused(f"'{name}' in '{part}' is a pickle, which could run code when read")
        path = str(payload["path_name"])
        if not _TENSOR_NAME.fullmatch(path):
            raise _Refused(f"'{name}' in '{part}' is said to be in {path[:80]!r}")
        numbers = math.prod(size["as_int"] for size in payload["tensor_meta"]["sizes"])
        if numbers > sizes.get(f"{folder}/{path}", numbers):
            raise _Refused(f"'{name}' in '{part}' is larger than what is there of it")


def _check_graph(model: dict[str, Any]) -> None:
    if model.get("guards_code"):
        raise _Refused("it holds guards written in Python")
    for key, value in _entries(model):
        if value is None:
            continue
        if key in ("target", "as_operator") and not _is_known_function(str(value)):
            raise _Refused(f"its graph calls '{str(value)[:100]}'")
        if key == "as_custom_obj":
            raise _Refused("it holds an object that isn't a tensor")
        if "expr" in key and isinstance(value, str) and not _is_known_expression(value):
            raise _Refused(f"a size is written as '{value[:100]}'")
        if key in ("in_spec", "out_spec") and not _is_known_tree(json.loads(value)):
            raise _Refused("its inputs or outputs are of a type of their own")


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    pending = [tree]
    while pending:
        entry = pending.pop()
        if isinstance(entry, dict):
            yield from entry.items()
            pending.extend(entry.values())
        elif isinstance(entry, list):
            pending.extend(entry)


def _is_known_function(target: str) -> bool:
    import torch

    if target in _OF_TORCH:
        return True
    module, _, name = target.rpartition(".")
    if module == "_operator":
        return name in _OPERATORS
    found = _OPERATION.fullmatch(target)
    if found is None or _REFUSED_OPERATION.fullmatch(found[2]):
        return False
    packet = getattr(getattr(torch.ops, found[1]), found[2], None)
    return isinstance(getattr(packet, found[3], None), torch._ops.OpOverload)


def _is_known_expression(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, MemoryError):
        return False
    powers = [node for node in nodes if isinstance(node, ast.Call) and _is_power(node.func)]
    return all(_is_known_node(node) for node in nodes) and all(map(_is_low, powers))


def _is_power(function: ast.AST) -> bool:
    return isinstance(function, ast.Name) and function.id == "Pow"


def _is_low(power: ast.Call) -> bool:
    """Whether it is soon computed: two lines of powers of powers keep a processor busy for ever."""
    if len(power.args) != 2:
        return False
    nested = [node for node in ast.walk(power) if _is_power(node)]
    numbers = [node.value for node in ast.walk(power.args[-1]) if isinstance(node, ast.Constant)]
    exponent = {node.id for node in ast.walk(power.args[-1]) if isinstance(node, ast.Name)}
    return (
        len(nested) <= _MAX_POWERS
        and exponent <= {"Integer", "Rational"}
        and all(isinstance(number, int) and number <= _HIGHEST_POWER for number in numbers)
    )


def _is_known_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _OF_EXPRESSIONS
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Constant):
        is_symbol = isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None
        return is_symbol or (isinstance(node.value, int) and node.value < _LARGEST_SIZE)
    plain = (ast.Expression, ast.keyword, ast.Load, ast.UnaryOp, ast.USub)
    return isinstance(node, plain)


def _is_known_tree(spec: Any) -> bool:
    return all(value in _TREES for key, value in _entries(spec) if key == "type")


def _for_the_sender(what: str, reason: str) -> ModelError:
    return ModelError(
        f"{what} isn't taken: {reason}. Give what torch.export.save wrote of a torch.export "
        "program."
    )
