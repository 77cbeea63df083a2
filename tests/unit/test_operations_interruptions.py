"""Trainings that are delivered again, cancelled, out of time or out of memory."""

import threading
from pathlib import Path
from typing import Any

import pytest
from operation_cases import EPOCH, HYPER, TRAIN, alike, done
from training_cases import MLP, torch

from visiondyno.errors import Cancelled, OperationFailed, TimeLimitExceeded
from visiondyno.operations.checkpoints import KIND
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_setup import torch_as_asked
from visiondyno.specs.training_operations import EvaluateModuleInput
from visiondyno.worker import run

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's home of this test's own."""
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Killed(BaseException):
    """Stands for the end of a process: nothing that handles errors sees it."""


def killed_after(epoch: int, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the job until it has told this epoch and gone on to the next."""
    seen: list[dict[str, Any]] = []

    def stop() -> bool:
        if any(facts.get("stage") == "epoch" and facts["epoch"] == epoch for facts in seen[:-1]):
            raise Killed
        return False

    def tell(facts: dict[str, Any]) -> None:
        seen.append(facts)
        if facts.get("epoch") == epoch and facts["stage"] == "epoch":
            seen.append({"stage": "after it"})

    with pytest.raises(Killed):
        run(job, OperationContext(tell, stop))
    return [facts for facts in seen if facts["stage"] == "epoch"]


def test_a_training_delivered_again_comes_to_the_same() -> None:
    undisturbed = done(TRAIN)
    told = killed_after(1, TRAIN)
    told += killed_after(3, TRAIN)
    seen: list[dict[str, Any]] = []
    answer = done(TRAIN, seen.append)
    told += [facts for facts in seen if facts["stage"] == "epoch"]
    resumed = answer.pop("resumed_from_epoch")
    assert resumed == next(facts for facts in seen if facts["stage"] == "resumed")["epoch"]
    assert 1 <= resumed <= 3
    assert undisturbed.pop("resumed_from_epoch") == 0
    assert answer == undisturbed
    # Each epoch was told, and where one was told again, with the same numbers.
    by_epoch = {facts["epoch"]: facts for facts in told}
    assert all(facts == by_epoch[facts["epoch"]] for facts in told)
    assert sorted(by_epoch) == [1, 2, 3, 4]
    # The answer is there: the next such job trains anew.
    assert done(TRAIN)["resumed_from_epoch"] == 0


def test_a_damaged_checkpoint_is_told_in_the_answer(home: Path) -> None:
    undisturbed = done(TRAIN)
    killed_after(2, TRAIN)
    (path,) = (home / "cache" / "entries" / KIND).iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    answer = done(TRAIN)
    assert answer["resumed_from_epoch"] == 0
    assert any("began anew" in note for note in answer["notes"])
    assert alike(answer, undisturbed)
    assert list((home / "cache" / "entries" / KIND).iterdir()) == []


def test_two_of_the_same_job_at_once_come_to_the_same() -> None:
    undisturbed, found = done(TRAIN), []

    def work() -> None:
        found.append(done(TRAIN))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(answer["history"] == undisturbed["history"] for answer in found)
    assert all(alike(answer, undisturbed) for answer in found)


def looks(limit: int) -> Any:
    """Is asked whether to stop, and says so after so many times."""
    asked = iter(range(limit))
    return lambda: next(asked, None) is None


@pytest.mark.parametrize("after", [0, 1, 2, 5, 12, 20])
@pytest.mark.parametrize("job", [EPOCH, TRAIN], ids=["train_epoch", "train"])
def test_a_cancel_is_heeded_wherever_it_comes(job: dict[str, Any], after: int) -> None:
    with pytest.raises(Cancelled):
        done(job | {"hyperparameters": HYPER | {"batch_size": 2}}, is_cancelled=looks(after))


@pytest.mark.parametrize("operation", ["train_epoch", "train", "evaluate"])
def test_a_time_limit_stays_a_time_limit(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't taken for a failure of the batch that it came in."""
    job = TRAIN | {"operation": operation}
    left_out = {
        "train_epoch": ("epochs", "validation_data"),
        "train": (),
        "evaluate": ("epochs", "training_data"),
    }[operation]
    job = {name: value for name, value in job.items() if name not in left_out}
    asked = iter(range(8))

    def check(self: OperationContext) -> None:
        if next(asked, None) is None:
            raise TimeLimitExceeded("The job ran past its executionTimeout.")

    monkeypatch.setattr(OperationContext, "check", check)
    with pytest.raises(TimeLimitExceeded):
        done(job | {"hyperparameters": HYPER | {"batch_size": 2}})


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
    ids=["allocator", "bad_alloc", "python", "cuda"],
)
def test_a_full_memory_names_the_next_step(error: Exception) -> None:
    spec = EvaluateModuleInput.model_validate(
        {"model_config": MLP, "validation_data": {"features": [[1.0]], "labels": [0]}}
    )
    with (
        pytest.raises(OperationFailed, match="'batch_size'"),
        torch_as_asked(spec, OperationContext()),
    ):
        raise error


def test_what_really_takes_too_much_memory_names_the_batch() -> None:
    """More bytes than a process has addresses for."""
    layers = [
        {"type": "unflatten", "dim": 1, "unflattened_size": [4, 1]},
        {"type": "upsample", "size": 2**42},
        {"type": "adaptive_avg_pool1d", "output_size": 1},
        {"type": "flatten"},
        {"type": "linear", "in_features": 4, "out_features": 3},
    ]
    with pytest.raises(OperationFailed, match=r"In epoch 1, batch 1 of 3: the memory is full\."):
        done(EPOCH | {"model_config": {"type": "sequential", "layers": layers}})


def test_other_errors_of_torch_pass_as_they_are() -> None:
    spec = EvaluateModuleInput.model_validate(
        {"model_config": MLP, "validation_data": {"features": [[1.0]], "labels": [0]}}
    )
    with (
        pytest.raises(RuntimeError, match="something else"),
        torch_as_asked(spec, OperationContext()),
    ):
        raise RuntimeError("something else")
