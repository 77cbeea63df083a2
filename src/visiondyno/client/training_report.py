"""What a training leaves: the record that grows while it runs, and the folder it is written to."""

import contextlib
import datetime
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from visiondyno import __version__
from visiondyno.client.callbacks import Callback
from visiondyno.client.client import Client
from visiondyno.client.job_facts import JobWatch
from visiondyno.client.model_state import ModelState
from visiondyno.errors import Conflict, SpecError
from visiondyno.job import JobEvent
from visiondyno.report.format import number, plural
from visiondyno.report.job_run import JobRun
from visiondyno.report.training import (
    TrainingRecord,
    best_of,
    history_csv,
    metric_title,
    training_html,
)
from visiondyno.whole_file import write_whole

STATE, CONFIG, PAGE = "model.safetensors", "config.yaml", "training.html"
HISTORY_JSON, HISTORY_CSV = "history.json", "history.csv"
OUR_FILES = frozenset({STATE, CONFIG, PAGE, HISTORY_JSON, HISTORY_CSV})
SCHEMA = "visiondyno.training/1"
MAX_SHOWN_YAML = 20_000
"""Characters of a configuration that the page shows; inline samples make longer ones."""


class DescribedTraining(Protocol):
    """What is asked for, of either kind of training."""

    @property
    def epochs(self) -> int:
        """How many at most."""

    @property
    def fields(self) -> dict[str, Any]:
        """The job's input, as on the wire."""

    @property
    def title(self) -> str:
        """What is trained on what."""

    @property
    def monitor(self) -> str:
        """The metric that says which epoch is the best, such as `val_loss`."""

    @property
    def less_is_better(self) -> bool:
        """Of that metric."""

    def to_yaml(self) -> str:
        """What repeats it."""

    def is_in(self, path: Path) -> bool:
        """Whether the file describes the same training."""


class TrainingWatch(Callback):
    """Gathers what a training tells; whole at every moment, so that nothing is lost if it ends.

    Attributes:
        history: the epochs so far, in order.
        result: the job's output; None until it is done.
        resumed_from: the epoch of the checkpoint that the worker went on from; 0 without one.
        ended: why it ended before its time, in a sentence; empty if it didn't.
        job: where it ran and what that cost; None until `note_job`.
    """

    def __init__(
        self, config: DescribedTraining, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.history: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        self.resumed_from = 0
        self.ended = ""
        self.job: JobRun | None = None
        self._jobs = JobWatch()
        self._clock = clock
        self._began_s = self._ended_s = clock()
        self._epoch_ends: list[tuple[float, int]] = []

    def note_job(self, client: Client) -> None:
        """Take over what the client knows of the job; before it is closed."""
        self.job = self._jobs.facts(client)

    def on_event(self, event: JobEvent) -> None:
        self._jobs.on_event(event)
        progress = event.progress or {}
        if progress.get("stage") == "resumed":
            self.resumed_from = int(progress["epoch"])

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        self._ended_s = self._clock()
        self.history.append(record)
        samples = record["train_metrics"].get("samples_processed", 0)
        self._epoch_ends.append((self._ended_s, int(samples)))

    def on_train_end(self, result: dict[str, Any]) -> None:
        self._ended_s = self._clock()
        self.result = result
        self.history = [dict(record) for record in result["history"]]

    def on_error(self, error: BaseException) -> None:
        self._ended_s = self._clock()
        self.ended = str(error) or type(error).__name__

    def put_before(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        """Epochs of an interrupted run that this one went on from."""
        if self.result is None and self.resumed_from:
            mine = {record["epoch"] for record in self.history}
            before = [
                dict(record)
                for record in earlier
                if record["epoch"] <= self.resumed_from and record["epoch"] not in mine
            ]
            self.history = [*before, *self.history]

    @property
    def seconds(self) -> float:
        """From the first moment to the last that something was told."""
        return self._ended_s - self._began_s

    @property
    def seconds_an_epoch(self) -> float | None:
        """Of the epochs after the first told, validation included; None where there is no second.

        The first one's time holds the start of workers, data and model too.
        """
        ends = self._epoch_ends
        return (ends[-1][0] - ends[0][0]) / (len(ends) - 1) if len(ends) > 1 else None

    @property
    def samples_per_s(self) -> float | None:
        """Training samples a second, over the same epochs."""
        ends = self._epoch_ends
        took_s = ends[-1][0] - ends[0][0] if ends else 0.0
        return sum(samples for _, samples in ends[1:]) / took_s if took_s > 0 else None

    @property
    def best_epoch(self) -> int:
        """By `config.monitor`; 0 where it was never a finite number."""
        # An operation that hands back the weights of an epoch says which.
        said = (self.result or {}).get("best_epoch")
        if said is not None:
            return int(said)
        less = self.config.less_is_better
        return best_of(self.history, self.config.monitor, less_is_better=less)

    @property
    def notes(self) -> list[str]:
        """What the worker and the loggers said beside the numbers."""
        notes = list((self.result or {}).get("notes") or [])
        if self.resumed_from:
            notes.insert(0, f"It went on from a checkpoint after epoch {self.resumed_from}.")
        return notes

    def summary(self) -> dict[str, Any]:
        """The result in figures, as `dyno train --json` prints it."""
        result = self.result or {}
        return {
            "title": self.config.title,
            "epochs_run": len(self.history),
            "epochs": self.config.epochs,
            "stopped_early": result.get("stopped_early"),
            "resumed_from_epoch": self.resumed_from,
            "monitor": self.config.monitor,
            "best_epoch": self.best_epoch or None,
            "seconds": round(self.seconds, 3),
            "seconds_per_epoch": self.seconds_an_epoch,
            "train_samples_per_s": self.samples_per_s,
            "environment": self.environment,
            "job": None if self.job is None else self.job.to_json(),
            "notes": self.notes,
            "ended": self.ended or None,
            "history": self.history,
        }

    @property
    def environment(self) -> dict[str, Any]:
        """What the worker said of itself."""
        result = self.result or {}
        return {name: result[name] for name in ("device", "threads", "torch") if name in result}

    def record(self) -> TrainingRecord:
        """As the page tells it."""
        yaml = self.config.to_yaml()
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        return TrainingRecord(
            title=self.config.title,
            history=self.history,
            monitor=self.config.monitor,
            best_epoch=self.best_epoch,
            yaml=yaml if len(yaml) <= MAX_SHOWN_YAML else f"# too long for a page: see {CONFIG}\n",
            made=f"Made by VisionDyno {__version__}, {today}.",
            ended=self._why_early(),
            notes=self.notes,
            facts=self._facts(),
            settings=_shortened(self.config.fields),
            environment=self.environment,
        )

    def _why_early(self) -> str:
        if self.ended:
            return self.ended
        if (self.result or {}).get("stopped_early"):
            return f"{self.config.monitor.replace('_', ' ')} no longer got better."
        return ""

    def _facts(self) -> dict[str, str]:
        facts: dict[str, str] = {}
        if self.history:
            part = "val_metrics" if self.history[-1].get("val_metrics") else "train_metrics"
            kind = "validation" if part == "val_metrics" else "training"
            for name in ("map_50_95", "map_50", "image_ap", "f1", "accuracy", "r2", "loss"):
                value = self.history[-1][part].get(name)
                if value is not None:
                    text = number(value, 4) if math.isfinite(value) else repr(value)
                    facts[f"Final {kind} {metric_title(name)}"] = text
        facts["Time"] = f"{number(self.seconds)} s"
        if self.seconds_an_epoch is not None:
            facts["An epoch, with validation"] = f"{number(self.seconds_an_epoch)} s"
        if self.samples_per_s is not None:
            facts["Training samples a second"] = f"{self.samples_per_s:,.0f}"
        if self.job is not None and self.job.is_told:
            facts.update(self.job.lines())
        return facts


class TrainingFolder:
    """Where a training is written: each file whole or not at all."""

    weights: ClassVar[str] = STATE
    ours: ClassVar[frozenset[str]] = OUR_FILES

    def __init__(self, path: Path, config: DescribedTraining) -> None:
        """Find out before the work whether its result can be written there.

        Raises:
            Conflict: something else is in the folder: other files, or another training.
            SpecError: the folder can't be made.
        """
        self.path = path
        self._config = config
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise SpecError(
                f"The folder {path} can't be made ({error.strerror}); choose another with --out."
            ) from error
        if others := sorted(name for name in names - self.ours if not name.startswith(".")):
            raise Conflict(
                f"The folder {path} holds other files ('{others[0]}'); choose an empty one with "
                "--out."
            )
        if self.weights in names and not self._holds_same():
            raise Conflict(
                f"The folder {path} holds the weights of another training; choose another with "
                "--out, or remove it."
            )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """For this training alone, until its files are written or its process ends.

        Raises:
            Conflict: another training is writing there.
            SpecError: the folder is gone.
        """
        try:
            held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise SpecError(
                f"The folder {self.path} can't be opened ({error.strerror}); choose another with "
                "--out."
            ) from error
        try:
            self._lock(held)
            yield
        finally:
            os.close(held)

    def earlier_history(self) -> list[dict[str, Any]]:
        """The epochs that an interrupted run of this same training left; empty without one."""
        if not self._holds_same():
            return []
        try:
            found = json.loads((self.path / HISTORY_JSON).read_text(encoding="utf-8"))
            return list(found["history"]) if found["schema"] == SCHEMA else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def write(self, watch: TrainingWatch, state: ModelState) -> None:
        """Everything there is.

        Raises:
            StorageFull: a file can't be written.
        """
        self.write_weights(watch, state)  # first: it is what can't be had again at once
        self._write_record(watch)

    def write_weights(self, watch: TrainingWatch, state: ModelState) -> None:  # noqa: ARG002
        """The weights alone; `watch` is for kinds that write more with them."""
        state.save(self.path / self.weights)

    def write_unfinished(self, watch: TrainingWatch) -> None:
        """What is known of a training that ended before its time; nothing if nothing is.

        Raises:
            StorageFull: a file can't be written.
        """
        if not watch.history:
            with contextlib.suppress(OSError):  # not empty
                self.path.rmdir()
        elif not (self.path / self.weights).exists():
            self._write_record(watch)  # else it was done here before: that record is the better one

    def _write_record(self, watch: TrainingWatch) -> None:
        texts = {
            CONFIG: self._config.to_yaml(),
            HISTORY_JSON: to_json({"schema": SCHEMA, **watch.summary()}),
            HISTORY_CSV: history_csv(watch.history),
            PAGE: training_html(watch.record()),
        }
        for name, text in texts.items():
            write_whole(self.path / name, text.encode(), "The training's record")

    def _lock(self, held: int) -> None:
        # The folder itself: a file for it would be one more that is left there.
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"Another training is writing to the folder {self.path}; choose another with --out."
            ) from error

    def _holds_same(self) -> bool:
        return self._config.is_in(self.path / CONFIG)


def _shortened(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with inline samples counted instead of listed."""
    return {
        name: plural(len(value["labels"]), "inline sample")
        if isinstance(value, dict) and "labels" in value
        else value
        for name, value in fields.items()
    }


def to_json(value: Any) -> str:
    """JSON text; a number that isn't finite, which JSON hasn't, is null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
