"""A comparison's request as YAML: written beside every report, read by `dyno compare FILE.yaml`."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from visiondyno.errors import SpecError
from visiondyno.specs.operations import BenchmarkInput, parse

_HEADER = """\
# Reproduces this comparison: dyno compare comparison.yaml
# Relative paths are read from the folder that dyno is started in.
"""


class _SpecLoader(yaml.SafeLoader):
    """YAML without its traps: `NO` is Norway, not false, and no key may stand twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key}' stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


_SpecLoader.yaml_implicit_resolvers = {
    letter: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _SpecDumper(yaml.SafeDumper):
    """Quotes whatever `_SpecLoader` would take for something else than a text."""


# YAML 1.1, which PyYAML reads, takes 1e-3 for a text: it wants a dot.
_EXPONENT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _class in (_SpecLoader, _SpecDumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def dump_spec(spec: BenchmarkInput) -> str:
    """The YAML that `load_spec` reads back to an equal `BenchmarkInput`; unset fields are left out.

    Every default is written out, so that the comparison stays the same when a default changes.
    """
    fields = {
        name: value for name, value in spec.model_dump(mode="json").items() if value is not None
    }
    return _HEADER + dump_fields(fields)


def dump_fields(fields: dict[str, Any]) -> str:
    """YAML that reads back to exactly `fields`."""
    readable = _dump(fields, readable=True)
    # PyYAML folds exotic line breaks (U+0085, U+2028) of readable text; escapes keep them.
    exact = yaml.load(readable, Loader=_SpecLoader) == fields  # noqa: S506  # a SafeLoader
    return readable if exact else _dump(fields, readable=False)


def _dump(fields: dict[str, Any], *, readable: bool) -> str:
    return yaml.dump(fields, Dumper=_SpecDumper, sort_keys=False, allow_unicode=readable, width=100)


def load_spec(path: Path) -> BenchmarkInput:
    """The comparison that a YAML file describes.

    Raises:
        SpecError: the file can't be read, isn't YAML, or a field is wrong; names file and field.
    """
    needs = "a comparison needs at least 'models' and 'data'"
    fields = read_fields(read_text(path), str(path), needs)
    price = fields.get("price")
    if isinstance(price, int | float) and not isinstance(price, bool):
        fields["price"] = str(price)
    spec: BenchmarkInput = parse(BenchmarkInput, fields, str(path))
    return spec


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        SpecError: it can't be read, or isn't UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: can't be read as text ({_reason(error)}).") from error


def read_fields(text: str, place: str, needs: str) -> dict[str, Any]:
    """The `key: value` lines of a YAML text.

    Args:
        text: the YAML.
        place: what a message calls it, such as the file's name.
        needs: what has to stand in it, said where there is nothing.

    Raises:
        SpecError: it isn't YAML, or holds something else.
    """
    try:
        # A subclass of SafeLoader: it makes plain values only.
        fields = yaml.load(text, Loader=_SpecLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{place}: {_where(error)}") from error
    if not isinstance(fields, dict):
        raise SpecError(f"{place}: holds no 'key: value' lines; {needs}.")
    return fields


def read_value(text: str, place: str) -> Any:
    """One value as YAML has it: a number, a text, a list, an object.

    Raises:
        SpecError: it isn't YAML.
    """
    try:
        return yaml.load(text, Loader=_SpecLoader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{place}: {_where(error)}") from error


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "a value can't be understood"
    place = f" at line {mark.line + 1}" if mark is not None else ""
    return f"isn't valid YAML{place}: {problem}."


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not UTF-8"
