"""Loggers record a whole training, and never lose one."""

import threading
from pathlib import Path
from typing import Any

import pytest

from visiondyno.client import loggers
from visiondyno.client.loggers import (
    Logger,
    LoggerFailed,
    MLflowLogger,
    WandbLogger,
    flat_metrics,
    flat_parameters,
    parse_logger,
)
from visiondyno.client.model_state import ModelState
from visiondyno.errors import MissingExtra, SpecError

RUN = {
    "operation": "train",
    "model_config": {"type": "sequential", "layers": [{"type": "relu"}] * 200},
    "training_data": {"features": [[1.0], [2.0]], "labels": [0, 1]},
    "validation_data": "digits:val",
    "hyperparameters": {"optimizer": "adam", "learning_rate": 0.01, "loss_arguments": {}},
    "epochs": 2,
    "model_state": "b" * 100,
}
EPOCHS = [
    {
        "epoch": epoch,
        "train_metrics": {"loss": 1.0 / epoch, "samples_processed": 2},
        "val_metrics": {"loss": 2.0 / epoch, "accuracy": 0.25 * epoch},
    }
    for epoch in (1, 2)
]


def train(logger: Logger, **result: Any) -> dict[str, Any]:
    """What a trainer tells its callbacks; the result as its caller sees it."""
    output = {"history": EPOCHS, "stopped_early": False, **result}
    logger.on_train_begin(dict(RUN))
    for record in EPOCHS:
        logger.on_epoch_end(dict(record))
    logger.on_train_end(output)
    return output


def test_parameters_are_flat_texts_without_samples_and_weights() -> None:
    found = flat_parameters(RUN)
    assert found["hyperparameters.learning_rate"] == "0.01"
    assert found["training_data.features"] == "2 inline"
    assert found["validation_data"] == "digits:val"
    assert found["epochs"] == "2"
    assert len(found["model_config.layers"]) == loggers.MAX_TEXT
    assert "model_state" not in found


def test_metrics_are_named_by_their_part() -> None:
    record = {**EPOCHS[0], "val_metrics": {"loss": float("inf"), "accuracy": 0.5}}
    assert flat_metrics(record) == {
        "train_loss": 1.0,
        "train_samples_processed": 2.0,
        "val_accuracy": 0.5,
    }
    assert flat_metrics({"epoch": 1, "train_metrics": {"loss": 1.0}}) == {"train_loss": 1.0}


@pytest.fixture
def mlflow_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def test_mlflow_holds_parameters_each_epoch_and_the_weights(mlflow_files: str) -> None:
    from mlflow import MlflowClient

    logger = MLflowLogger("street", tracking_uri=mlflow_files, run_name="first", log_state=True)
    state = ModelState({"weight": [[1.0, 2.0]]})
    assert "notes" not in train(logger, model_state=state)
    train(logger, model_state=state)  # again, with the experiment that is there by now

    client = MlflowClient(tracking_uri=mlflow_files)
    experiment = client.get_experiment_by_name("street")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    run = client.get_run(logger.run_id)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.params["hyperparameters.optimizer"] == "adam"
    points = client.get_metric_history(logger.run_id, "val_loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.0)]
    (artifact,) = client.list_artifacts(logger.run_id)
    kept = client.download_artifacts(logger.run_id, artifact.path)
    assert ModelState.load(kept) == state


def test_mlflow_marks_a_failed_training(mlflow_files: str) -> None:
    from mlflow import MlflowClient

    logger = MLflowLogger(tracking_uri=mlflow_files)
    logger.on_train_begin(dict(RUN))
    logger.on_epoch_end(dict(EPOCHS[0]))
    logger.on_error(SpecError("The loss isn't finite."))
    run = MlflowClient(tracking_uri=mlflow_files).get_run(logger.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["visiondyno.error"] == "The loss isn't finite."
    assert run.data.metrics["train_loss"] == 1.0


def test_a_logger_that_fails_warns_once_and_says_so_in_the_result(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    # MLflow takes no such scheme: as good as a server that refuses.
    logger = MLflowLogger(tracking_uri="gopher://nowhere")
    with pytest.warns(LoggerFailed) as said:
        result = train(logger)
    assert len(said) == 1
    (note,) = result["notes"]
    assert str(said[0].message) == note
    assert note.startswith("MLflow didn't record this training in full (")


class StuckLogger(Logger):
    """Its server never answers."""

    name = "stuck"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.release = threading.Event()

    def _begin(self, parameters: Any) -> None:
        self.release.wait()

    def _log(self, metrics: Any, epoch: int) -> None:
        raise AssertionError("it never gets here")

    def _end(self, result: Any) -> None:
        raise AssertionError("it never gets here")

    def _fail(self, error: BaseException) -> None:
        raise AssertionError("it never gets here")


def test_a_server_that_never_answers_holds_nothing_up() -> None:
    told: list[str] = []
    logger = StuckLogger(patience_s=0.05, on_failure=told.append)
    try:
        result = train(logger)
    finally:
        logger.release.set()
    assert told == result["notes"]
    (note,) = told
    assert note == (
        "stuck didn't record this training in full (no answer within 0.05 s); nothing else is lost."
    )


def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    told: list[str] = []
    logger = WandbLogger("street", mode="offline", folder=tmp_path, on_failure=told.append)
    train(logger)
    logger.on_train_begin(dict(RUN))
    logger.on_error(SpecError("stopped"))
    assert told == []
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    kept = b"".join(path.read_bytes() for path in files)
    assert b"hyperparameters.optimizer" in kept
    assert kept.count(b"val_accuracy") >= 2


def test_what_is_asked_for_and_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[mlflow\]'"):
        parse_logger("mlflow:sqlite:///a.db")
    with pytest.raises(MissingExtra, match=r"pip install 'visiondyno\[wandb\]'"):
        parse_logger("wandb")


def test_loggers_by_name() -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    assert isinstance(parse_logger("mlflow"), MLflowLogger)
    assert isinstance(parse_logger("wandb:street"), WandbLogger)
    with pytest.raises(SpecError, match="There is no logger 'csv:file'"):
        parse_logger("csv:file")
    with pytest.raises(SpecError, match="no mode of wandb"):
        WandbLogger(mode="sometimes")  # type: ignore[arg-type]
