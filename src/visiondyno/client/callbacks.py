"""What a training tells while it runs: the hooks of callbacks, and who calls them."""

from collections.abc import Iterable, Mapping
from typing import Any

from visiondyno.job import JobEvent

EpochRecord = Mapping[str, Any]
"""`{"epoch": 3, "train_metrics": {…}, "val_metrics": {…}}`; the last only with validation data."""


class Callback:
    """Override what you need; each method does nothing of itself.

    All are called in the thread that called the trainer. What a method raises stops the training:
    the job is cancelled, and the error goes to the trainer's caller.

    `Trainer.train_model` calls them all; `Trainer.train_epoch`, one step of a loop that is the
    caller's, only `on_event` and `on_epoch_end`; its other methods only `on_event`.
    """

    def on_train_begin(self, run: dict[str, Any]) -> None:
        """Before the job is submitted.

        Args:
            run: its input: `model_config`, `hyperparameters`, `epochs`, `seed` …; data and weights
                as they travel.
        """

    def on_event(self, event: JobEvent) -> None:
        """Each event of the job, in order: its state, its progress, its end.

        Events of number 0 come before: what of local files is packed and uploaded.
        """

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        """Each epoch once, in order: `epoch`, `train_metrics`, and `val_metrics` if there are."""

    def on_train_end(self, result: dict[str, Any]) -> None:
        """When it is done: the job's output, with a `ModelState` as `model_state`."""

    def on_error(self, error: BaseException) -> None:
        """When it ends by an error or an interrupt, which is raised after this."""


class EpochsTold:
    """Makes of a job's events each epoch's record, once: a redelivered job tells some again."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self._last = 0

    def on_event(self, event: JobEvent) -> None:
        """Hand the event on, and the epoch it ends."""
        for callback in self._callbacks:
            callback.on_event(event)
        progress = event.progress or {}
        if progress.get("stage") == "epoch":
            self.tell({name: progress[name] for name in _OF_A_RECORD if name in progress})

    def tell(self, record: EpochRecord) -> None:
        """Hand the record on, unless its epoch was told."""
        if record["epoch"] <= self._last:
            return
        self._last = record["epoch"]
        for callback in self._callbacks:
            callback.on_epoch_end(dict(record))


_OF_A_RECORD = ("epoch", "train_metrics", "val_metrics")
