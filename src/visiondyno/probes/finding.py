"""What `dyno doctor` has found: a value."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "limited"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: e.g. `peak memory`, `extra torch`.
        status: `ok`; `limited` works in part; `missing` doesn't.
        detail: what is there, or what is not and why.
        fix: the command or step that adds it, or None where there is none.
    """

    topic: str
    status: Status
    detail: str
    fix: str | None = None
