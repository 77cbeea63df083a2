"""`train`: many epochs in one job; a job that is delivered again goes on where it was cut off."""

import json
from dataclasses import replace
from typing import Any

from visiondyno.operations.checkpoints import Checkpoints, checkpoint_key
from visiondyno.operations.context import OperationContext
from visiondyno.operations.measure_module import ModuleMeasurements, Subject, measure_module
from visiondyno.operations.state_exchange import answer_state
from visiondyno.operations.training_samples import OpenedSamples, open_samples
from visiondyno.operations.training_setup import (
    PreparedModule,
    StepTicker,
    StoppableSamples,
    check_hyperparameters,
    prepare_module,
    torch_as_asked,
)
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.specs.training_operations import TrainInput
from visiondyno.training.checks import check_evaluation, check_training
from visiondyno.training.data import batch_count
from visiondyno.training.fit import best_epoch, check_monitor, fit
from visiondyno.training.session import EpochRecord, TrainingSession


def run(spec: TrainInput, context: OperationContext) -> dict[str, Any]:
    """`epochs` epochs over `training_data`, or fewer by early stopping.

    Progress after each epoch is its record; within one it comes at most every two seconds.

    Returns:
        `history`, the state after the last epoch (see `state_exchange.answer_state`),
        `epochs_run`, `stopped_early`, `resumed_from_epoch` (0: it wasn't), `best_epoch` where
        early stopping watches a metric, `measurements` where some are asked for, `device`,
        `threads`, `torch`, `notes`.

    Raises:
        SpecError: configuration or hyperparameters are wrong, or a layer doesn't fit.
        ModelError: the state is damaged or of another model.
        DatasetError: features or labels can't be read or don't fit.
        Diverged: the loss isn't finite: names epoch and batch.
        OperationFailed: the memory is full: names them too.
    """
    files = WorkerFiles.of_this_worker()
    with torch_as_asked(spec, context):
        prepared = prepare_module(spec, files, context)
        training = _Training(spec, prepared, files, context)
        return training.run()


class _Training:
    """One job's training: its data, session and checkpoints."""

    def __init__(
        self,
        spec: TrainInput,
        prepared: PreparedModule,
        files: WorkerFiles,
        context: OperationContext,
    ) -> None:
        self._spec = spec
        self._prepared = prepared
        self._files = files
        self._context = context
        check_hyperparameters(spec.hyperparameters, prepared.module)
        self._train = self._open(spec.training_data, "training_data")
        self._validation = (
            None
            if spec.validation_data is None
            else self._open(spec.validation_data, "validation_data")
        )
        self._session = self._checked_session()
        digests = [self._train.digest, *([self._validation.digest] if self._validation else [])]
        key = checkpoint_key(spec, prepared, digests)
        self._checkpoints = Checkpoints(files.cache, key)

    def run(self) -> dict[str, Any]:
        spec, session = self._spec, self._session
        resumed_from = self._checkpoints.take_up(session)
        if resumed_from:
            self._context.progress("resumed", epoch=resumed_from, epochs=spec.epochs)
        # Also of a training that goes on: it may do so on another machine.
        measured = self._measure()
        ticker = StepTicker(self._context, "training", epochs=spec.epochs)
        fit(
            session,
            self._train.samples,
            None if self._validation is None else self._validation.samples,
            spec.epochs,
            spec.early_stopping,
            on_epoch=self._on_epoch,
            on_step=lambda done, total: ticker.tell(done, total, epoch=session.epoch + 1),
        )
        self._checkpoints.after_training(session)
        self._context.progress("sending the state", epoch=session.epoch, epochs=spec.epochs)
        answer = self._answer(resumed_from, measured)
        self._checkpoints.drop()
        return answer

    def _answer(self, resumed_from: int, measured: ModuleMeasurements) -> dict[str, Any]:
        spec, session, prepared = self._spec, self._session, self._prepared
        stopping = spec.early_stopping
        opened = [data for data in (self._train, self._validation) if data is not None]
        notes = [*prepared.notes, *(note for data in opened for note in data.notes)]
        notes += measured.notes
        return {
            "operation": "train",
            "status": "success",
            "history": session.history,
            **answer_state(
                session.module,
                spec.state_reply,
                prepared.received,
                self._files,
                beside_bytes=len(json.dumps(session.history)),
            ),
            "epochs_run": session.epoch,
            "stopped_early": session.epoch < spec.epochs,
            "resumed_from_epoch": resumed_from,
            **({"best_epoch": best_epoch(session.history, stopping)} if stopping else {}),
            **({"measurements": _as_json(measured)} if spec.measure else {}),
            **prepared.environment,
            "notes": [*dict.fromkeys(notes), *self._checkpoints.notes],
        }

    def _measure(self) -> ModuleMeasurements:
        spec, session = self._spec, self._session
        if not spec.measure:
            return ModuleMeasurements({})
        self._context.progress("measuring", epoch=session.epoch, epochs=spec.epochs)
        measured = measure_module(
            Subject(session.module, self._train.samples, spec.hyperparameters, session.device),
            spec.measure,
            self._context,
            seconds=spec.measure_seconds,
        )
        self._context.progress(
            "measured",
            measurements=_as_json(measured),
            beside_other_load=measured.beside_other_load,
        )
        return measured

    def _on_epoch(self, record: EpochRecord) -> None:
        # Told first: of an epoch that is in the checkpoint, nobody would be told again.
        self._context.progress("epoch", **record, epochs=self._spec.epochs)
        self._checkpoints.after_epoch(self._session)

    def _open(self, data: Any, what: str) -> OpenedSamples:
        opened = open_samples(data, self._prepared.module, what, self._files, self._context)
        return replace(opened, samples=StoppableSamples(opened.samples, self._context))

    def _checked_session(self) -> TrainingSession:
        """A session whose data fit; what doesn't is found here, before the first step."""
        spec, hyper = self._spec, self._spec.hyperparameters
        train = self._train.samples
        batches = batch_count(len(train), hyper.batch_size, drop_last=hyper.drop_last)
        steps = 1 if hyper.scheduler_step == "epoch" else batches
        session = TrainingSession(
            self._prepared.module,
            hyper,
            self._prepared.device,
            seed=spec.seed_used,
            total_steps=steps * spec.epochs,
            health=spec.health,
        )
        check_monitor(spec.early_stopping, session.loss)
        outputs = check_training(
            session.module,
            train,
            session.loss,
            batch_size=hyper.batch_size,
            drop_last=hyper.drop_last,
        )
        check_monitor(spec.early_stopping, session.loss, outputs[1] if outputs[1:] else None)
        if self._validation is not None:
            check_evaluation(
                session.module, self._validation.samples, session.loss, batch_size=hyper.batch_size
            )
        return session


def _as_json(measured: ModuleMeasurements) -> dict[str, Any]:
    return {name: measure.model_dump(mode="json") for name, measure in measured.measures.items()}
