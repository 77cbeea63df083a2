"""`visiondyno.tune` with a function: what it takes, what it gives, how it goes on."""

import asyncio
from pathlib import Path
from typing import Any

import optuna
import pytest

import visiondyno
from visiondyno.errors import Conflict, SpecError
from visiondyno.places import Place
from visiondyno.tuning.function_trial import FunctionTrial
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.trial import State

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))


def square(trial: Any) -> float:
    """What Optuna's own objectives look like."""
    return float((trial.suggest_float("x", -1.0, 1.0) - 0.25) ** 2)


def tune(objective: Any, **options: Any) -> StudyResult:
    given: dict[str, Any] = {"on": "inline", "workers": 1, "objectives": "loss", **options}
    return visiondyno.tune(objective, **given)


def test_tune_runs_a_function_and_goes_on_with_it(tmp_path: Path) -> None:
    told: list[Any] = []
    first = tune(square, trials=4, out=tmp_path, seed=3, callbacks=[told.append])
    assert first.stopped is None
    assert len(first.trials) == 4
    assert first.best[0].values == (min(record.values[0] for record in first.trials),)
    assert told[-1].is_over
    assert told[-1].completed_trials == 4
    second = visiondyno.tune(square, trials=6, out=tmp_path, resume=True, on="inline")
    assert second.taken_up == 4
    assert second.trials[:4] == first.trials
    assert len(second.trials) == 6


def test_the_same_seed_and_one_worker_give_the_same_trials() -> None:
    runs = [[record.values for record in tune(square, trials=5).trials] for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_folder_of_a_study_that_is_not_kept_goes_with_it() -> None:
    folders: list[Path] = []

    def objective(trial: FunctionTrial) -> float:
        folders.append(trial.folder)
        assert trial.folder.is_dir()
        return 1.0

    tune(objective, trials=2)
    assert len(set(folders)) == 2
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize(
    ("objective", "options", "says"),
    [
        (square, {"objectives": None}, "give 'objectives'"),
        (square, {"data": "digits"}, "'data' is of studies that train by themselves"),
        (square, {"epochs": 3}, "'epochs' is of studies"),
        (square, {"pruner_arguments": {"x": 1}}, "need a 'pruner'"),
        (square, {"trails": 3}, "trails"),
        (square, {"workers": 0}, "'workers' is 0"),
        (square, {"resume": True}, "Which study?"),
        (3, {}, "What to search is of type int"),
        ("nowhere.yaml", {}, "nowhere.yaml"),
        ({"parameters": {}}, {"data": "digits"}, "parameters"),
        (None, {}, "give 'data'"),
        (square, {"on": Place("inline"), "gpu": "A4000"}, "'gpu' goes with"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_what_tune_cannot_do_is_said_in_a_sentence(
    objective: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        tune(objective, **options)


def test_a_study_goes_on_as_what_it_was_begun(tmp_path: Path) -> None:
    tune(square, trials=1, out=tmp_path)
    with pytest.raises(Conflict, match="of the function 'square'"):
        visiondyno.tune(out=tmp_path, resume=True, on="inline")

    def other(trial: Any) -> float:
        return square(trial)

    with pytest.raises(Conflict, match="function"):
        visiondyno.tune(other, out=tmp_path, resume=True, on="inline")
    with pytest.raises(Conflict, match="holds a study already"):
        tune(square, trials=1, out=tmp_path)


def test_tune_works_inside_a_running_loop() -> None:
    async def main() -> StudyResult:
        return tune(square, trials=2)

    assert len(asyncio.run(main()).trials) == 2


@pytest.mark.slow
@pytest.mark.torch
def test_one_objective_runs_under_optuna_and_under_tune_unchanged() -> None:
    pytest.importorskip("torch")
    linear = {
        "type": "sequential",
        "layers": [{"type": "linear", "in_features": 2, "out_features": 2}],
    }
    data = {"features": [[0.0, 1.0], [1.0, 0.0]] * 8, "labels": [0, 1] * 8}

    with visiondyno.Client("inline") as client:
        trainer = visiondyno.Trainer(client)

        def objective(trial: Any) -> float:
            rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
            found = trainer.hyperparameter_trial(
                linear, data, data, {"learning_rate": rate}, epochs=2, trial=trial, seed=1
            )
            return float(found["final_val_metrics"]["loss"])

        plain = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
        plain.optimize(objective, n_trials=2)
        ours = tune(objective, trials=2)

    def by_trial(trial: FunctionTrial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
        found = trial.trainer.hyperparameter_trial(
            linear, data, data, {"learning_rate": rate}, epochs=2, trial=trial, seed=1
        )
        return float(found["final_val_metrics"]["loss"])

    sent = tune(by_trial, trials=2)
    assert len(plain.trials[0].intermediate_values) == 2
    assert [record.state for record in (*ours.trials, *sent.trials)] == [State.COMPLETED] * 4
    assert [len(record.reports) for record in ours.trials] == [2, 2]
    assert ours.trials[0].params == sent.trials[0].params
    assert ours.trials[0].values == sent.trials[0].values
    assert sent.trials[0].job_id is not None
