"""A training's epochs as they end, on standard error."""

import time
from collections.abc import Callable
from typing import Any

from rich.progress import TaskID, TextColumn, TimeElapsedColumn

from visiondyno.cli.display import Display
from visiondyno.client.callbacks import Callback
from visiondyno.job import JobEvent
from visiondyno.report.training import epoch_cells, epoch_columns

_WIDTH = 14
_ASIDE = frozenset({"top5_accuracy"})
"""Left to the page: a line must fit a terminal."""


class TrainingDisplay(Display, Callback):
    """A line for each epoch; below, on a terminal, a bar that moves within the epoch.

    A callback of the trainer. Use as a context manager.
    """

    def __init__(self, epochs: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(TextColumn("{task.fields[count]}"), TimeElapsedColumn(), transient=True)
        self._epochs = epochs
        self._clock = clock
        self._since_s = clock()
        self._columns: list[tuple[str, str]] = []
        self._task: TaskID = self._bars.add_task("starting", total=None, count="")
        self._stage = ""

    def on_event(self, event: JobEvent) -> None:
        """What is done between epochs."""
        said = event.progress or {}
        if "log" in said:
            self._line(str(said["log"]))
        stage = said.get("stage")
        if stage is None or stage == "epoch":
            return
        if stage == "fallback":
            self._tell_fallback(said)
            return
        if stage == "resumed":
            self._line(f"going on after epoch {said['epoch']}, from the checkpoint")
            return
        text = f"epoch {said['epoch']}: {stage}" if "epoch" in said else str(stage)
        if text != self._stage:
            self._stage = text
            self._bars.reset(self._task, description=text, total=said.get("total"), count="")
            if "done" not in said:
                self._print_off_terminal(text)
        if "done" in said:
            done, total = said["done"], said.get("total")
            count = f"{done:,}/{total:,}" if total else f"{done:,}"
            self._bars.update(self._task, completed=done, total=total, count=count)

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        """One line; before the first the names of its columns."""
        if not self._columns:
            self._columns = [
                column for column in epoch_columns([record]) if column[1] not in _ASIDE
            ]
            names = [f"{part.removesuffix('_metrics')} {name}" for part, name in self._columns]
            self._line(_row("epoch", [*names, "seconds"]))
        now_s = self._clock()
        cells = [*epoch_cells(record, self._columns), f"{now_s - self._since_s:.1f}"]
        self._since_s = now_s
        self._line(_row(f"{record['epoch']}/{self._epochs}", cells))


def _row(first: str, cells: list[str]) -> str:
    columns = "  ".join(f"{cell:>{_WIDTH}}" for cell in cells)
    return f"{first:>9}  {columns}"
