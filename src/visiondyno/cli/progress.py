"""A job's events as a progress display on standard error."""

from rich.progress import TaskID, TextColumn, TimeElapsedColumn

from visiondyno.cli.display import Display
from visiondyno.job import JobEvent


class ProgressDisplay(Display):
    """Shows what a job is doing: a line that moves on a terminal, one line a stage elsewhere.

    Use as a context manager; `show` is an `on_event`.
    """

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.fields[count]}"), TimeElapsedColumn(), transient=True)
        self._task: TaskID = self._bars.add_task("starting", total=None, count="")
        self._stage = ""

    def show(self, event: JobEvent) -> None:
        """Take one event."""
        said = event.progress
        if said is None:
            return
        if "log" in said:
            self._line(said["log"])
        if "stage" not in said:
            return
        if said["stage"] == "fallback":
            self._tell_fallback(said)
            return
        model = said.get("model")
        stage = f"{model}: {said['stage']}" if model else str(said["stage"])
        done, total = said.get("done"), said.get("total")
        if stage != self._stage:
            self._stage = stage
            self._print_off_terminal(stage)
            self._bars.reset(self._task, description=stage, total=total, count="")
        if done is not None:
            count = _share(done, total, in_bytes=said.get("unit") == "bytes")
            detail = f"  {said['detail']}" if said.get("detail") else ""
            self._bars.update(self._task, completed=done, total=total, count=count + detail)


def _share(done: int, total: int | None, *, in_bytes: bool) -> str:
    shown = [f"{number / 1e6:,.0f}" if in_bytes else f"{number:,}" for number in (done, total or 0)]
    return (f"{shown[0]}/{shown[1]}" if total else shown[0]) + (" MB" if in_bytes else "")
