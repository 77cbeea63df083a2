"""Reads Compose files as the specification says: merged, with `!reset`, and interpolated.

https://github.com/compose-spec/compose-spec: 12-interpolation.md and 13-merge.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:-|:\?)(?P<rest>[^}]*))?\}|(?P<bare>\w))"
)
_REPLACED = {"command", "entrypoint", "test"}
"""Lists that aren't appended to."""


class Missing(Exception):
    """A variable that must be set isn't; its message is the file's own."""


class _Reset:
    """Marks a value that takes away what the file before has."""


class _Loader(yaml.SafeLoader):
    """YAML with Compose's tag `!reset`."""


_Loader.add_constructor("!reset", lambda loader, node: _Reset())


def read(path: Path) -> dict[str, Any]:
    """One file, its YAML anchors followed; extension fields (`x-…`) are dropped."""
    with path.open(encoding="utf-8") as file:
        found: dict[str, Any] = yaml.load(file, _Loader)
    return {key: value for key, value in found.items() if not key.startswith("x-")}


def merged(*files: dict[str, Any]) -> dict[str, Any]:
    """The files over each other, the last on top."""
    result: dict[str, Any] = {}
    for each in files:
        result = _over(result, each)
    return result


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, _Reset):
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _over(result.get(key, {}), value)
        elif isinstance(value, list) and key not in _REPLACED:
            result[key] = [*result.get(key, []), *value]
        else:
            result[key] = value
    return result


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with its variables replaced, in values alone, as Compose does.

    Raises:
        Missing: one with `:?` isn't set.
    """
    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    return _VARIABLE.sub(lambda m: _value(m, variables), value) if isinstance(value, str) else value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    assert match["bare"] is None, f"write ${{{match['bare']}…}} with braces, or $$"
    found = variables.get(match["name"], "")
    if match["how"] == ":?" and not found:
        raise Missing(match["rest"])
    return found or match["rest"] or ""


def variables_of(path: Path) -> dict[str, str | None]:
    """Names of a file's variables with their defaults; None: it must be set."""
    text = "\n".join(
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not re.match(r"\s*#", line)
    )
    found: dict[str, str | None] = {}
    for match in _VARIABLE.finditer(text):
        if match["name"]:
            found[match["name"]] = match["rest"] if match["how"] == ":-" else None
    return found


def env_file(path: Path) -> dict[str, str]:
    """`NAME=VALUE` lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}
