"""`train_epoch`, `train` and `evaluate` of modules: what they take and answer."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operation_cases import EPOCH, HYPER, TRAIN, alike, carried, data, done, weights
from training_cases import CLASSES, MLP, torch

from visiondyno.errors import (
    MissingExtra,
    ModelError,
    OperationFailed,
    SpecError,
    TooLarge,
    VisionDynoError,
)
from visiondyno.operations import train_epoch as train_epoch_operation
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_setup import StepTicker
from visiondyno.operations.worker_files import WorkerFiles
from visiondyno.state import encode, to_text
from visiondyno.worker import run

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


EXAMPLE: dict[str, Any] = {
    "operation": "train_epoch",
    "model_config": {
        "type": "sequential",
        "layers": [
            {"type": "linear", "in_features": 4, "out_features": 8},
            {"type": "relu"},
            {"type": "linear", "in_features": 8, "out_features": 2},
        ],
    },
    "training_data": {"features": [[1.0, 2.0, 3.0, 4.0]], "labels": [0]},
    "hyperparameters": {
        "optimizer": "adam",
        "learning_rate": 0.001,
        "loss_function": "cross_entropy",
    },
    "model_state": None,
}


def test_the_documented_example_works_as_it_stands() -> None:
    answer = done(EXAMPLE)
    assert answer["operation"] == "train_epoch"
    assert answer["status"] == "success"
    assert answer["metrics"].keys() == {"loss", "accuracy", "samples_processed"}
    assert answer["metrics"]["samples_processed"] == 1
    assert "optimizer_reset" not in answer
    assert answer["optimizer_state"].startswith("sha256:")
    assert (answer["device"], answer["torch"]) == ("cpu", torch.__version__)
    assert {name: array.shape for name, array in weights(answer).items()} == {
        "0.weight": (8, 4),
        "0.bias": (8,),
        "2.weight": (2, 8),
        "2.bias": (2,),
    }


SCHEDULED = HYPER | {"scheduler": "step", "scheduler_arguments": {"step_size": 1}}


@pytest.mark.parametrize("hyper", [HYPER, SCHEDULED], ids=["adam", "scheduled"])
@pytest.mark.parametrize("names_epoch", [True, False], ids=["named", "unnamed"])
def test_epoch_by_epoch_comes_to_what_one_job_comes_to(
    names_epoch: bool, hyper: dict[str, Any]
) -> None:
    whole = done(TRAIN | {"epochs": 3, "hyperparameters": hyper})
    answer = done(EPOCH | {"hyperparameters": hyper})
    metrics = [answer["metrics"]]
    for epoch in (2, 3):
        named = {"epoch": epoch} if names_epoch else {}
        job = EPOCH | {"hyperparameters": hyper} | carried(answer, "optimizer_state") | named
        answer = done(job)
        assert answer["epoch"] == epoch
        assert "optimizer_reset" not in answer
        metrics.append(answer["metrics"])
    assert alike(answer, whole)
    assert metrics == [record["train_metrics"] for record in whole["history"]]


def test_an_optimizer_that_began_anew_is_told() -> None:
    first = done(EPOCH)
    resets = [
        EPOCH | carried(first),  # a state, and nothing says that this is the first epoch
        EPOCH | carried(first) | {"epoch": 2},
        EPOCH | carried(first) | {"epoch": 2, "optimizer_state": "sha256:" + "0" * 64},
    ]
    for job in resets:
        answer = done(job)
        assert answer["optimizer_reset"] is True
        assert any("began anew" in note for note in answer["notes"])
    fine_tuning = done(EPOCH | carried(first) | {"epoch": 1})
    assert "optimizer_reset" not in fine_tuning
    assert fine_tuning["notes"] == []


def test_a_damaged_optimizer_state_is_as_one_that_is_gone() -> None:
    first = done(EPOCH)
    cache = WorkerFiles.of_this_worker().cache
    name = first["optimizer_state"].removeprefix("sha256:")
    cache.put("optimizer", name, b"not what it was")
    job = EPOCH | carried(first, "optimizer_state")
    assert done(job)["optimizer_reset"] is True
    assert cache.get("optimizer", name) is None


def test_an_optimizer_state_of_another_optimizer_is_refused() -> None:
    job = EPOCH | carried(done(EPOCH), "optimizer_state")
    with pytest.raises(ModelError, match="'optimizer' is 'Adam', and this one's 'SGD'"):
        done(job | {"hyperparameters": HYPER | {"optimizer": "sgd"}})


def test_another_learning_rate_takes_effect_although_the_optimizer_is_kept() -> None:
    first = done(EPOCH)
    job = EPOCH | carried(first, "optimizer_state")
    same, other = done(job), done(job | {"hyperparameters": HYPER | {"learning_rate": 1e-9}})
    before, after = weights(first), weights(other)
    assert not alike(same, other)
    moved = {n: float(np.abs(after[n] - before[n]).max()) for n in before if "weight" in n}
    assert all(distance < 1e-6 for distance in moved.values())


def test_a_plan_of_learning_rates_is_not_changed_halfway() -> None:
    job = EPOCH | {"hyperparameters": SCHEDULED}
    job |= carried(done(job), "optimizer_state")
    changed = SCHEDULED | {"scheduler_arguments": {"step_size": 2}}
    with pytest.raises(SpecError, match=r"'hyperparameters\.scheduler_arguments' changed"):
        done(job | {"hyperparameters": changed})


def test_an_optimizer_that_cannot_be_kept_is_told(home: Path) -> None:
    answer = done(EPOCH)
    folder = home / "cache" / "entries" / train_epoch_operation.KIND
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    answer = done(EPOCH)
    assert answer["status"] == "success"
    assert answer["optimizer_state"] is None
    assert any("couldn't be kept" in note for note in answer["notes"])


def test_training_tells_each_epoch_and_answers_with_all() -> None:
    seen: list[dict[str, Any]] = []
    answer = done(TRAIN, seen.append)
    told = [facts for facts in seen if facts["stage"] == "epoch"]
    assert [facts | {"stage": "epoch", "epochs": 4} for facts in answer["history"]] == told
    assert [record["epoch"] for record in answer["history"]] == [1, 2, 3, 4]
    assert (answer["epochs_run"], answer["stopped_early"]) == (4, False)
    assert answer["resumed_from_epoch"] == 0
    assert "best_epoch" not in answer


def test_without_validation_data_there_are_no_metrics_of_it() -> None:
    job = {name: value for name, value in TRAIN.items() if name != "validation_data"}
    assert all("val_metrics" not in record for record in done(job)["history"])


def test_evaluating_the_answer_gives_the_last_validation() -> None:
    answer = done(TRAIN)
    scored = done(
        {
            "operation": "evaluate",
            "model_config": MLP,
            "validation_data": TRAIN["validation_data"],
            "hyperparameters": {"batch_size": 16},
            "threads": 1,
            **carried(answer),
        }
    )
    assert scored["metrics"] == answer["history"][-1]["val_metrics"]
    assert (scored["operation"], scored["status"]) == ("evaluate", "success")


def test_early_stopping_says_when_and_which_was_best() -> None:
    stopping = {"monitor": "val_accuracy", "patience": 1, "min_delta": 1.0}
    answer = done(TRAIN | {"early_stopping": stopping})
    assert answer["epochs_run"] == len(answer["history"]) == 2
    assert answer["stopped_early"] is True
    assert answer["best_epoch"] == 1


def test_the_users_process_is_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    try:
        with torch.inference_mode():
            answers = [done(EPOCH | {"threads": 1}), done(TRAIN | {"threads": 1})]
            assert torch.is_inference_mode_enabled()
        with pytest.raises(VisionDynoError):
            done(EPOCH | {"hyperparameters": {"learning_rate": 1e30}, "threads": 1})
        assert torch.get_num_threads() == 2
        assert torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.random.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
    assert [answer["threads"] for answer in answers] == [1, 1]
    assert all(
        alike(answer, done(job)) for answer, job in zip(answers, (EPOCH, TRAIN), strict=True)
    )


def test_batches_are_told_every_two_seconds() -> None:
    now, seen = [0.0], []
    ticker = StepTicker(OperationContext(seen.append), "training", lambda: now[0], epochs=3)
    for batch in range(1, 11):
        now[0] += 0.5
        ticker.tell(batch, 10, epoch=2)
    assert seen == [
        {"stage": "training", "epochs": 3, "epoch": 2, "done": done, "total": 10} for done in (4, 8)
    ]


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    targets=st.lists(
        st.floats(-1e18, 1e18) | st.sampled_from([0.0, 1e-45, -1e-45, 1e18]),
        min_size=1,
        max_size=4,
    ),
    loss=st.sampled_from(["l1", "smooth_l1", "huber", "mse", "poisson_nll"]),
)
def test_metrics_are_numbers_or_the_job_fails(targets: list[float], loss: str) -> None:
    """`done` refuses NaN and infinity in an answer."""
    job = EXAMPLE | {
        "model_config": {
            "type": "sequential",
            "layers": [{"type": "linear", "in_features": 1, "out_features": 1}],
        },
        "training_data": {"features": [[1.0]] * len(targets), "labels": targets},
        "hyperparameters": {"loss_function": loss, "optimizer": "sgd", "learning_rate": 1e-3},
    }
    with contextlib.suppress(OperationFailed):
        assert done(job)["metrics"]["samples_processed"] == len(targets)


def test_without_torch_the_operation_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="'torch'"):
        run(EPOCH, OperationContext())


def test_a_module_comes_as_the_blob_of_a_program() -> None:
    program = torch.export.export(torch.nn.Linear(4, CLASSES), (torch.zeros(2, 4),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    name = WorkerFiles.of_this_worker().publish(buffer.getvalue())
    of_program = {"type": "exported", "program": name}
    data_of_two = {"features": data(2)["features"], "labels": [0, 1]}
    answer = done(EPOCH | {"model_config": of_program, "training_data": data_of_two})
    assert {n: array.shape for n, array in weights(answer).items()} == {
        "weight": (CLASSES, 4),
        "bias": (CLASSES,),
    }


def test_every_class_has_its_output() -> None:
    assert weights(done(EPOCH))["4.bias"].shape == (CLASSES,)


def test_a_state_far_larger_than_the_model_is_refused_before_it_is_unpacked(home: Path) -> None:
    zeros = {"x": np.zeros(100_000_000, np.float32)}
    packed = encode(zeros)
    assert packed.size_bytes < 100_000
    job = EPOCH | {"model_state": to_text(packed), "model_state_format": packed.format}
    with pytest.raises(TooLarge, match="'model_state'"):
        done(job)
    kept = [path.stat().st_size for path in (home / "cache").rglob("*") if path.is_file()]
    assert max(kept, default=0) < 10**6
