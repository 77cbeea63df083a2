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
    while session.epoch < epochs and not should_stop(session.history, early_stopping):
        train_metrics = session.train_epoch(train, on_step)
        val_metrics = None if validation is None else session.evaluate(validation)
        record = session.end_epoch(train_metrics, val_metrics)
        if on_epoch is not None:
            on_epoch(record)
    return session.history


def should_stop(history: Sequence[EpochRecord], early_stopping: EarlyStopping | None) -> bool:
    """Whether the last `patience` epochs were none of them better than the best before.

    Better is by more than `min_delta`, as in Keras; a metric that is NaN is never better.

    Raises:
        SpecError: the metric isn't there, or it isn't known whether more of it is better.
    """
    if early_stopping is None or not history:
        return False
    return len(history) - _best(history, early_stopping) >= early_stopping.patience


def best_epoch(history: Sequence[EpochRecord], early_stopping: EarlyStopping) -> int | None:
    """The epoch after which `should_stop` saw nothing better; None where none was a number.

    Raises:
        SpecError: as `should_stop`.
    """
    best = _best(history, early_stopping)
    return int(history[best - 1]["epoch"]) if best else None


def check_monitor(early_stopping: EarlyStopping | None, loss: Loss) -> None:
    """Refuses a metric that training by this loss never has.

    Raises:
        SpecError: it has none of this name, or it isn't known whether more of it is better.
    """
    if early_stopping is None:
        return
    part, _, name = early_stopping.monitor.partition("_")
    known = metric_names(loss)
    if name not in known:
        listed = ", ".join(f"'{part}_{metric}'" for metric in known)
        raise SpecError(
            f"'early_stopping.monitor': there is no '{early_stopping.monitor}' with the loss "
            f"'{loss.name}'; take one of {listed}."
        )
    _direction(early_stopping, name)


def _best(history: Sequence[EpochRecord], early_stopping: EarlyStopping) -> int:
    """How many records there are up to the best one; 0 where none is a number."""
    part, _, name = early_stopping.monitor.partition("_")
    sign = 1.0 if _direction(early_stopping, name) == "min" else -1.0
    least, best = math.inf, 0
    for number, record in enumerate(history, start=1):
        value = sign * _watched(record, part, name)
        if value < least - early_stopping.min_delta:
            least, best = value, number
    return best


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
