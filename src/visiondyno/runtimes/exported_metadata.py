"""What exporters write beside a model, or behind it: `metadata.yaml`, `metadata.json`."""

import ast
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from visiondyno.errors import ModelError

METADATA_FILE = "metadata.yaml"
_MOST_BYTES = 4_000_000


def metadata_beside(folder: Path) -> dict[str, str]:
    """What Ultralytics' `metadata.yaml` in `folder` says, as an ONNX file's metadata would.

    Raises:
        ModelError: the file is there and can't be read.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path} can't be read; export the model again.") from error
    return _as_texts(content) if isinstance(content, dict) else {}


def metadata_behind(path: Path) -> dict[str, str]:
    """What a zip archive that is appended to the model file `path` says.

    Ultralytics' exports end in one with `metadata.json` (earlier ones: a Python literal). Files
    without one, or with something else in it, say nothing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            first = next((one for one in archive.infolist() if _may_be_metadata(one)), None)
            text = archive.read(first).decode("utf-8") if first else ""
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return {}
    return _as_texts(_parsed(text))


def _may_be_metadata(member: zipfile.ZipInfo) -> bool:
    name = member.filename
    is_named = name in ("metadata.json", "temp_meta.txt")
    return is_named and member.file_size <= _MOST_BYTES


def _parsed(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _as_texts(content: Any) -> dict[str, str]:
    if not isinstance(content, Mapping):
        return {}
    return {str(key): _text(value) for key, value in content.items()}


def _text(value: Any) -> str:
    # JSON has no numbers for keys: {"0": "car"} says what {0: "car"} does.
    if isinstance(value, Mapping):
        keys = {key: int(key) for key in value if isinstance(key, str) and key.isdecimal()}
        value = {keys.get(key, key): one for key, one in value.items()}
    return str(value)
