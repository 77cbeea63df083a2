"""The trainer over real operations: what it gives, tells and refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from training_places import CNN, HYPER, MLP, CountingClient, blobs_of_points
from visiondyno.client.callbacks import Callback
from visiondyno.client.model_state import ModelState
from visiondyno.client.progress import ProgressLine
from visiondyno.client.trainer import Trainer
from visiondyno.errors import DatasetError, ModelError, SpecError
from visiondyno.job import JobEvent, JobState
from visiondyno.specs.training import Hyperparameters

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small modules are faster so, and other tests keep their cores
pytestmark = pytest.mark.torch

TRAIN, HELD_OUT = blobs_of_points(), blobs_of_points(45, seed=1)


class Told(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_train_begin(self, run: dict[str, Any]) -> None:
        self.calls.append(("begin", run))

    def on_event(self, event: JobEvent) -> None:
        self.calls.append(("event", event.number))

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        self.calls.append(("epoch", record))

    def on_train_end(self, result: dict[str, Any]) -> None:
        self.calls.append(("end", result))

    def on_error(self, error: BaseException) -> None:
        self.calls.append(("error", error))

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.calls if name == kind]


def test_a_training_gives_state_and_history_and_tells_each_epoch_once(trainer: Trainer) -> None:
    told = Told()
    state, history = trainer.train_model(
        MLP, TRAIN, HELD_OUT, HYPER, epochs=3, seed=4, callbacks=[told]
    )
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert history[-1]["val_metrics"]["samples_processed"] == 45
    assert told.of("epoch") == history
    assert [run["epochs"] for run in told.of("begin")] == [3]
    assert [result["model_state"] for result in told.of("end")] == [state]
    numbers = told.of("event")
    assert numbers == list(range(1, len(numbers) + 1))
    assert trainer.evaluate(MLP, state, HELD_OUT, HYPER) == history[-1]["val_metrics"]
    again, same = trainer.train_model(MLP, TRAIN, HELD_OUT, HYPER, epochs=3, seed=4)
    assert (again, same) == (state, history)


def test_epoch_by_epoch_ends_where_one_job_does(trainer: Trainer, client: CountingClient) -> None:
    hyper = HYPER | {"seed": 4, "scheduler": "step", "scheduler_arguments": {"step_size": 1}}
    whole, history = trainer.train_model(CNN, TRAIN, None, hyper, epochs=3)
    told, state = Told(), None
    by_epoch = Trainer(client, callbacks=[told])
    for record in history:
        metrics, state = by_epoch.train_epoch(CNN, TRAIN, hyper, model_state=state)
        assert metrics == record["train_metrics"]
        assert state.trained.epoch == record["epoch"]
    assert state == whole
    assert told.of("epoch") == history
    assert {kind for kind, _ in told.calls} == {"event", "epoch"}


def test_an_error_of_a_callback_cancels_the_training_and_every_callback_knows(
    trainer: Trainer, client: CountingClient
) -> None:
    class Stop(Callback):
        def on_epoch_end(self, record: dict[str, Any]) -> None:
            raise ZeroDivisionError

    told = Told()
    with pytest.raises(ZeroDivisionError):
        trainer.train_model(MLP, TRAIN, None, HYPER, epochs=5000, callbacks=[Stop(), told])
    assert client.health()["jobs"]["CANCELLED"] == 1
    assert [type(error) for error in told.of("error")] == [ZeroDivisionError]
    assert not told.of("end")


def test_wrong_inputs_are_the_jobs_own_errors_and_reach_the_callbacks(trainer: Trainer) -> None:
    told = Told()
    with pytest.raises(SpecError, match="adamm"):
        trainer.train_model(MLP, TRAIN, None, {"optimizer": "adamm"}, callbacks=[told])
    assert [type(error) for error in told.of("error")] == [SpecError]
    with pytest.raises(ModelError, match="another model"):
        trainer.evaluate(CNN, ModelState({"weight": np.zeros(2)}), TRAIN)
    with pytest.raises(DatasetError, match=r"training_data"):
        trainer.train_epoch(MLP, (TRAIN[0], TRAIN[1][:-1]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"early_stoping": {"monitor": "val_loss"}}, "did you mean 'early_stopping'"),
        ({"workers": 3}, "no option 'workers' here; there are callbacks, device"),
        ({"callbacks": [3]}, "callback is of type int; derive"),
        ({"model_state": {"0.bias": [0.0]}}, "'model_state' is of type dict; give a ModelState"),
    ],
    ids=["misspelt", "unknown", "callback", "state"],
)
def test_what_a_training_doesnt_take_is_refused_and_never_passed_over(
    trainer: Trainer, client: CountingClient, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SpecError, match=sentence):
        trainer.train_model(MLP, TRAIN, None, HYPER, **options)
    with pytest.raises(SpecError):
        trainer.evaluate(MLP, None, HELD_OUT, seed=3)  # type: ignore[call-arg]
    with pytest.raises(SpecError):
        Trainer(client, callbacks=[3])  # type: ignore[list-item]
    assert client.inputs == []


@pytest.mark.parametrize(
    ("hyper", "place"),
    [
        ({"learning_rate": float("nan")}, "hyperparameters.learning_rate"),
        ({"optimizer_arguments": {"betas": {0.9, 0.99}}}, "optimizer_arguments.betas"),
        ({"optimizer_arguments": {1: 2}}, "optimizer_arguments"),
    ],
    ids=["nan", "set", "key"],
)
def test_settings_that_json_has_not_are_named(
    trainer: Trainer, hyper: dict[str, Any], place: str
) -> None:
    with pytest.raises(SpecError, match=place):
        trainer.train_model(MLP, TRAIN, None, hyper)


def test_numbers_of_numpy_and_torch_and_tuples_are_taken_as_settings(trainer: Trainer) -> None:
    hyper = {
        "learning_rate": np.float64(0.01),
        "batch_size": np.int64(16),
        "weight_decay": torch.tensor(0.0),
        "optimizer_arguments": {"betas": (0.9, 0.99)},
    }
    state, _ = trainer.train_model(MLP, TRAIN, None, hyper)
    typed = Hyperparameters(
        learning_rate=0.01,
        batch_size=16,
        weight_decay=0,
        optimizer_arguments={"betas": [0.9, 0.99]},
    )
    assert trainer.train_model(MLP, TRAIN, None, typed)[0] == state


def test_early_stopping_and_placement_reach_the_worker(
    trainer: Trainer, client: CountingClient
) -> None:
    _, history = trainer.train_model(
        MLP,
        TRAIN,
        HELD_OUT,
        HYPER,
        epochs=50,
        early_stopping={"monitor": "val_loss", "patience": 1, "min_delta": 10.0},
        device="cpu",
        threads=1,
    )
    assert len(history) == 2
    assert (client.inputs[0]["device"], client.inputs[0]["threads"]) == ("cpu", 1)


def test_progress_is_one_line_in_a_terminal_and_nothing_elsewhere(client: CountingClient) -> None:
    for name, options in (("shown", {"force_terminal": True, "width": 120}), ("silent", {})):
        with Path(name).open("w", encoding="utf-8") as file:
            callbacks = [ProgressLine(Console(file=file, **options))]
            trainer = Trainer(client, callbacks=callbacks)
            trainer.train_model(MLP, TRAIN, HELD_OUT, HYPER, epochs=2)
            with pytest.raises(SpecError):
                trainer.train_model(MLP, TRAIN, None, {"optimizer": "x"})
    shown = Path("shown").read_text(encoding="utf-8")
    assert "2 of 2 epochs" in shown
    assert "val_loss" in shown
    assert "ended by SpecError" in shown
    assert Path("silent").read_text(encoding="utf-8") == ""
    assert Trainer(client, progress=True)


def test_progress_goes_on_within_an_epoch(home: Path) -> None:
    with Path("shown").open("w", encoding="utf-8") as file:
        line = ProgressLine(Console(file=file, force_terminal=True, width=120))
        line.on_train_begin({"epochs": 4})
        for progress in (
            {"stage": "training", "epoch": 3, "epochs": 4, "done": 1, "total": 2},
            {"log": "a line"},
        ):
            line.on_event(
                JobEvent(job_id="a", number=3, state=JobState.IN_PROGRESS, progress=progress)
            )
        line.on_error(KeyboardInterrupt())
    assert "ended by KeyboardInterrupt" in Path("shown").read_text(encoding="utf-8")
    assert line._progress is None


def test_predictions_come_for_lists_arrays_tensors_and_data(trainer: Trainer) -> None:
    state, _ = trainer.train_model(MLP, TRAIN, None, HYPER)
    features = HELD_OUT[0]
    found = [
        trainer.predict(MLP, state, data, probabilities=True, batch_size=16)
        for data in (features, features.tolist(), torch.from_numpy(features), HELD_OUT)
    ]
    assert found[0]["shape"] == [45, 3]
    assert np.sum(found[0]["outputs"], axis=1) == pytest.approx(1)
    assert all(one["outputs"] == found[0]["outputs"] for one in found)
    answers = np.argmax(found[0]["outputs"], axis=1)
    accuracy = trainer.evaluate(MLP, state, HELD_OUT)["accuracy"]
    assert np.mean(answers == HELD_OUT[1]) == pytest.approx(accuracy)


def test_an_exported_file_answers_what_the_model_does(trainer: Trainer, home: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    state, _ = trainer.train_model(MLP, TRAIN, None, HYPER)
    path = home / "model.onnx"
    facts = trainer.export(
        MLP,
        state,
        path,
        input_shape=(6,),
        check_data=HELD_OUT,
        policy={"executionTimeout": 60_000},
        threads=1,
    )
    assert facts["size_bytes"] == path.stat().st_size
    assert facts["checked_samples"] == 45
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {facts["input_name"]: HELD_OUT[0]})
    expected = trainer.predict(MLP, state, HELD_OUT[0])["outputs"]
    assert found == pytest.approx(np.array(expected), abs=1e-5)


def test_a_workers_note_is_told_once_where_nobody_else_would(
    trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    output = {"notes": ["3 images were left out."]}
    trainer._warn(output)
    trainer._warn(output)
    assert caplog.messages == ["3 images were left out."]
