"""Between a running trial and its study."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from visiondyno.job import JobEvent
from visiondyno.tuning.trial import TrialRecord

if TYPE_CHECKING:
    import optuna

    from visiondyno.tuning.runner import StudyRunner


class Attempt:
    """What one attempt tells its study; see `body.Told`. Made on the study's event loop."""

    def __init__(self, runner: "StudyRunner", record: TrialRecord) -> None:
        self._runner = runner
        self.record = record
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._has_untold = False

    def started(self, job_id: str | None) -> None:
        self.record = self._runner.started(self.record.with_(job_id=job_id))
        self.begun.set()

    def suggest(self, name: str, draw: "Callable[[optuna.Trial], Any]") -> Any:
        value = self._runner.suggest(self.record.number, name, draw)
        if not self._has_untold:
            self._has_untold = True  # several at once are told once
            self._loop.call_soon_threadsafe(self._tell_params)
        return value

    def _tell_params(self) -> None:
        self._has_untold = False
        self._runner.told_params(self.record.number)

    def event(self, event: JobEvent) -> None:
        if event.job_id != self.record.job_id:
            self.record = self._runner.note_job(self.record, event.job_id)
        self._runner.told_event(self.record.number, event)

    def report(self, step: int, values: Sequence[float]) -> str | None:
        return self._runner.report(self.record.number, step, values)
