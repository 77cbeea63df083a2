"""Runs one worker and sees to it that nothing of it is left.

    python -m visiondyno.emulator.worker_guard COMMAND…

SIGTERM is handed on to the worker. When standard input ends, which it does however the emulator
went, the worker and whatever it started are killed; and whatever it started is killed too when the
worker itself has ended: a killed SDK worker leaves its ping process behind, which would go on.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

NOT_STARTED = 127


def main(command: Sequence[str]) -> int:
    """Run the command; its exit code, or 128 and the signal's number."""
    try:
        worker = subprocess.Popen(  # noqa: S603 - the user's own command
            command, stdin=subprocess.DEVNULL, process_group=0
        )
    except OSError as error:
        sys.stderr.write(
            f"The worker '{command[0]}' can't be started ({error.strerror}); check the command.\n"
        )
        return NOT_STARTED

    def kill_all() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)

    def watch_input() -> None:
        sys.stdin.buffer.read()
        kill_all()

    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker.pid, signal.SIGTERM))
    threading.Thread(target=watch_input, daemon=True).start()
    # Not reaped yet, it keeps its group's number from being another's.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kill_all()
    code = worker.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(exit_code)  # the thread that reads would hold an ordinary exit up
