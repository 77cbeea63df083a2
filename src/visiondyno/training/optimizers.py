"""Optimisers and schedulers of torch by name."""

import functools
import inspect
from typing import TYPE_CHECKING, Any

from visiondyno.errors import SpecError
from visiondyno.specs.training import Hyperparameters
from visiondyno.training.arguments import construct, parameters_of
from visiondyno.training.names import find_by_name, snake_case

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

_PLACE = "'hyperparameters.optimizer'"
_SCHEDULER_PLACE = "'hyperparameters.scheduler'"
# Hyperparameters of their own, and what the optimisers call them.
_OWN = {"learning_rate": "lr", "weight_decay": "weight_decay", "momentum": "momentum"}
_STEPS_EACH_BATCH = frozenset({"OneCycleLR", "CyclicLR"})
_OF_SCHEDULERS = frozenset({"SequentialLR", "ChainedScheduler"})
_MAX_SCHEDULERS, _MAX_NESTED = 100, 3


@functools.cache
def optimizer_classes() -> dict[str, type["Optimizer"]]:
    """Every optimiser of torch by name."""
    from torch import optim

    return {
        snake_case(name): kind
        for name, kind in vars(optim).items()
        if inspect.isclass(kind)
        and issubclass(kind, optim.Optimizer)
        and kind is not optim.Optimizer
    }


@functools.cache
def scheduler_classes() -> dict[str, type["LRScheduler"]]:
    """Every scheduler of torch by name, usable here or not."""
    from torch.optim import lr_scheduler

    base = lr_scheduler.LRScheduler
    return {
        snake_case(name): kind
        for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, base) and not name.startswith("_")
        if kind is not base
    }


def build_optimizer(hyperparameters: Hyperparameters, module: "nn.Module") -> "Optimizer":
    """The optimiser over all weights of `module` that learn.

    Raises:
        SpecError: it is unknown, given what it doesn't take, or doesn't fit the module.
    """
    name = hyperparameters.optimizer
    kind = find_by_name(name, optimizer_classes(), _PLACE, "optimizer")
    taken = {parameter.name for parameter in parameters_of(kind)}
    own: dict[str, Any] = {}
    for ours, theirs in _OWN.items():
        value = getattr(hyperparameters, ours)
        if theirs in hyperparameters.optimizer_arguments:
            raise SpecError(
                f"'hyperparameters.optimizer_arguments': give '{theirs}' as '{ours}' instead."
            )
        if value is None:
            continue
        if theirs not in taken:
            raise SpecError(
                f"'hyperparameters.{ours}': {name} takes none. Leave it out, or choose another "
                "optimizer."
            )
        own[theirs] = value
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not weights:
        raise SpecError("'model_config': the model has no weights that could learn.")
    _check_sparsity(name, kind, module, clips=hyperparameters.gradient_clip_value is not None)
    place = f"'hyperparameters.optimizer_arguments' of {name}"
    arguments = hyperparameters.optimizer_arguments | own
    optimizer: Optimizer = construct(kind, arguments, place, given=(weights,))
    return optimizer


def needs_closure(optimizer: "Optimizer") -> bool:
    """Whether a step evaluates the loss several times (L-BFGS)."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def build_scheduler(
    hyperparameters: Hyperparameters, optimizer: "Optimizer", *, total_steps: int | None = None
) -> "LRScheduler | None":
    """The scheduler of `optimizer`, or None where none is named.

    Args:
        hyperparameters: name and arguments.
        optimizer: whose learning rate it sets.
        total_steps: of the scheduler, in the whole training; `one_cycle` takes it if it is given
            no length.

    Raises:
        SpecError: it is unknown, needs a function, or its arguments are wrong.
    """
    if hyperparameters.scheduler is None:
        return None
    arguments = dict(hyperparameters.scheduler_arguments)
    scheduler = _scheduler(
        hyperparameters.scheduler, arguments, optimizer, _SCHEDULER_PLACE, total_steps
    )
    is_watching = type(scheduler).__name__ == "ReduceLROnPlateau"
    if is_watching and hyperparameters.scheduler_step == "batch":
        raise SpecError(
            f"'hyperparameters.scheduler_step': '{hyperparameters.scheduler}' watches the loss of "
            "whole epochs; take 'epoch', or leave it out."
        )
    return scheduler


def steps_each_batch(hyperparameters: Hyperparameters, scheduler: "LRScheduler | None") -> bool:
    """Whether the scheduler steps after each batch, rather than after each epoch."""
    if hyperparameters.scheduler_step is not None:
        return hyperparameters.scheduler_step == "batch"
    return type(scheduler).__name__ in _STEPS_EACH_BATCH


def _scheduler(
    name: str,
    arguments: dict[str, Any],
    optimizer: "Optimizer",
    place: str,
    total_steps: int | None,
) -> "LRScheduler":
    known = scheduler_classes()
    short = {n.removesuffix("_lr"): k for n, k in known.items()}
    kind = find_by_name(name, known | short, place, "scheduler")
    place = f"{place[:-1]}_arguments' of {name}" if place == _SCHEDULER_PLACE else place
    if kind.__name__ in ("LambdaLR", "MultiplicativeLR"):
        raise SpecError(f"{_SCHEDULER_PLACE}: '{name}' takes a function, which can't be sent.")
    if kind.__name__ in _OF_SCHEDULERS:
        return _of_schedulers(kind, arguments, optimizer, place)
    if kind.__name__ == "OneCycleLR" and not {"total_steps", "epochs"} & arguments.keys():
        arguments |= {"total_steps": total_steps} if total_steps else {}
    arguments.pop("last_epoch", None)
    scheduler: LRScheduler = construct(kind, arguments, place, given=(optimizer,))
    return scheduler


def _of_schedulers(
    kind: Any, arguments: dict[str, Any], optimizer: "Optimizer", place: str
) -> "LRScheduler":
    """`sequential_lr` and `chained_scheduler`: each part is {"type": name, …its arguments}."""
    parts = arguments.pop("schedulers", None)
    if not isinstance(parts, list) or not parts:
        raise SpecError(f"{place}: 'schedulers' must be a list, one entry a scheduler.")
    if len(parts) > _MAX_SCHEDULERS or place.count(", schedulers[") >= _MAX_NESTED:
        raise SpecError(
            f"{place[:200]}: at most {_MAX_SCHEDULERS} schedulers are taken, in at most "
            f"{_MAX_NESTED} levels."
        )
    built = []
    for index, part in enumerate(parts):
        inner = f"{place}, schedulers[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise SpecError(f'{inner} must be {{"type": name, …its arguments}}.')
        rest = {key: value for key, value in part.items() if key != "type"}
        built.append(_scheduler(part["type"], rest, optimizer, inner, None))
    fixed: dict[str, Any] = {"schedulers": built}
    if kind.__name__ == "SequentialLR":
        fixed["optimizer"] = optimizer
    scheduler: LRScheduler = construct(kind, arguments, place, **fixed)
    return scheduler


def _check_sparsity(name: str, kind: Any, module: "nn.Module", *, clips: bool) -> None:
    """Few optimisers take sparse gradients, SparseAdam no others, and clipping by value none."""
    sparse = {
        id(weight)
        for part in module.modules()
        if getattr(part, "sparse", False) is True
        for weight in part.parameters(recurse=False)
    }
    dense = [weight for weight in module.parameters() if id(weight) not in sparse]
    if kind.__name__ == "SparseAdam" and dense:
        raise SpecError(
            f"{_PLACE}: {name} takes sparse gradients only, and not all layers give such; "
            "take 'adam'."
        )
    if sparse and kind.__name__ not in ("SparseAdam", "SGD", "Adagrad"):
        raise SpecError(
            f"{_PLACE}: {name} takes no sparse gradients, which a layer with 'sparse' gives; take "
            "'sgd' or 'adagrad'."
        )
    if sparse and clips:
        raise SpecError(
            "'hyperparameters.gradient_clip_value': torch can't clip sparse gradients by value, "
            "and a layer with 'sparse' gives such; take 'gradient_clip_norm'."
        )
