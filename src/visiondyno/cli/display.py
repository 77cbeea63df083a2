"""What every progress display on standard error has in common."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn


class Display:
    """Bars that move on a terminal, one line for each new thing elsewhere.

    Use as a context manager. A display adds its own `show`.
    """

    def __init__(self, *columns: ProgressColumn, transient: bool) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            *columns,
            console=self._console,
            transient=transient,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _print_off_terminal(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
