"""What every progress display on standard error has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
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

    def _line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _tell_fallback(self, said: Mapping[str, Any]) -> None:
        """Where a job runs instead, and why: at once, for it may take much longer there."""
        if said.get("stage") == "fallback":
            self._line(f"running on {said['executor']} instead: {said['fallback_reason']}")

    def _print_off_terminal(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveView(ABC):
    """What `_now` gives, drawn again four times a second on a terminal; nothing of it elsewhere.

    Use as a context manager. Subclasses prepare what `_now` needs before they call `__init__`:
    it is asked at once.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(
            console=self._console, get_renderable=self._now, refresh_per_second=4, transient=True
        )

    @abstractmethod
    def _now(self) -> RenderableType:
        """How it stands; called from the display's own thread."""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
