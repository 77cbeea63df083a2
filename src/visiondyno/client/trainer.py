"""Training, evaluating and exporting of torch modules by jobs, as if the worker were here."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from visiondyno.client.answer_room import AnswerRoom
from visiondyno.client.async_client import Json, OnEvent
from visiondyno.client.attachments import Attaching, as_progress_of
from visiondyno.client.callbacks import Callback, EpochsTold
from visiondyno.client.client import Client
from visiondyno.client.job_input import plain_input
from visiondyno.client.model_state import ModelState, TrainedSoFar
from visiondyno.client.module_programs import ModulePrograms, example_of, is_module
from visiondyno.client.options import (
    AnyHyperparameters,
    JobOptions,
    TrainOptions,
    TrialOptions,
    check_callbacks,
    check_options,
)
from visiondyno.client.progress import ProgressLine
from visiondyno.client.pruning import Pruning
from visiondyno.client.sent_data import SentData
from visiondyno.client.state_transfer import Lossy, StateTransfer
from visiondyno.errors import SpecError
from visiondyno.job import JobEvent
from visiondyno.whole_file import write_whole

History = list[dict[str, Any]]
"""A record of each epoch: `epoch`, `train_metrics`, and `val_metrics` where there is data."""

_INLINE_BYTES = 1_000_000
_log = logging.getLogger("visiondyno")


class Trainer:
    """Trains by jobs of a client.

    `model_config` is a configuration (`{"type": "sequential", …}`, see `visiondyno.specs.training`)
    or a `torch.nn.Module`: its program is uploaded once, its weights are where training begins, and
    the state that comes back has its names: `state.load_into(module)`.

    Data are inline features and labels, arrays or tensors `(features, labels)`, a map-style
    `Dataset` of torch, or a dataset reference such as `mnist:train`; see
    `visiondyno.client.training_data`. They are uploaded once.

    A state travels as little as possible: a worker that holds it already is sent its name, and
    answers with the difference; a large one goes by the blob store. One that the worker has lost
    is sent again. All of that is lossless, unless `lossy` is set.

    Every method raises the job's own error (`VisionDynoError`); an interrupt (Ctrl-C), or an error
    of a callback, cancels the job first.
    """

    def __init__(
        self,
        client: Client,
        *,
        callbacks: Sequence[Callback] = (),
        lossy: Lossy | None = None,
        progress: bool = False,
    ) -> None:
        """A trainer; close the client yourself.

        Args:
            client: where.
            callbacks: told of every training.
            lossy: `bf16` or `int8-delta` rounds the states that come back, so that fewer bytes
                travel; the rounding of one epoch goes into the next. `int8-delta` needs a state to
                begin with; without one the first comes back exact.
            progress: show a line of progress in a terminal or a notebook.
        """
        check_callbacks(callbacks)
        self.client = client
        self._callbacks = (*callbacks, *((ProgressLine(),) if progress else ()))
        self._transfer = StateTransfer(client, lossy)
        self._room = AnswerRoom(client, lossy)
        self._programs = ModulePrograms(client)
        self._data = SentData(client)
        self._attaching = Attaching(client)
        self._noted: set[str] = set()

    def train_model(
        self,
        model_config: Any,
        training_data: Any,
        validation_data: Any = None,
        hyperparameters: AnyHyperparameters = None,
        epochs: int = 1,
        *,
        model_state: ModelState | None = None,
        **options: Unpack[TrainOptions],
    ) -> tuple[ModelState, History]:
        """Train for many epochs in one job, which resumes if its worker dies.

        Args:
            model_config: a configuration or a module.
            training_data: what it learns from.
            validation_data: what it is scored on after each epoch.
            hyperparameters: how it learns; see `visiondyno.specs.training.Hyperparameters`.
            epochs: at most.
            model_state: weights to begin with; None: fresh ones, or the module's own.
            **options: see `TrainOptions`.

        Returns:
            The state after the last epoch, and each epoch's record.
        """
        check_options(options, TrainOptions)
        settings: Json = {
            "hyperparameters": hyperparameters,
            "epochs": epochs,
            "early_stopping": options.get("early_stopping"),
            "seed": options.get("seed"),
        }
        told = ("measure", "measure_seconds", "health")
        settings |= {name: options.get(name) for name in told if name in options}
        result = self._train(
            (model_config, model_state), (training_data, validation_data), settings, options
        )
        return result["model_state"], result["history"]

    def train_epoch(
        self,
        model_config: Any,
        training_data: Any,
        hyperparameters: AnyHyperparameters = None,
        *,
        model_state: ModelState | None = None,
        **options: Unpack[JobOptions],
    ) -> tuple[dict[str, float], ModelState]:
        """Train for one epoch; given the state that it returned, go on with the next.

        The optimiser's state stays on the worker. Where that has lost it, the optimiser begins
        anew, with a warning.

        Args:
            model_config: a configuration or a module.
            training_data: what it learns from.
            hyperparameters: how it learns.
            model_state: of the epoch before, or weights to begin with.
            **options: see `JobOptions`.

        Returns:
            The epoch's metrics (of the model as it was learning), and the state after it.
        """
        check_options(options, JobOptions)
        told = EpochsTold(self._callbacks)
        config, start = self._model(model_config, model_state, training_data, options)
        self._room.check_state(config, start)
        trained = TrainedSoFar() if start is None else start.trained
        job_input = {
            "operation": "train_epoch",
            "model_config": config,
            "training_data": self._data.on_wire(training_data, "training_data"),
            "hyperparameters": hyperparameters,
            "epoch": trained.epoch + 1,
            "optimizer_state": trained.optimizer_state,
            "state_reply": self._transfer.reply(start),
        }
        output = self._run(job_input, start, options, told.on_event)
        state = self._transfer.receive(output, start, trained.epoch + 1)
        told.tell({"epoch": trained.epoch + 1, "train_metrics": output["metrics"]})
        return output["metrics"], state

    def hyperparameter_trial(
        self,
        model_config: Any,
        training_data: Any,
        validation_data: Any,
        hyperparameters: AnyHyperparameters = None,
        epochs: int = 1,
        *,
        trial: Any = None,
        **options: Unpack[TrialOptions],
    ) -> dict[str, Any]:
        """One training of a search, from fresh weights.

        Args:
            model_config: a configuration or a module.
            training_data: what it learns from.
            validation_data: what it is scored on after each epoch.
            hyperparameters: to be tried.
            epochs: at most.
            trial: of Optuna: each epoch's `monitor` is reported to it, and where its pruner says
                so the job is cancelled and `optuna.TrialPruned` raised.
            **options: see `TrialOptions`.

        Returns:
            `final_val_metrics` and `final_train_metrics` (of the last epoch), `history`,
            `model_state`, `epochs_run`.
        """
        check_options(options, TrialOptions)
        given: dict[str, Any] = dict(options)
        monitor = given.pop("monitor", "val_loss")
        if trial is not None:
            given["callbacks"] = (*given.get("callbacks", ()), Pruning(trial, monitor))
        state, history = self.train_model(
            model_config, training_data, validation_data, hyperparameters, epochs, **given
        )
        return {
            "final_val_metrics": history[-1].get("val_metrics", {}),
            "final_train_metrics": history[-1]["train_metrics"],
            "history": history,
            "model_state": state,
            "epochs_run": len(history),
        }

    def evaluate(
        self,
        model_config: Any,
        model_state: ModelState | None,
        validation_data: Any,
        hyperparameters: AnyHyperparameters = None,
        **options: Unpack[JobOptions],
    ) -> dict[str, float]:
        """The metrics of a model on labelled data; nothing learns.

        Args:
            model_config: a configuration or a module.
            model_state: its weights; None: fresh ones, or the module's own.
            validation_data: what it is scored on.
            hyperparameters: loss and batch size are used.
            **options: see `JobOptions`.
        """
        check_options(options, JobOptions)
        config, start = self._model(model_config, model_state, validation_data, options)
        job_input = {
            "operation": "evaluate",
            "model_config": config,
            "validation_data": self._data.on_wire(validation_data, "validation_data"),
            "hyperparameters": hyperparameters,
        }
        metrics: dict[str, float] = self._run(job_input, start, options)["metrics"]
        return metrics

    def predict(
        self,
        model_config: Any,
        model_state: ModelState | None,
        features: Any,
        *,
        probabilities: bool = False,
        batch_size: int = 32,
        **options: Unpack[JobOptions],
    ) -> Json:
        """What a model answers to samples.

        Args:
            model_config: a configuration or a module.
            model_state: its weights; None: fresh ones, or the module's own.
            features: an array, a tensor or lists, one entry a sample; or data as for training.
            probabilities: apply softmax to the outputs of each sample.
            batch_size: how many samples go through at once.
            **options: see `JobOptions`.

        Returns:
            The operation's output: `outputs`, one entry a sample, and more.
        """
        check_options(options, JobOptions)
        config, start = self._model(model_config, model_state, features, options)
        job_input = {
            "operation": "predict",
            "model_config": config,
            "features": self._data.features_on_wire(features),
            "probabilities": probabilities,
            "hyperparameters": {"batch_size": batch_size},
        }
        return self._run(job_input, start, options)

    def export(
        self,
        model_config: Any,
        model_state: ModelState | None,
        path: str | os.PathLike[str],
        *,
        input_shape: Sequence[int],
        **options: Any,
    ) -> Json:
        """Write a model as a file that other runtimes take.

        Args:
            model_config: a configuration or a module.
            model_state: its weights; None: fresh ones, or the module's own.
            path: of the file; an older one is replaced.
            input_shape: of one sample, without the batch.
            **options: the operation's other fields, such as `format`, `precision`, `opset`, and
                those of `JobOptions`.

        Returns:
            The operation's output: how exact the file is, what its input and output are called.
        """
        self._room.check_file()
        config, start = self._model(model_config, model_state, None, {"input_shape": input_shape})
        given: JobOptions = {"policy": options.pop("policy", None)}
        job_input = {
            "operation": "export",
            "model_config": config,
            "input_shape": list(input_shape),
            **options,
            "check_data": self._data.on_wire(options.get("check_data"), "check_data"),
        }
        output = self._run(job_input, start, given)
        write_whole(Path(path), self.client.get_blob(output["model"]), "The model")
        return output

    def _train(
        self,
        model: tuple[Any, ModelState | None],
        data: tuple[Any, Any],
        settings: Json,
        options: TrainOptions,
    ) -> Json:
        """The output of `train`, with the state as a `ModelState`; tells the callbacks."""
        callbacks = (*self._callbacks, *options.get("callbacks", ()))
        told = EpochsTold(callbacks)
        try:
            config, start = self._model(*model, data[0], options)
            self._room.check_state(config, start)
            job_input = plain_input(
                {
                    "operation": "train",
                    "model_config": config,
                    "training_data": self._data.on_wire(data[0], "training_data"),
                    "validation_data": self._data.on_wire(data[1], "validation_data"),
                    **settings,
                    "state_reply": self._transfer.reply(start),
                }
            )
            for callback in callbacks:
                callback.on_train_begin(dict(job_input))
            output = self._run(job_input, start, options, told.on_event)
            for record in output["history"]:
                told.tell(record)
            output["model_state"] = self._transfer.receive(output, start)
            for callback in callbacks:
                callback.on_train_end(output)
            if not callbacks:
                self._warn(output)
        except BaseException as error:
            for callback in callbacks:
                callback.on_error(error)
            raise
        return output

    def _model(
        self, model: Any, state: ModelState | None, data: Any, options: JobOptions
    ) -> tuple[Any, ModelState | None]:
        """`model_config` as it travels, and the state to begin with."""
        if state is not None and not isinstance(state, ModelState):
            raise SpecError(
                f"'model_state' is of type {type(state).__name__}; give a ModelState, such as "
                "ModelState(tensors), ModelState.of(module) or ModelState.load(path)."
            )
        if not is_module(model):
            return model, state
        example = example_of(data, options.get("input_shape"))
        config, own = self._programs.take(model, example)
        return config, own if state is None else state

    def _run(
        self,
        job_input: Json,
        start: ModelState | None,
        options: JobOptions,
        on_event: OnEvent | None = None,
    ) -> Json:
        placed = {name: options.get(name) for name in ("device", "threads") if name in options}
        listen = on_event or self._tell
        # The state that goes with it may fill the rest of a request.
        sent = self._attaching.attach(
            plain_input(job_input | placed), as_progress_of(listen), _INLINE_BYTES
        )
        output = self._transfer.run(sent, start, options.get("policy"), listen)
        if job_input["operation"] != "train":  # whose callbacks get the whole result
            self._warn(output)
        return output

    def _warn(self, output: Json) -> None:
        """Say once each what the reader of a result must know, where nobody else would."""
        for note in output.get("notes", ()):
            if note not in self._noted:
                self._noted.add(note)
                _log.warning("%s", note)

    def _tell(self, event: JobEvent) -> None:
        for callback in self._callbacks:
            callback.on_event(event)
