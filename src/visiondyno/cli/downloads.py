"""Downloads as a progress display on standard error."""

from rich.progress import DownloadColumn, TaskID, TimeRemainingColumn, TransferSpeedColumn

from visiondyno.cli.display import Display


class DownloadDisplay(Display):
    """A bar for each file on a terminal, one line a file elsewhere; `show` takes progress."""

    def __init__(self) -> None:
        super().__init__(
            DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), transient=False
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Take the state of one file: bytes there, and in all where known."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total_bytes)
            self._print_off_terminal(f"downloading {name}")
        self._bars.update(self._tasks[name], completed=done_bytes, total=total_bytes)
