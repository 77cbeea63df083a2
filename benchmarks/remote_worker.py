"""What the workers of the remote benchmark run: `python remote_worker.py ours` or `… sdk`.

Both do the same work under the same loop of the `runpod` package: ours by the worker of the image,
the peer by a plain handler, as the package's own examples have it.
"""

import sys
import time
from typing import Any

from visiondyno.operations.context import OperationContext


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Sleep for `seconds`, and say from when to when; on this machine all clocks are one."""
    from_s = time.monotonic()
    if given["seconds"]:
        time.sleep(given["seconds"])
    return {"number": given["number"], "from_s": from_s, "to_s": time.monotonic()}


def operation(job_input: dict[str, Any], _: OperationContext) -> dict[str, Any]:
    """The operation of our worker (`module:function`)."""
    return work(job_input)


def plain(job: dict[str, Any]) -> dict[str, Any]:
    """The peer's handler."""
    return work(job["input"])


if __name__ == "__main__":
    if sys.argv.pop() == "ours":
        from visiondyno.runpod_handler.__main__ import main

        sys.exit(main(entry="remote_worker:operation"))
    import runpod

    runpod.serverless.start({"handler": plain})
