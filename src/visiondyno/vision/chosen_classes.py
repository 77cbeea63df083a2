"""Classes of a model as users choose them: by name or by id."""

from collections.abc import Sequence

from visiondyno.errors import SpecError

_NAMES_LISTED = 20


def class_ids(given: Sequence[str], names: Sequence[str]) -> list[int]:
    """Ids of classes that are given by name or id, several also as `a,b`; ascending.

    Raises:
        SpecError: there is no such class; the message names those that there are.
    """
    by_name = {name: index for index, name in enumerate(names)}
    found: set[int] = set()
    for text in given:
        # A name may hold a comma of its own.
        for part in [text] if text in by_name else [part.strip() for part in text.split(",")]:
            if part in by_name:
                found.add(by_name[part])
            elif part.isascii() and part.isdigit() and int(part[:9]) < len(names):
                found.add(int(part))
            else:
                raise SpecError(f"There is no class '{part:.80}'; there are {_listed(names)}.")
    return sorted(found)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_LISTED])
    more = len(names) - _NAMES_LISTED
    ids = f"ids 0 to {len(names) - 1}"
    return f"{shown} and {more} more ({ids})" if more > 0 else f"{shown} ({ids})"
