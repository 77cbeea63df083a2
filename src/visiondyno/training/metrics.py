"""Metrics of one pass over labelled samples, gathered batch by batch in double precision."""

from typing import TYPE_CHECKING

import numpy as np

from visiondyno.training.losses import Loss

if TYPE_CHECKING:
    import torch

TOP5_FROM_CLASSES = 6

LESS_IS_BETTER = frozenset({"loss", "mae", "rmse"})
MORE_IS_BETTER = frozenset({"accuracy", "top5_accuracy", "r2"})


def metric_names(loss: Loss, classes: int | None = None) -> tuple[str, ...]:
    """Metrics that `PassMetrics` finds by this loss, with targets that vary.

    Args:
        loss: decides which.
        classes: how many there are; enough for each if None.
    """
    has_top5 = classes is None or classes >= TOP5_FROM_CLASSES
    of_kind = {
        "classes": ("accuracy", "top5_accuracy")[: 2 if has_top5 else 1],
        "binary": ("accuracy",),
        "signs": ("accuracy",),
        "numbers": ("mae", "rmse", "r2"),
    }
    return ("loss", *of_kind.get(loss.labels, ()))


class PassMetrics:
    """Gathers what a pass is scored by.

    Always `loss` (the mean over samples: of each batch's loss, weighted by its samples) and
    `samples_processed`. Of losses on classes `accuracy`, and `top5_accuracy` from six classes on;
    of losses on yes and no `accuracy` over all outputs; of regression `mae`, `rmse` and `r2`.
    What isn't defined is left out: `r2` of targets that don't vary.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._loss_sum = 0.0
        self._samples = 0
        self._hits = 0
        self._top5_hits = 0
        self._judged = 0
        self._has_top5 = False
        self._errors = _Errors()

    def add(self, loss: float, outputs: "torch.Tensor", labels: "torch.Tensor") -> None:
        """One batch: its loss, outputs and labels as the loss saw them."""
        size = len(labels)
        self._samples += size
        self._loss_sum += loss * (size if self._loss.is_mean else 1)
        outputs, labels = outputs.detach(), labels.detach()
        kind = self._loss.labels
        if kind == "classes":
            self._add_classes(outputs, labels)
        elif kind in ("binary", "signs"):
            boundary = 0.5 if kind == "binary" else 0.0
            hits = (outputs > self._loss.decision_boundary) == (labels > boundary)
            self._hits += int(hits.sum())
            self._judged += hits.numel()
        elif kind == "numbers":
            self._errors.add(outputs.double().cpu().numpy(), labels.double().cpu().numpy())

    def result(self) -> dict[str, float]:
        """The metrics so far."""
        found: dict[str, float] = {"loss": self._loss_sum / self._samples}
        if self._judged:
            found["accuracy"] = self._hits / self._judged
        if self._judged and self._has_top5:
            found["top5_accuracy"] = self._top5_hits / self._judged
        if self._loss.labels == "numbers":
            found |= self._errors.result()
        return found | {"samples_processed": self._samples}

    def _add_classes(self, outputs: "torch.Tensor", labels: "torch.Tensor") -> None:
        import torch

        if labels.is_floating_point():  # probabilities of each class
            labels = labels.argmax(dim=1)
        counted = torch.ones_like(labels, dtype=torch.bool)
        if self._loss.ignore_index is not None:  # not all losses on classes have one
            counted = labels != self._loss.ignore_index
        self._judged += int(counted.sum())
        self._hits += int(((outputs.argmax(dim=1) == labels) & counted).sum())
        if outputs.shape[1] >= TOP5_FROM_CLASSES:
            self._has_top5 = True
            among = (outputs.topk(5, dim=1).indices == labels.unsqueeze(1)).any(dim=1)
            self._top5_hits += int((among & counted).sum())


class _Errors:
    """Errors of regression. Means and variances are merged batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self._absolute = 0.0
        self._squared = 0.0
        self._numbers = 0
        self._rows = 0
        self._mean: np.ndarray | float = 0.0
        self._spread: np.ndarray | float = 0.0
        self._residual: np.ndarray | float = 0.0

    def add(self, outputs: np.ndarray, targets: np.ndarray) -> None:
        error = (outputs - targets).reshape(len(targets), -1)
        rows = targets.reshape(len(targets), -1)
        self._absolute += float(np.abs(error).sum())
        self._squared += float((error**2).sum())
        self._numbers += error.size
        self._residual = self._residual + (error**2).sum(axis=0)
        count = len(rows)
        total = self._rows + count
        mean = rows.mean(axis=0)
        apart = mean - self._mean
        self._spread = (
            self._spread
            + ((rows - mean) ** 2).sum(axis=0)
            + apart**2 * (self._rows * count / total)
        )
        self._mean = self._mean + apart * (count / total)
        self._rows = total

    def result(self) -> dict[str, float]:
        """`r2` is the mean over outputs of 1 − (squared errors)/(squared spread of the targets)."""
        if self._numbers == 0:
            return {}
        found = {
            "mae": self._absolute / self._numbers,
            "rmse": float(np.sqrt(self._squared / self._numbers)),
        }
        spread = np.asarray(self._spread)
        if self._rows > 1 and np.all(spread > 0):
            found["r2"] = float(np.mean(1.0 - np.asarray(self._residual) / spread))
        return found
