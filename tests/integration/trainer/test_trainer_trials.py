"""The trainer's trials of hyperparameters, with and without Optuna's pruning."""

from typing import Any

import pytest

from training_places import HYPER, MLP, CountingClient, blobs_of_points
from visiondyno.client.trainer import Trainer
from visiondyno.errors import SpecError

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small modules are faster so, and other tests keep their cores
pytestmark = pytest.mark.torch

TRAIN, HELD_OUT = blobs_of_points(), blobs_of_points(45, seed=1)


def test_a_trial_gives_its_last_metrics_and_reports_each_epoch(trainer: Trainer) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results = []

    def objective(trial: Any) -> float:
        rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
        found = trainer.hyperparameter_trial(
            MLP, TRAIN, HELD_OUT, {"learning_rate": rate}, epochs=2, trial=trial
        )
        results.append(found)
        return float(found["final_val_metrics"]["loss"])

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=2)
    for trial, found in zip(study.trials, results, strict=True):
        losses = [record["val_metrics"]["loss"] for record in found["history"]]
        assert trial.intermediate_values == dict(enumerate(losses, start=1))
        assert trial.value == losses[-1]
        assert found["epochs_run"] == 2
        assert found["final_train_metrics"] == found["history"][-1]["train_metrics"]
        assert trainer.evaluate(MLP, found["model_state"], HELD_OUT)["loss"] == losses[-1]


def test_a_pruned_trial_cancels_its_job(trainer: Trainer, client: CountingClient) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: Any) -> float:
        trainer.hyperparameter_trial(
            MLP, TRAIN, HELD_OUT, HYPER, epochs=5000, trial=trial, monitor="val_accuracy"
        )
        raise AssertionError("it was to be pruned")

    pruner = optuna.pruners.ThresholdPruner(lower=2.0)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(objective, n_trials=1)
    assert [trial.state.name for trial in study.trials] == ["PRUNED"]
    assert client.health()["jobs"]["CANCELLED"] == 1


@pytest.mark.parametrize("monitor", ["loss", "val_beauty"])
def test_a_trial_with_an_unknown_metric_is_told(trainer: Trainer, monitor: str) -> None:
    trial = object()
    with pytest.raises(SpecError, match="monitor"):
        trainer.hyperparameter_trial(MLP, TRAIN, HELD_OUT, HYPER, trial=trial, monitor=monitor)
