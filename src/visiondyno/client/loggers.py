"""Callbacks that record trainings elsewhere: MLflow, Weights & Biases.

Each logger works on a thread of its own, so that a slow or absent server neither delays a training
nor loses it: what can't be recorded is warned of once, and told in the result's `notes`.
"""

import importlib.util
import json
import math
import queue
import tempfile
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from visiondyno.client.callbacks import Callback
from visiondyno.errors import MissingExtra, SpecError

MAX_TEXT = 500
"""Characters of a parameter's value: what older MLflow servers take; a longer one is cut."""

STATE_FILE = "model.safetensors"

Mode = Literal["online", "offline", "disabled"]


class LoggerFailed(UserWarning):
    """A training went on, but a logger could not record it."""


def _warn(message: str) -> None:
    warnings.warn(message, LoggerFailed, stacklevel=2)


class Logger(Callback):
    """What loggers have in common: the thread, and that no failure of theirs is the training's.

    Attributes:
        name: what messages call it.
        failure: why the training isn't recorded in full; None so far.
    """

    name: str

    def __init__(
        self, *, patience_s: float = 30.0, on_failure: Callable[[str], None] = _warn
    ) -> None:
        """A logger for any number of trainings, one after another.

        Args:
            patience_s: how long the end of a training waits for the last records.
            on_failure: told once a training why it isn't recorded in full.
        """
        self.failure: str | None = None
        self._patience_s = patience_s
        self._on_failure = on_failure
        self._told = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def on_train_begin(self, run: dict[str, Any]) -> None:
        self.failure, self._told = None, False
        parameters = flat_parameters(run)
        self._tasks = queue.SimpleQueue()
        # A daemon: a server that never answers must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._work, args=(self._tasks,), name=self.name, daemon=True
        )
        self._thread.start()
        self._do(lambda: self._begin(parameters))

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        metrics, epoch = flat_metrics(record), int(record["epoch"])
        self._do(lambda: self._log(metrics, epoch))

    def on_train_end(self, result: dict[str, Any]) -> None:
        self._do(lambda: self._end(result))
        self._finish()
        if self.failure is not None:
            result.setdefault("notes", []).append(self.failure)

    def on_error(self, error: BaseException) -> None:
        self._do(lambda: self._fail(error))
        self._finish()

    @abstractmethod
    def _begin(self, parameters: Mapping[str, str]) -> None:
        """Start a run with these parameters."""

    @abstractmethod
    def _log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record an epoch's metrics."""

    @abstractmethod
    def _end(self, result: Mapping[str, Any]) -> None:
        """End the run: it is done."""

    @abstractmethod
    def _fail(self, error: BaseException) -> None:
        """End the run: it failed, or was interrupted."""

    def _do(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        self._tell()

    def _work(self, tasks: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
        while (task := tasks.get()) is not None:
            if self.failure is not None:
                continue
            try:
                task()
            except Exception as error:  # whatever a client of a server may raise
                if tasks is self._tasks:
                    self.failure = self._sentence(f"{type(error).__name__}: {error}")

    def _finish(self) -> None:
        self._tasks.put(None)
        if self._thread is not None:
            self._thread.join(self._patience_s)
            if self._thread.is_alive() and self.failure is None:
                self.failure = self._sentence(f"no answer within {self._patience_s:g} s")
        self._tell()

    def _tell(self) -> None:
        if self.failure is not None and not self._told:
            self._told = True
            self._on_failure(self.failure)

    def _sentence(self, reason: str) -> str:
        first = " ".join(reason.split())
        shown = first if len(first) <= 300 else f"{first[:299]}…"
        return f"{self.name} didn't record this training in full ({shown}); nothing else is lost."


class MLflowLogger(Logger):
    """Records trainings as runs of MLflow: parameters, metrics of each epoch, weights on request.

    >>> MLflowLogger(experiment="street", tracking_uri="sqlite:///mlflow.db")  # doctest: +SKIP
    """

    name = "MLflow"

    def __init__(
        self,
        experiment: str = "visiondyno",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        log_state: bool = False,
        **options: Any,
    ) -> None:
        """Needs the extra `mlflow`.

        Args:
            experiment: made if it isn't there.
            tracking_uri: a server, or a database such as `sqlite:///mlflow.db`; MLflow's own
                default (`MLFLOW_TRACKING_URI`) if None. A folder is taken by MLflow 3 only with
                `MLFLOW_ALLOW_FILE_STORE=true` in the environment.
            run_name: MLflow makes one up if None.
            log_state: keep the final weights as the artifact `model.safetensors`.
            **options: of `Logger`.

        Raises:
            MissingExtra: MLflow isn't installed.
        """
        _need("mlflow", "Recording with MLflow")
        super().__init__(**options)
        self._experiment = experiment
        self._tracking_uri = tracking_uri
        self._run_name = run_name
        self._log_state = log_state
        self._client: Any = None
        self.run_id: str | None = None

    def _begin(self, parameters: Mapping[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.run_id = None
        self._client = MlflowClient(tracking_uri=self._tracking_uri)
        found = self._client.get_experiment_by_name(self._experiment)
        experiment_id = (
            found.experiment_id if found else self._client.create_experiment(self._experiment)
        )
        run = self._client.create_run(experiment_id, run_name=self._run_name)
        self.run_id = run.info.run_id
        items = [Param(name, value) for name, value in parameters.items()]
        for start in range(0, len(items), 100):  # the most that a request may hold
            self._client.log_batch(self.run_id, params=items[start : start + 100])

    def _log(self, metrics: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        values = [Metric(name, value, now_ms, epoch) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=values)

    def _end(self, result: Mapping[str, Any]) -> None:
        state = result.get("model_state")
        if self._log_state and state is not None:
            with tempfile.TemporaryDirectory() as folder:
                state.save(Path(folder) / STATE_FILE)
                self._client.log_artifact(self.run_id, str(Path(folder) / STATE_FILE))
        self._client.set_terminated(self.run_id, "FINISHED")

    def _fail(self, error: BaseException) -> None:
        self._client.set_tag(self.run_id, "visiondyno.error", str(error)[:MAX_TEXT])
        self._client.set_terminated(self.run_id, "FAILED")


class WandbLogger(Logger):
    """Records trainings as runs of Weights & Biases: configuration, and metrics of each epoch."""

    name = "Weights & Biases"

    def __init__(
        self,
        project: str = "visiondyno",
        *,
        mode: Mode | None = None,
        run_name: str | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> None:
        """Needs the extra `wandb`.

        Args:
            project: its name there.
            mode: `online`, `offline` (files that `wandb sync` sends later) or `disabled`; wandb's
                own default (`WANDB_MODE`) if None.
            run_name: wandb makes one up if None.
            folder: where its files go; wandb's own default if None.
            **options: of `Logger`.

        Raises:
            MissingExtra: wandb isn't installed.
            SpecError: there is no such mode.
        """
        _need("wandb", "Recording with Weights & Biases")
        if mode is not None and mode not in get_args(Mode):
            raise SpecError(f"'{mode}' is no mode of wandb; give online, offline or disabled.")
        super().__init__(**options)
        self._project = project
        self._mode = mode
        self._run_name = run_name
        self._folder = folder
        self._run: Any = None

    def _begin(self, parameters: Mapping[str, str]) -> None:
        import wandb

        self._run = wandb.init(
            project=self._project,
            name=self._run_name,
            mode=self._mode,
            dir=None if self._folder is None else str(self._folder),
            config=dict(parameters),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def _log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(metrics), step=epoch)

    def _end(self, result: Mapping[str, Any]) -> None:
        if result.get("stopped_early") is not None:
            self._run.summary["stopped_early"] = result["stopped_early"]
        self._run.finish()

    def _fail(self, error: BaseException) -> None:
        self._run.summary["error"] = str(error)[:MAX_TEXT]
        self._run.finish(exit_code=1)


def parse_logger(text: str, on_failure: Callable[[str], None] = _warn) -> Logger:
    """The logger that `mlflow`, `mlflow:URI`, `wandb` or `wandb:PROJECT` names.

    Raises:
        SpecError: it is none of these.
        MissingExtra: its package isn't installed.
    """
    kind, _, rest = text.partition(":")
    if kind == "mlflow":
        return MLflowLogger(tracking_uri=rest or None, on_failure=on_failure)
    if kind == "wandb":
        return WandbLogger(rest or "visiondyno", on_failure=on_failure)
    raise SpecError(f"There is no logger '{text}'; give mlflow:URI or wandb:PROJECT.")


def flat_parameters(run: Mapping[str, Any]) -> dict[str, str]:
    """A run's settings by dotted name, as texts; without samples and weights, cut at `MAX_TEXT`."""
    found: dict[str, str] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                add(f"{name}.{key}" if name else str(key), inner)
        elif name.rpartition(".")[2] in ("features", "labels") and isinstance(value, list):
            found[name] = f"{len(value)} inline"
        elif value is not None and name not in ("model_state", "model_config.program"):
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[name] = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"

    add("", run)
    return found


def flat_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """`train_loss`, `val_accuracy` …: every number of an epoch's record, not finite ones too."""
    return {
        f"{part}_{name}": float(value)
        for part in ("train", "val")
        for name, value in (record.get(f"{part}_metrics") or {}).items()
        if isinstance(value, int | float) and not math.isinf(value)
    }


def _need(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package, what)
