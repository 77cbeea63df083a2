"""Names of torch's classes as users write them: snake_case, and what was meant by a wrong one."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from visiondyno.errors import SpecError

Found = TypeVar("Found")

# Acronyms whose last capital begins no word.
_ONE_WORD = re.compile(r"[PR]?ReLU|SiLU|AdamW|[NR]Adam|RMSprop")
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SHOWN = 8


def snake_case(class_name: str) -> str:
    """`class_name` as torch's functions are written: `BCEWithLogitsLoss` → `bce_with_logits_loss`.

    A digit ends a word and never begins one: `BatchNorm2d` → `batch_norm2d`.
    """
    joined = _ONE_WORD.sub(lambda found: found[0].capitalize(), class_name)
    return _BOUNDARY.sub("_", joined).lower()


def find_by_name(name: str, known: Mapping[str, Found], place: str, what: str) -> Found:
    """The entry of `known` (by snake_case name) that `name` means; capitals and `_` don't matter.

    Raises:
        SpecError: there is none; says `place` and the closest known names.
    """
    by_key = {_key(candidate): entry for candidate, entry in known.items()}
    if _key(name) not in by_key:
        raise SpecError(f"{place}: there is no {what} '{name}'. {suggestion(name, known)}")
    return by_key[_key(name)]


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence with at most three close names, or else the first ones there are."""
    keys = {_key(candidate): candidate for candidate in known}
    close = [f"'{keys[key]}'" for key in get_close_matches(_key(name), keys, n=3, cutoff=0.6)]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    listed = sorted(keys.values())
    if not listed:
        return "There are none to choose from."
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"Known are {', '.join(listed[:_SHOWN])}{more}."


def _key(name: str) -> str:
    return re.sub(r"[_\-\s]", "", name).lower()
