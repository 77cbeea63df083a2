"""A download as progress of an operation."""

import time
from collections.abc import Callable

from visiondyno.operations.context import OperationContext

_EVERY_S = 0.25


class DownloadTicker:
    """Tells of files that come for a model: at their first bytes, now and then, and at their end.

    What the context raises, since the job was cancelled or is out of time, stops the download; what
    has come is kept.
    """

    def __init__(
        self, context: OperationContext, model: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._model = model
        self._clock = clock
        self._seen: set[str] = set()
        self._told_s = 0.0

    def tell(self, file: str, done_bytes: int, total_bytes: int | None) -> None:
        """Take the state of one file, as `runtimes.base.Progress`."""
        now_s = self._clock()
        is_news = file not in self._seen or done_bytes == total_bytes
        if not is_news and now_s - self._told_s < _EVERY_S:
            return
        self._seen.add(file)
        self._told_s = now_s
        self._context.progress(
            f"downloading {file}",
            model=self._model,
            done=done_bytes,
            total=total_bytes,
            unit="bytes",
        )
