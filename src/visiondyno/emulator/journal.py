"""What happens at an emulated endpoint, in one line each: for whoever watches it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visiondyno.emulator.billing import WorkerBill
from visiondyno.emulator.records import Json

_LAST_LINES = 8
_LAST_BYTES = 20_000
_MOST_CHARACTERS = 300


class Journal:
    """Tells of workers and jobs.

    Args:
        tell: gets each line; the last words of a worker that died are lines of the same text.
        log_folder: has the workers' output; None: their last words aren't known.
        now: the time of day, as it is shown.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        log_folder: Path | None,
        now: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._tell = tell
        self._log_folder = log_folder
        self._now = now
        self._told_to_end: set[str] = set()

    def started(self, worker_id: str) -> None:
        """A worker's process was started."""
        self._say(f"worker {worker_id} started")

    def terminated(self, worker_id: str, why: str) -> None:
        """A worker was asked to end."""
        self._told_to_end.add(worker_id)
        self._say(f"worker {worker_id} is stopped: {why}")

    def killed(self, worker_id: str, why: str) -> None:
        """A worker is killed."""
        self._told_to_end.add(worker_id)
        self._say(f"worker {worker_id} is killed: {why}")

    def left(self, bill: WorkerBill, code: int, crashes: int, *, is_closing: bool) -> None:
        """A worker's process has ended.

        Args:
            bill: of this worker.
            code: its exit code, 128 and more for a signal.
            crashes: workers in a row, with this one, that ended before they asked for a job.
            is_closing: whether all workers are ended.
        """
        jobs = "1 job" if bill.jobs_done == 1 else f"{bill.jobs_done} jobs"
        text = f"worker {bill.worker_id} has ended: {bill.billed_s} s billed, {jobs} done"
        if code and not is_closing and bill.worker_id not in self._told_to_end:
            text += f"; it died with code {code}"
            if crashes:
                text += f" before it asked for a job ({crashes} in a row)"
            text += self._last_words(bill.worker_id)
        self._told_to_end.discard(bill.worker_id)
        self._say(text)

    def job_ended(self, status: Json) -> None:
        """A job has ended; `status` is what `/status` answers."""
        parts = []
        if "delayTime" in status:
            parts.append(f"waited {status['delayTime'] / 1000:.1f} s")
        if "executionTime" in status:
            parts.append(f"ran {status['executionTime'] / 1000:.1f} s")
        if "workerId" in status:
            parts.append(f"on worker {status['workerId']}")
        if "retries" in status:
            parts.append(f"retries: {status['retries']}")
        text = f"job {status['id']} {status['status']}" + (": " if parts else "") + ", ".join(parts)
        if "error" in status:
            text += f": {_shortened(_message(status['error']))}"
        self._say(text)

    def webhook_failed(self, url: str, job_id: str, reason: str) -> None:
        """A webhook didn't take what it was told."""
        self._say(f"webhook {url} of job {job_id} failed: {reason}")

    def _say(self, text: str) -> None:
        self._tell(f"{self._now()} {text}")

    def _last_words(self, worker_id: str) -> str:
        if self._log_folder is None:
            return ""
        path = self._log_folder / f"{worker_id}.log"
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        last = [line for line in lines if line.strip()][-_LAST_LINES:]
        if not last:
            return f", and wrote nothing ({path})"
        shown = "".join(f"\n    {_shortened(_message(line))}" for line in last)
        return f"; its last words, from {path}:{shown}"


def _message(said: Any) -> str:
    """The text in what our handler or the package tells, or the whole of it."""
    try:
        found = json.loads(said) if isinstance(said, str) else said
    except ValueError:
        return str(said)
    for key in ("message", "error_message"):
        if isinstance(found, dict) and isinstance(found.get(key), str):
            return str(found[key])
    return str(said)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
