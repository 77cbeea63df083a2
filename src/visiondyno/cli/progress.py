"""A job's events as a progress display on standard error."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from visiondyno.job import JobEvent

NARROWEST = 60


class ProgressDisplay:
    """Shows what a job is doing: a line that moves on a terminal, one line a stage elsewhere.

    Use as a context manager; `show` is an `on_event`.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("starting", total=None, count="")
        self._stage = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, event: JobEvent) -> None:
        """Take one event."""
        said = event.progress
        if said is None:
            return
        model = said.get("model")
        stage = f"{model}: {said['stage']}" if model else str(said["stage"])
        done, total = said.get("done"), said.get("total")
        if stage != self._stage:
            self._stage = stage
            if not self._console.is_terminal:
                self._console.print(stage, highlight=False, soft_wrap=True)
            self._bar.reset(self._task, description=stage, total=total, count="")
        if done is not None:
            count = f"{done:,}/{total:,}" if total else f"{done:,}"
            self._bar.update(self._task, completed=done, total=total, count=count)
