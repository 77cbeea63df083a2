"""`train_epoch`: one epoch of a torch module; what its optimiser learned stays on the worker."""

import hashlib
from dataclasses import replace
from typing import Any

from visiondyno.errors import ModelError, SpecError, Unavailable
from visiondyno.operations.context import OperationContext
from visiondyno.operations.state_exchange import answer_state
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.training_setup import (
    StepTicker,
    StoppableSamples,
    check_hyperparameters,
    prepare_module,
    torch_as_asked,
)
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training import Hyperparameters
from visiondyno.specs.training_operations import TrainEpochInput
from visiondyno.training.checks import check_training
from visiondyno.training.session import SessionState, TrainingSession
from visiondyno.training.state_file import from_bytes, to_pieces

KIND = "optimizer"

_LEARNED_BY = ("learning_rate", "weight_decay", "momentum", "optimizer_arguments")
_LENGTHS = ("history_size",)
_SCHEDULED_BY = ("scheduler_arguments", "scheduler_step")


def run(spec: TrainEpochInput, context: OperationContext) -> dict[str, Any]:
    """One epoch over `training_data`.

    Returns:
        `metrics`, the state (see `state_exchange.answer_state`), `optimizer_state` for the next
        call, `optimizer_reset` where the optimiser began anew although this isn't the first
        epoch, `epoch`, `device`, `threads`, `torch`, `notes`.

    Raises:
        SpecError: configuration or hyperparameters are wrong, or a layer doesn't fit.
        ModelError: a state is damaged or of another model, optimiser or seed.
        DatasetError: features or labels can't be read or don't fit.
        OperationFailed: the loss isn't finite, or the memory is full: names the batch.
    """
    files = WorkerFiles.of_this_worker()
    with torch_as_asked(spec, context):
        return _train_epoch(spec, files, context)


def _train_epoch(
    spec: TrainEpochInput, files: WorkerFiles, context: OperationContext
) -> dict[str, Any]:
    hyper = spec.hyperparameters
    prepared = prepare_module(spec, files, context)
    check_hyperparameters(hyper, prepared.module)
    data = open_samples(spec.training_data, prepared.module, "training_data", files, context)
    samples = StoppableSamples(data.samples, context)
    session = TrainingSession(prepared.module, hyper, prepared.device, seed=spec.seed_used)
    check_training(
        session.module,
        samples,
        session.loss,
        batch_size=hyper.batch_size,
        drop_last=hyper.drop_last,
    )
    reset = _take_up_optimizer(session, spec, files.cache)
    ticker = StepTicker(context, "training", epoch=session.epoch + 1)
    metrics = session.train_epoch(samples, ticker.tell)
    session.end_epoch(metrics)
    context.progress("sending the state", epoch=session.epoch)
    kept, problem = _keep_optimizer(session, files.cache)
    notes = [*prepared.notes, *data.notes, *(note for note in (reset, problem) if note)]
    return {
        "operation": "train_epoch",
        "status": "success",
        "epoch": session.epoch,
        "metrics": metrics,
        **answer_state(session.module, spec.state_reply, prepared.received, files),
        "optimizer_state": kept,
        **({} if reset is None else {"optimizer_reset": True}),
        **prepared.environment,
        "notes": notes,
    }


def _take_up_optimizer(
    session: TrainingSession, spec: TrainEpochInput, cache: WorkerCache
) -> str | None:
    """Let the optimiser go on; why it couldn't, where it should have.

    Who never names the epoch goes on after the one that the optimiser has seen.

    Raises:
        ModelError: it is of another model, optimiser or seed.
        SpecError: hyperparameters changed that a scheduler has made its plan by.
    """
    names_epoch = "epoch" in spec.model_fields_set
    session.epoch = spec.epoch - 1
    if spec.optimizer_state is None:
        if spec.epoch == 1 and (names_epoch or spec.model_state is None):
            return None
        return "The optimizer began anew: no 'optimizer_state' came with a later epoch."
    state = _kept_optimizer(spec.optimizer_state, cache)
    if state is None:
        return (
            f"The optimizer began anew: this worker doesn't hold '{spec.optimizer_state}'. It is "
            "kept where it was answered, until other things need the room."
        )
    fresh = [
        {name: value for name, value in group.items() if name != "params"}
        for group in session.optimizer.param_groups
    ]
    session.load_state(state)
    if names_epoch:
        session.epoch = spec.epoch - 1
    _apply_changes(session, state.values["hyperparameters"], fresh)
    return None


def _apply_changes(
    session: TrainingSession, before: dict[str, Any], fresh: list[dict[str, Any]]
) -> None:
    """A kept optimiser remembers its learning rate, and the caller may have chosen another."""
    now = _learned_by(session.hyperparameters)
    _check_switches(before, now)
    changed = [name for name in now if now[name] != before.get(name)]
    if changed and session.scheduler is not None:
        raise SpecError(
            f"'hyperparameters.{changed[0]}' changed since the last epoch, and the scheduler has "
            "its plan from then; leave 'optimizer_state' out to begin with a new plan."
        )
    if changed:
        for group, options in zip(session.optimizer.param_groups, fresh, strict=True):
            group.update(options)


def _check_switches(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Numbers may change; what decides what an optimiser keeps may not."""
    own, others = now["optimizer_arguments"], before["optimizer_arguments"]
    switched = [
        f"optimizer_arguments.{name}"
        for name in sorted(own.keys() | others.keys())
        if own.get(name) != others.get(name)
        and (name in _LENGTHS or bool in (type(own.get(name)), type(others.get(name))))
    ]
    if now["momentum"] and not before["momentum"]:
        switched.append("momentum")
    if switched:
        raise SpecError(
            f"'hyperparameters.{switched[0]}' changed since the last epoch, and the optimizer has "
            "kept what it needs without that change; leave 'optimizer_state' out to begin anew."
        )


def _learned_by(hyper: Hyperparameters) -> dict[str, Any]:
    names = (*_LEARNED_BY, *(() if hyper.scheduler is None else _SCHEDULED_BY))
    return hyper.model_dump(mode="json", include=set(names))


def _kept_optimizer(reference: str, cache: WorkerCache) -> SessionState | None:
    sha256 = reference.removeprefix("sha256:")
    data = cache.read(KIND, sha256)
    if data is None:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        cache.drop(KIND, sha256)
        return None
    return from_bytes(data)


def _keep_optimizer(session: TrainingSession, cache: WorkerCache) -> tuple[str | None, str | None]:
    """Its reference and None, or None and why it couldn't be kept."""
    state = session.state(with_module=False, copy=False)
    values = state.values | {"history": [], "hyperparameters": _learned_by(session.hyperparameters)}
    try:
        pieces = to_pieces(replace(state, values=values))
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        cache.put(KIND, digest.hexdigest(), pieces)
    except (Unavailable, ModelError) as error:
        return None, f"The optimizer's state couldn't be kept for the next epoch: {error}"
    return f"sha256:{digest.hexdigest()}", None
