"""A comparison's request as YAML: written beside every report, read by `dyno compare FILE.yaml`."""

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


def dump_spec(spec: BenchmarkInput) -> str:
    """The YAML that `load_spec` reads back to an equal `BenchmarkInput`; unset fields are left out.

    Every default is written out, so that the comparison stays the same when a default changes.
    """
    fields = {
        name: value for name, value in spec.model_dump(mode="json").items() if value is not None
    }
    readable = _dump(fields, readable=True)
    # PyYAML folds exotic line breaks (U+0085, U+2028) of readable text; escapes keep them.
    exact = yaml.safe_load(readable) == fields
    return _HEADER + (readable if exact else _dump(fields, readable=False))


def _dump(fields: dict[str, Any], *, readable: bool) -> str:
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=readable, width=100)


def load_spec(path: Path) -> BenchmarkInput:
    """The comparison that a YAML file describes.

    Raises:
        SpecError: the file can't be read, isn't YAML, or a field is wrong; names file and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: can't be read as text ({_reason(error)}).") from error
    try:
        # A subclass of SafeLoader: it makes plain values only.
        fields = yaml.load(text, Loader=_SpecLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: {_where(error)}") from error
    if not isinstance(fields, dict):
        raise SpecError(
            f"{path}: holds no 'key: value' lines; a comparison needs at least 'models' and 'data'."
        )
    price = fields.get("price")
    if isinstance(price, int | float) and not isinstance(price, bool):
        fields["price"] = str(price)
    spec: BenchmarkInput = parse(BenchmarkInput, fields, str(path))
    return spec


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "can't be understood"
    place = f" at line {mark.line + 1}" if mark is not None else ""
    return f"isn't valid YAML{place}: {problem}."


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not UTF-8"
