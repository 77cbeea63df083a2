"""Many epochs of a session, with validation and early stopping."""

import math
from collections.abc import Callable, Sequence

from visiondyno.errors import SpecError
from visiondyno.specs.training import EarlyStopping
from visiondyno.training.data import Samples
from visiondyno.training.loop import OnStep
from visiondyno.training.losses import Loss
from visiondyno.training.metrics import LESS_IS_BETTER, MORE_IS_BETTER, metric_names
from visiondyno.training.session import EpochRecord, TrainingSession

OnEpoch = Callable[[EpochRecord], None]
"""Called after each epoch, when the session's state is whole. It may raise."""


def fit(
    session: TrainingSession,
    train: Samples,
    validation: Samples | None,
    epochs: int,
    early_stopping: EarlyStopping | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> list[EpochRecord]:
    """Trains until `epochs` are done in all; those that the session has done already count.

    Args:
        session: is changed.
        train: what it learns from.
        validation: what it is scored on after each epoch.
        epochs: in all.
        early_stopping: when to stop before; decided by the history alone, so that a resumed
            training stops where an undisturbed one does.
        on_epoch: gets each epoch's record.
        on_step: is told of each batch of training.

    Returns:
        The records of all epochs, also of those before it was resumed.

    Raises:
        SpecError: `early_stopping` watches a metric that there isn't.
        OperationFailed: see `train_one_epoch`.
    """
    watch = None if early_stopping is None else _Watch(early_stopping, session.history)
    while session.epoch < epochs and not (watch and watch.has_run_out):
        train_metrics = session.train_epoch(train, on_step)
        val_metrics = None if validation is None else session.evaluate(validation)
        record = session.end_epoch(train_metrics, val_metrics)
        if watch is not None:
            watch.add(record)
        if on_epoch is not None:
            on_epoch(record)
    return session.history


def should_stop(history: Sequence[EpochRecord], early_stopping: EarlyStopping | None) -> bool:
    """Whether the last `patience` epochs were none of them better than the best before.

    Better is by more than `min_delta`, as in Keras; a metric that is NaN is never better.

    Raises:
        SpecError: the metric isn't there, or it isn't known whether more of it is better.
    """
    return early_stopping is not None and _Watch(early_stopping, history).has_run_out


def best_epoch(history: Sequence[EpochRecord], early_stopping: EarlyStopping) -> int | None:
    """The epoch after which `should_stop` saw nothing better; None where none was a number.

    Raises:
        SpecError: as `should_stop`.
    """
    best = _Watch(early_stopping, history).best
    return int(history[best - 1]["epoch"]) if best else None


def check_monitor(
    early_stopping: EarlyStopping | None, loss: Loss, classes: int | None = None
) -> None:
    """Refuses a metric that training by this loss never has.

    Args:
        early_stopping: watches it.
        loss: decides which there are.
        classes: how many the module tells apart, where that is known.

    Raises:
        SpecError: it has none of this name, or it isn't known whether more of it is better.
    """
    if early_stopping is None:
        return
    part, _, name = early_stopping.monitor.partition("_")
    known = metric_names(loss, classes)
    if name not in known:
        listed = ", ".join(f"'{part}_{metric}'" for metric in known)
        with_classes = "" if classes is None else f" and {classes} outputs"
        raise SpecError(
            f"'early_stopping.monitor': there is no '{early_stopping.monitor}' with the loss "
            f"'{loss.name}'{with_classes}; take one of {listed}."
        )
    _direction(early_stopping, name)


class _Watch:
    """Early stopping, record by record: a long history isn't read again after each epoch.

    Attributes:
        best: how many records there are up to the best one; 0 where none is a number.
    """

    def __init__(self, early_stopping: EarlyStopping, history: Sequence[EpochRecord]) -> None:
        self._early_stopping = early_stopping
        self._part, _, self._name = early_stopping.monitor.partition("_")
        self._sign = 1.0 if _direction(early_stopping, self._name) == "min" else -1.0
        self._least = math.inf
        self._count = 0
        self.best = 0
        for record in history:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        self._count += 1
        value = self._sign * _watched(record, self._part, self._name)
        if value < self._least - self._early_stopping.min_delta:
            self._least, self.best = value, self._count

    @property
    def has_run_out(self) -> bool:
        """Whether the last `patience` records were none of them better."""
        return self._count > 0 and self._count - self.best >= self._early_stopping.patience


def _watched(record: EpochRecord, part: str, name: str) -> float:
    metrics = record.get(f"{part}_metrics", {})
    if name not in metrics:
        known = ", ".join(f"{part}_{metric}" for metric in sorted(metrics))
        raise SpecError(
            f"'early_stopping.monitor': there is no '{part}_{name}' in epoch {record['epoch']}. "
            f"There {'are ' + known if known else 'is no such data'}."
        )
    return float(metrics[name])


def _direction(early_stopping: EarlyStopping, name: str) -> str:
    if early_stopping.mode is not None:
        return early_stopping.mode
    if name in LESS_IS_BETTER:
        return "min"
    if name in MORE_IS_BETTER:
        return "max"
    raise SpecError(
        f"'early_stopping.mode': say whether the 'min' or the 'max' of "
        f"'{early_stopping.monitor}' is better."
    )
