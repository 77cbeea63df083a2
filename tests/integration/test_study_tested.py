"""A study's best trial, trained once more and scored on data that no trial was chosen on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from visiondyno import Client, ModelState, Trainer
from visiondyno.errors import Cancelled
from visiondyno.places import Place
from visiondyno.tuning.results import study_results, write_results
from visiondyno.tuning.study import Prepared, Study
from visiondyno.tuning.tested import MOST_TESTED, with_test
from visiondyno.tuning.trial import State

pytestmark = pytest.mark.torch  # its trials train networks


def inline_data(seed: int, count: int = 48) -> dict:
    """Images that are brighter on the left or on the right."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = draw.normal(size=(count, 1, 8, 8))
    images[labels == 0, :, :, :4] += 1.5
    images[labels == 1, :, :, 4:] += 1.5
    return {"features": images.round(3).tolist(), "labels": labels.tolist()}


TEST_DATA = inline_data(2, 30)
SPEC = {
    "training_data": inline_data(0),
    "validation_data": inline_data(1),
    "test_data": TEST_DATA,
    "epochs": 2,
    "trials": 3,
    "seed": 5,
    "space": {"parameters": {"width": {"low": 2, "high": 4}, "blocks": [1, 2]}},
}


@pytest.fixture(scope="module")
def study_and_result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = Study(SPEC, Place("inline"), folder=folder)
    return study, study.run(), folder


def test_the_best_is_trained_again_to_the_same_bits_and_tested(study_and_result, tmp_path):
    study, result, _ = study_and_result
    heard = []
    tested = with_test(study, result, tmp_path, heard.append)
    assert tested.trials == result.trials
    assert (tested.test["skipped"], tested.test["failed"], tested.test["usd"]) == (None, [], None)
    (one,) = tested.test["trials"]
    best = result.best[0]
    assert one["trial"] == best.number
    assert one["is_same"]
    value = best.values[0]
    assert one["again"] == {"val_accuracy": {"trial": value, "again": value, "difference": 0.0}}
    assert one["samples"] == 30
    low, high = one["accuracy_interval"]
    assert low < one["metrics"]["accuracy"] < high or one["metrics"]["accuracy"] in (0, 1)
    assert one["device"] == "cpu"
    assert {event.progress["stage"] for event in heard if event.progress} >= {"epoch"}
    with Client("inline") as client:
        config = study.prepared.job_of(best)["model_config"]
        state = ModelState.load(tmp_path / "best.safetensors")
        assert state.sha256 == one["weights_sha256"]
        metrics = Trainer(client).evaluate(config, state, TEST_DATA, threads=1)
    assert metrics["accuracy"] == one["metrics"]["accuracy"]
    assert metrics["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-5)


def test_the_test_is_in_the_results_and_optuna_has_the_trials(study_and_result, tmp_path):
    study, result, folder = study_and_result
    found = write_results(with_test(study, result), tmp_path)
    assert found["test"]["trials"][0]["weights"] is None
    assert found["counts"]["completed"] == 3
    assert found["callbacks"][0]["name"] == "optuna.log"
    assert found["callbacks"][0]["errors"] == 0
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    theirs = optuna.load_study(study_name="visiondyno", storage=storage)
    for ours, trial in zip(result.trials, theirs.trials, strict=True):
        assert (trial.number, trial.params) == (ours.number, ours.params)
        assert tuple(trial.values) == ours.values
        assert trial.intermediate_values == {s: v for s, (v,) in ours.reports.items()}
    assert theirs.best_trial.number == found["best"]["trial"]


def test_each_of_a_front_is_tested(tmp_path):
    spec = {**SPEC, "objectives": ["val_loss", "parameters:minimize"], "trials": 4}
    study = Study(spec, Place("inline"))
    result = study.run()
    front = [record.number for record in result.best]
    tested = with_test(study, result, tmp_path).test
    assert [one["trial"] for one in tested["trials"]] == front
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"trial-{number}.safetensors" for number in front
    )
    assert all(list(one["again"]) == ["val_loss"] for one in tested["trials"])
    assert tested["left_out"] == []


def test_of_a_large_front_the_first_are_tested(study_and_result):
    study, result, _ = study_and_result
    result = replace(result, best=tuple(result.best[0].with_(number=n) for n in range(12)))
    broken = replace(study.prepared, job_of=lambda record: {"operation": "train"})
    stand_in = SimpleNamespace(
        prepared=broken, objectives=study.objectives, place_of=study.place_of
    )
    tested = with_test(stand_in, result).test
    assert [one["trial"] for one in tested["failed"]] == list(range(MOST_TESTED))
    assert tested["left_out"] == [10, 11]
    assert "model_config" in tested["failed"][0]["message"]


def test_a_training_that_comes_out_otherwise_is_told(study_and_result):
    study, result, _ = study_and_result
    best = result.best[0]
    other = best.with_(values=(best.values[0] - 0.125,))
    (one,) = with_test(study, replace(result, best=(other,))).test["trials"]
    assert not one["is_same"]
    assert one["again"]["val_accuracy"]["difference"] == 0.125


def test_nothing_is_trained_where_nothing_can_be_tested(study_and_result):
    study, result, _ = study_and_result

    def skipped(prepared, found=result) -> str:
        stand_in = SimpleNamespace(prepared=prepared, objectives=study.objectives)
        test = with_test(stand_in, found).test
        assert test["trials"] == test["failed"] == []
        return test["skipped"]

    assert "no test data" in skipped(replace(study.prepared, test=None))
    own_function = Prepared(study.prepared.space, study.prepared.body)
    assert "function" in skipped(own_function)
    assert "function" in skipped(None)
    none_done = replace(result, best=())
    assert "No trial was completed" in skipped(study.prepared, none_done)
    assert study_results(none_done)["best"] is None


def test_no_more_is_spent_than_the_study_may(study_and_result):
    study, result, _ = study_and_result
    place = Place("runpod", endpoint="abc", max_cost_usd=0.01)
    stand_in = SimpleNamespace(
        prepared=study.prepared, objectives=study.objectives, place_of=lambda lane: place
    )
    spent = replace(result, cost={"usd_at_least": 0.005, "usd_at_most": 0.01})
    test = with_test(stand_in, spent).test
    assert test["skipped"].startswith("The limit of cost leaves nothing for the test: all of its")
    assert test["trials"] == []


def test_who_stops_the_test_stops_it(study_and_result):
    study, result, _ = study_and_result

    def stop(event) -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        with_test(study, result, None, stop)
    assert all(record.state is State.COMPLETED for record in result.trials)
