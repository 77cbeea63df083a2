"""Writing a file so that nobody ever sees a half of it."""

import os
import secrets
from pathlib import Path

from visiondyno.errors import StorageFull

_ANOTHER = "name a file in a folder that exists, may be written and has room"


def write_whole(path: Path, data: bytes, what: str, next_step: str = _ANOTHER) -> None:
    """Write a file; an older one there is replaced at once, or stays as it is.

    Args:
        path: of the file.
        data: what it will hold.
        what: it is, for messages.
        next_step: what to do where it can't be written, for messages too.

    Raises:
        StorageFull: it can't be written there.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFull(
            f"{what} can't be written to {path} ({error.strerror}); {next_step}."
        ) from error
