"""Whether a file of `torch.export` holds a graph and numbers, and nothing else.

`torch.export.load` unpickles what a file says is pickled, evaluates its size expressions with
Python's `eval`, and resolves the names of functions in all of torch (`torch.os.system`). So the
file is read here first, as a zip of JSON, and refused unless all of it is known to be harmless.
What isn't covered: how much memory and time the graph takes when it runs.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from visiondyno.errors import ModelError

MAX_UNPACKED_BYTES = 16_000_000_000

_TENSOR_FILE = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_CONFIG_FILE = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_PLAIN_FILES = frozenset(
    {"archive_format", "archive_version", "byteorder", "version", ".data/version"}
    | {".data/serialization_id", "models/model.json", "data/sample_inputs/model.pt"}
)
_OPERATORS = frozenset(
    {"getitem", "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow", "and_", "or_"}
    | {"eq", "ne", "lt", "le", "gt", "ge", "not_"}
)
_OF_TORCH = frozenset(
    {"torch.sym_max", "torch.sym_min", "torch.sym_not", "torch.sym_ite", "torch.sym_float"}
    | {"torch.sym_int", "torch.sym_sum", "math.ceil", "math.floor", "math.trunc"}
)
_OPERATION = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.(\w+)\.(\w+)")
_TOUCHES_FILES = frozenset({"from_file"})
_OF_EXPRESSIONS = frozenset(
    {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "FloorDiv", "CleanDiv"}
    | {"CeilDiv", "Mod", "PythonMod", "ModularIndexing", "Equality", "Unequality", "And", "Or"}
    | {"Not", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"}
)
_SYMBOL = re.compile(r"[a-z_]{1,8}\d{1,9}")
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", None})


def check_program(data: bytes, *, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Refuses what `torch.export.load` should not see.

    Args:
        data: the file.
        max_bytes: of all its parts, unpacked.

    Raises:
        ModelError: it isn't a program of `torch.export`, or holds more than a graph and numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(archive, max_bytes)
    except (zipfile.BadZipFile, UnicodeDecodeError, ValueError, KeyError, RecursionError) as error:
        raise _refused(f"it can't be read ({type(error).__name__})") from error


def _check_archive(archive: zipfile.ZipFile, max_bytes: int) -> None:
    if sum(entry.file_size for entry in archive.infolist()) > max_bytes:
        raise _refused(f"unpacked it is larger than {max_bytes / 1e9:.1f} GB")
    names = [entry.filename for entry in archive.infolist()]
    parts = {name.partition("/")[2]: name for name in names}
    if "models/model.json" not in parts or len(parts) != len(names):
        raise _refused("it has no 'models/model.json', or a part twice")
    for part, name in parts.items():
        if _CONFIG_FILE.fullmatch(part):
            _check_config(json.loads(archive.read(name)), part)
        elif part not in _PLAIN_FILES and not _TENSOR_FILE.fullmatch(part):
            raise _refused(f"it holds '{part}', which a graph with its weights doesn't need")
    if "data/sample_inputs/model.pt" in parts:
        _check_sample_inputs(archive.read(parts["data/sample_inputs/model.pt"]))
    _check_graph(json.loads(archive.read(parts["models/model.json"])))


def _check_config(config: dict[str, Any], part: str) -> None:
    for name, payload in config["config"].items():
        if payload.get("use_pickle") is not False:
            raise _refused(f"'{name}' in '{part}' is a pickle, which could run code when read")


def _check_sample_inputs(data: bytes) -> None:
    import torch

    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:
        raise _refused("its sample inputs are more than tensors") from error


def _check_graph(model: dict[str, Any]) -> None:
    if model.get("guards_code"):
        raise _refused("it holds guards written in Python")
    for key, value in _entries(model):
        if value is None:
            continue
        if key in ("target", "as_operator") and not _is_known_function(str(value)):
            raise _refused(f"its graph calls '{str(value)[:100]}'")
        if key == "as_custom_obj":
            raise _refused("it holds an object that isn't a tensor")
        if "expr" in key and isinstance(value, str) and not _is_known_expression(value):
            raise _refused(f"a size is written as '{value[:100]}'")
        if key in ("in_spec", "out_spec") and not _is_known_tree(json.loads(value)):
            raise _refused("its inputs or outputs are of a type of their own")


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
    if found is None or found[2] in _TOUCHES_FILES:
        return False
    packet = getattr(getattr(torch.ops, found[1]), found[2], None)
    return isinstance(getattr(packet, found[3], None), torch._ops.OpOverload)


def _is_known_expression(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, MemoryError):
        return False
    return all(_is_known_node(node) for node in nodes)


def _is_known_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _OF_EXPRESSIONS
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.Constant):
        is_symbol = isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None
        return is_symbol or isinstance(node.value, bool | int)
    plain = (ast.Expression, ast.keyword, ast.Load, ast.UnaryOp, ast.USub)
    return isinstance(node, plain)


def _is_known_tree(spec: Any) -> bool:
    return all(value in _TREES for key, value in _entries(spec) if key == "type")


def _refused(reason: str) -> ModelError:
    return ModelError(
        f"'model_config.program' isn't taken: {reason}. "
        "Give what torch.export.save wrote of a torch.export program."
    )
