"""Many epochs of a session, with validation and early stopping."""

import math
from collections.abc import Callable, Sequence

from visiondyno.errors import SpecError
from visiondyno.specs.training import EarlyStopping
from visiondyno.training.data import Samples
from visiondyno.training.loop import OnStep
from visiondyno.training.metrics import LESS_IS_BETTER, MORE_IS_BETTER
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
    part, _, name = early_stopping.monitor.partition("_")
    values = [_watched(record, part, name) for record in history]
    sign = 1.0 if _direction(early_stopping, name) == "min" else -1.0
    best, waited = math.inf, 0
    for value in values:
        if sign * value < best - early_stopping.min_delta:
            best, waited = sign * value, 0
        else:
            waited += 1
    return waited >= early_stopping.patience


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
