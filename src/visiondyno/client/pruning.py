"""A trial of Optuna that follows its training, and stops it where it promises nothing."""

from typing import Any

from visiondyno.client.callbacks import Callback
from visiondyno.errors import SpecError


class Pruning(Callback):
    """Reports each epoch's metric to a trial, and prunes it where its study's pruner says so."""

    def __init__(self, trial: Any, monitor: str = "val_loss") -> None:
        """Follow a trial.

        Args:
            trial: of Optuna, with one objective.
            monitor: `val_` or `train_` and the name of a metric.

        Raises:
            SpecError: `monitor` isn't that.
        """
        part, _, self._metric = monitor.partition("_")
        if part not in ("val", "train") or not self._metric:
            raise SpecError(
                f"'monitor' is '{monitor}'; give 'val_' or 'train_' and a metric, as in val_loss."
            )
        self._part = f"{part}_metrics"
        self._trial = trial

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        metrics = record.get(self._part, {})
        if self._metric not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise SpecError(
                f"'monitor': epoch {record['epoch']} has no '{self._metric}' in its {self._part}; "
                f"there: {known}."
            )
        self._trial.report(float(metrics[self._metric]), record["epoch"])
        if self._trial.should_prune():
            import optuna

            raise optuna.TrialPruned(
                f"Pruned after epoch {record['epoch']}: {self._metric} {metrics[self._metric]:g}."
            )
