"""The command line, `dyno`: one file a command, imported when that command runs."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visiondyno.cli.root import dyno as dyno

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code; see `visiondyno.cli.root.run`."""
    try:
        # These imports can be interrupted too, and a traceback would be no answer.
        from visiondyno.cli.root import run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; nothing was started.\n")
        sys.exit(_INTERRUPTED)
    return run(arguments)


def __getattr__(name: str) -> Any:
    if name != "dyno":
        raise AttributeError(f"module 'visiondyno.cli' has no attribute {name!r}")
    from visiondyno.cli.root import dyno

    return dyno
