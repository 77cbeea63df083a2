"""Downloads as a progress display on standard error."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class DownloadDisplay:
    """A bar for each file on a terminal, one line a file elsewhere; `show` takes progress."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def show(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Take the state of one file: bytes there, and in all where known."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total_bytes)
            if not self._console.is_terminal:
                self._console.print(f"downloading {name}", highlight=False, soft_wrap=True)
        self._bars.update(self._tasks[name], completed=done_bytes, total=total_bytes)
