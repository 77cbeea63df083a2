"""Python code that a model reference names: imported only where the user's own command runs.

Whoever may name a module to import may run anything. So `torch:package.module:factory` works in a
process whose environment says `VISIONDYNO_TRUST_CODE=1`, and in its children: the commands of
`dyno` that run in place say so themselves, a script's author may. A worker, to which jobs come from
a queue, over HTTP or from RunPod, takes it back whatever its environment said.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from visiondyno.errors import ModelError

TRUST_CODE = "VISIONDYNO_TRUST_CODE"

_PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NO = "0"


@contextmanager
def trusting_code(is_trusted: bool = True) -> Iterator[None]:
    """Inside, references may name code, in this process and those it starts; see `TRUST_CODE`.

    What the environment says already stays: a user may forbid it by `VISIONDYNO_TRUST_CODE=0`.
    """
    if not is_trusted or TRUST_CODE in os.environ:
        yield
        return
    os.environ[TRUST_CODE] = "1"
    try:
        yield
    finally:
        os.environ.pop(TRUST_CODE, None)


def distrust_code() -> None:
    """From now on no reference may name code, in this process and those it starts."""
    os.environ[TRUST_CODE] = _NO


def check_trust(reference: str) -> None:
    """Refuse a reference to code where code isn't trusted.

    Raises:
        ModelError: it isn't.
    """
    if os.environ.get(TRUST_CODE, _NO).lower() in {"", _NO, "false", "no"}:
        raise ModelError(
            f"{reference} names Python code, which is imported only by a command that runs in "
            f"place, or where the environment says {TRUST_CODE}=1; jobs that come to a worker "
            "never import code. Export the model with torch.export.save to a .pt2 file, and give "
            "that."
        )


def import_named(place: str, reference: str) -> Any:
    """What `package.module:attribute` names, where code is trusted.

    The working folder is searched first, as `python -m` does.

    Args:
        place: of the attribute; dots lead further into it.
        reference: as the user gave it, for messages.

    Raises:
        ModelError: code isn't trusted here, there is no such thing, or importing it fails.
    """
    check_trust(reference)
    if _PLACE.fullmatch(place) is None:
        raise ModelError(
            f"'{reference}' names no code; write torch:package.module:factory, or the path of a "
            ".pt2 or .torchscript file."
        )
    module_name, _, attribute = place.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - as the interpreter writes it there
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = importlib.import_module(module_name)
    except Exception as error:
        # The module's own code runs here and may raise anything.
        raise ModelError(
            f"{reference}: importing {module_name} failed ({type(error).__name__}: {error}). It is "
            "searched for in the working folder and on PYTHONPATH."
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ModelError(f"{reference}: {module_name} has no '{attribute}'; correct the name.")
        found = getattr(found, name)
    return found
