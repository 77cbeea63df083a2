"""What an operation is given besides its input: a way to tell its progress and to be stopped."""

import time
from collections.abc import Callable
from typing import Any

from visiondyno.errors import Cancelled, TimeLimitExceeded


class OperationContext:
    """The operation's line to its worker.

    Contract: an operation calls `check` (or `progress`) at least once a second, and lets what it
    raises pass through, so that a cancel and a time limit stop it.
    """

    def __init__(
        self,
        on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
        is_cancelled: Callable[[], bool] = lambda: False,
        deadline_s: float | None = None,
    ) -> None:
        """`deadline_s` is on `time.monotonic`'s clock."""
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._deadline_s = deadline_s

    def check(self) -> None:
        """Raise if the operation must stop.

        Raises:
            Cancelled: the user stopped the job.
            TimeLimitExceeded: the job's `executionTimeout` has passed.
        """
        if self._is_cancelled():
            raise Cancelled("The job was cancelled.")
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            raise TimeLimitExceeded(
                "The job ran past its executionTimeout; raise the policy's limit or ask for less."
            )

    def progress(self, stage: str, **facts: Any) -> None:
        """Tell what is being done: `stage` in words, and facts such as `done` and `total`."""
        self.check()
        self._on_progress({"stage": stage, **facts})
