"""A study that tells its folder, as `dyno tune` has it tell, without any training."""

from contextlib import contextmanager
from dataclasses import replace

from visiondyno.dashboard.study_reading import PROGRESS
from visiondyno.job import JobEvent, JobState
from visiondyno.tuning.json_lines import JsonLines
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.progress import ProgressBoard
from visiondyno.tuning.run_record import StudyRun, registered
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.trial import Failure, State, TrialRecord

ACCURACY = parse_objectives(["val_accuracy"])
BOTH = parse_objectives(["val_accuracy", "latency_ms"])
LANES = [
    LaneReading("http://a/v2/dead", 2, 1, 0, 0, {"transport_down": 4}, 4, None, "Nobody answers."),
    LaneReading("local", 4, 4, 1, 3, {}, 0, None, None, ("worker-9",)),
]


class Telling:
    """A study that tells its folder, as `dyno tune` does."""

    def __init__(self, folder, objectives=ACCURACY, title="mnist: val_accuracy"):
        names = tuple(f"{one.name}:{one.direction}" for one in objectives)
        self.folder = folder
        self.run = StudyRun(title, "local", 4, names, 1000.0)
        self.run.write(folder)
        self.board = ProgressBoard(objectives, Limits(8), 4, lanes=lambda: LANES)
        self._lines = JsonLines(folder / PROGRESS, objectives)
        self.board.subscribe(self._lines)

    def trial(self, number, state, **fields):
        record = TrialRecord(number, 1, {"learning_rate": 0.01, "kind": "<b>"}, state, lane="local")
        self.board.on_trial(record.with_(attempts=1, started_at=2000.0, **fields))

    def epoch(self, number, epoch):
        said = {"stage": "epoch", "epoch": epoch, "epochs": 4, "val_metrics": {"accuracy": 0.75}}
        self.board.on_event(
            number, JobEvent(job_id="j", number=epoch, state=JobState.IN_PROGRESS, progress=said)
        )

    def flush(self):
        self.board.close()
        self._lines.close()

    def end(self, stopped=None):
        self.board.finish(stopped)
        self.flush()
        replace(self.run, ended_at=1090.0, stopped=stopped).write(self.folder)


@contextmanager
def running_study(site, tmp_path, **options):
    folder = tmp_path / "study"
    folder.mkdir()
    with registered(site.settings.folder, folder) as name:
        yield Telling(folder, **options), name


def half_done(study):
    study.trial(0, State.COMPLETED, ended_at=2004.0, values=(0.875,))
    study.trial(1, State.FAILED, ended_at=2003.0, failures=(Failure("x", "Broken.", "local"),))
    study.trial(2, State.RUNNING)
    study.epoch(2, 3)
    study.flush()
