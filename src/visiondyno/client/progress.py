"""A training's progress as one line, in a terminal or a notebook."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from visiondyno.client.callbacks import Callback
from visiondyno.job import JobEvent


class ProgressLine(Callback):
    """Shows stage or epoch, metrics, and the time; nothing where the output is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        """`console`: where; standard error if None, so that a program's output stays its own."""
        self._console = console or Console(stderr=True)
        self._shown = self._console.is_terminal or self._console.is_jupyter
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._epochs = 1

    def on_train_begin(self, run: dict[str, Any]) -> None:
        if not self._shown:
            return
        self._epochs = int(run.get("epochs", 1))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("waiting", total=self._epochs, facts="")
        self._progress.start()

    def on_event(self, event: JobEvent) -> None:
        progress = event.progress
        if self._progress is None or progress is None:
            return
        if progress.get("stage") == "training":
            done, total = progress.get("done", 0), progress.get("total", 1)
            epoch = progress["epoch"]
            self._progress.update(
                self._task, description=self._title(epoch), completed=epoch - 1 + done / total
            )
        elif progress.get("stage") != "epoch" and "stage" in progress:
            self._progress.update(self._task, description=str(progress["stage"]))

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        if self._progress is not None:
            epoch = record["epoch"]
            facts = "  ".join(
                f"{part}_{name} {record[f'{part}_metrics'][name]:.4g}"
                for part in ("train", "val")
                for name in ("loss", "accuracy", "r2")
                if name in record.get(f"{part}_metrics", {})
            )
            self._progress.update(
                self._task, description=self._title(epoch), completed=epoch, facts=facts
            )

    def on_train_end(self, result: dict[str, Any]) -> None:
        early = ", stopped early" if result.get("stopped_early") else ""
        self._stop(f"{result['epochs_run']} of {self._epochs} epochs{early}")

    def on_error(self, error: BaseException) -> None:
        self._stop(f"ended by {type(error).__name__}")

    def _title(self, epoch: int) -> str:
        return f"epoch {epoch} of {self._epochs}"

    def _stop(self, how: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=how)
            self._progress.stop()
            self._progress = None
