"""Losses of `torch.nn` by name, and what each of them expects of labels."""

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from visiondyno.errors import SpecError
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.arguments import construct
from visiondyno.training.names import find_by_name, snake_case

if TYPE_CHECKING:
    from torch import nn

PLACE = "'hyperparameters.loss_function'"

LabelKind = Literal["classes", "binary", "signs", "class_sets", "numbers", "targets"]
"""`classes`: one class index a sample (or an image of them). `binary`: 0 to 1, one for each output.
`signs`: −1 or 1 for each output. `class_sets`: indices, padded by −1. `numbers`: what the outputs
should be. `targets`: of the outputs' shape, and of another meaning."""

_LABELS: dict[str, LabelKind] = {
    "CrossEntropyLoss": "classes",
    "NLLLoss": "classes",
    "MultiMarginLoss": "classes",
    "BCELoss": "binary",
    "BCEWithLogitsLoss": "binary",
    "MultiLabelSoftMarginLoss": "binary",
    "SoftMarginLoss": "signs",
    "HingeEmbeddingLoss": "signs",
    "MultiLabelMarginLoss": "class_sets",
    "MSELoss": "numbers",
    "L1Loss": "numbers",
    "SmoothL1Loss": "numbers",
    "HuberLoss": "numbers",
}
# Outputs that are probabilities already: the rest of `binary` are logits.
_OF_PROBABILITIES = frozenset({"BCELoss"})


@dataclass(frozen=True)
class Loss:
    """A loss and what it means.

    Attributes:
        name: as messages call it.
        function: (outputs, labels) → a scalar.
        labels: what it expects.
        decision_boundary: of `binary` and `signs`: outputs above it mean yes.
        is_mean: whether it averages over the batch; else it adds up.
        ignore_index: the label that doesn't count, of losses on classes.
    """

    name: str
    function: "nn.Module"
    labels: LabelKind
    decision_boundary: float
    is_mean: bool
    ignore_index: int | None


@functools.cache
def loss_classes() -> dict[str, type["nn.Module"]]:
    """Every loss of `torch.nn` by name, usable here or not."""
    from torch import nn

    return {
        snake_case(name).removesuffix("_loss"): kind
        for name, kind in vars(nn).items()
        if inspect.isclass(kind) and "Loss" in name
    }


def why_not_a_loss(kind: type["nn.Module"]) -> str | None:
    """Why a class can't be the loss here, or None."""
    if kind.__name__ in ("AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"):
        return "it has weights of its own, which belong into the model"
    if kind.__name__ == "NLLLoss2d":
        return "torch replaced it by 'nll'"
    taken = list(inspect.signature(kind.forward).parameters)[1:]
    if len(taken) != 2:
        return f"it takes {', '.join(taken)}, and a loss here gets outputs and labels"
    return None


def build_loss(hyperparameters: Hyperparameters) -> Loss:
    """The loss that `hyperparameters` name.

    Raises:
        SpecError: it is unknown, takes more than outputs and labels, or its arguments are wrong.
    """
    name = hyperparameters.loss_function
    known = loss_classes()
    kind = find_by_name(name, known | {f"{n}_loss": k for n, k in known.items()}, PLACE, "loss")
    reason = why_not_a_loss(kind)
    if reason is not None:
        raise SpecError(f"{PLACE}: '{name}' can't be used: {reason}.")
    arguments = hyperparameters.loss_arguments
    place = f"'hyperparameters.loss_arguments' of {name}"
    for old in ("size_average", "reduce"):
        if old in arguments:
            raise SpecError(f"{place}: torch replaced '{old}' by 'reduction'.")
    function = construct(kind, arguments, place)
    reduction = getattr(function, "reduction", "mean")
    if reduction not in ("mean", "sum", "batchmean"):
        raise SpecError(f"{place}: 'reduction' must be 'mean' or 'sum', got '{reduction}'.")
    return Loss(
        name=snake_case(kind.__name__).removesuffix("_loss"),
        function=function,
        labels=_LABELS.get(kind.__name__, "targets"),
        decision_boundary=0.5 if kind.__name__ in _OF_PROBABILITIES else 0.0,
        is_mean=reduction != "sum",
        ignore_index=getattr(function, "ignore_index", None),
    )
