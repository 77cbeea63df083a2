"""Checkpoints: whole or refused, not too many; what goes wrong with one stops no training."""

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_cases import class_samples, same_weights, session, torch

from visiondyno.errors import ModelError
from visiondyno.operations.checkpoints import (
    KIND,
    Checkpoints,
    checkpoint_key,
)
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.specs.training_operations import TrainInput
from visiondyno.training.fit import fit
from visiondyno.training.state_file import from_bytes, to_pieces

pytestmark = pytest.mark.torch

KEY = "ab" * 32


def file_of(training: Any) -> bytes:
    return b"".join(to_pieces(training.state()))


@pytest.fixture
def cache(tmp_path: Path) -> WorkerCache:
    return WorkerCache(tmp_path / "cache", 10**9)


def trained(epochs: int, **hyper: Any) -> Any:
    training = session(**hyper)
    fit(training, class_samples(), None, epochs)
    return training


@pytest.mark.parametrize(
    "hyper",
    [
        {"optimizer": "adamw", "scheduler": "linear", "scheduler_arguments": {"total_iters": 3}},
        {"optimizer": "lbfgs"},
        {"optimizer": "sgd", "momentum": 0.9, "mixed_precision": "bf16"},
        {"optimizer": "rprop", "scheduler": "reduce_lr_on_plateau"},
    ],
    ids=lambda hyper: hyper["optimizer"],
)  # fmt: skip
def test_a_training_goes_on_from_its_file_as_if_it_had_not_stopped(hyper: dict[str, Any]) -> None:
    whole, second = trained(1, **hyper), session(**hyper)
    second.load_state(from_bytes(file_of(whole)))
    for one in (whole, second):
        fit(one, class_samples(), None, 3)
    assert same_weights(whole.module, second.module)
    assert whole.history == second.history


def test_one_training_has_one_file() -> None:
    assert file_of(trained(2)) == file_of(trained(2))


WHOLE = file_of(trained(1))


@settings(max_examples=60)
@given(data=st.data())
def test_a_file_that_is_not_whole_is_refused(data: st.DataObject) -> None:
    spoilt = bytearray(WHOLE)
    if data.draw(st.booleans()):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del spoilt[data.draw(st.integers(0, len(spoilt) - 1)) :]
    with pytest.raises(ModelError, match="damaged"):
        from_bytes(bytes(spoilt))


class Clock:
    """Seconds that pass when they are told to; each look at it costs `look_s`."""

    def __init__(self, look_s: float) -> None:
        self.now_s = 0.0
        self.look_s = look_s

    def __call__(self) -> float:
        self.now_s += self.look_s
        return self.now_s


def epochs_kept(cache: WorkerCache, epoch_s: float, write_s: float, epochs: int) -> list[int]:
    """Which epochs were kept, when each look at the clock, and so each writing, takes `write_s`."""
    clock = Clock(write_s)
    checkpoints = Checkpoints(cache, KEY, clock)
    training, kept = session(), []

    def on_epoch(record: Any) -> None:
        clock.now_s += epoch_s
        before = cache.read(KIND, KEY)
        checkpoints.after_epoch(training)
        if cache.read(KIND, KEY) != before:
            kept.append(record["epoch"])

    fit(training, class_samples(), None, epochs, on_epoch=on_epoch)
    return kept


def test_every_epoch_is_kept_where_that_takes_little_time(cache: WorkerCache) -> None:
    assert epochs_kept(cache, epoch_s=30.0, write_s=1.0, epochs=4) == [1, 2, 3, 4]


def test_costly_checkpoints_are_kept_less_often_and_the_first_always(cache: WorkerCache) -> None:
    # 1 s of writing in 20 s: after 3 epochs of 6 s, 18 s and two looks have passed; then 3 more.
    assert epochs_kept(cache, epoch_s=6.0, write_s=1.0, epochs=9) == [1, 4, 7]


def test_the_last_epoch_is_kept_unless_it_is(cache: WorkerCache) -> None:
    checkpoints = Checkpoints(cache, KEY)
    training = trained(2)
    checkpoints.after_training(training)
    path = cache.get(KIND, KEY)
    assert path is not None
    first = path.stat().st_ino
    checkpoints.after_training(training)
    assert cache.get(KIND, KEY).stat().st_ino == first  # type: ignore[union-attr]
    other = session()
    assert Checkpoints(cache, KEY).take_up(other) == 2
    assert same_weights(other.module, training.module)


@pytest.mark.parametrize("damage", ["shorter", "empty", "another training's"])
def test_a_damaged_checkpoint_is_told_and_begun_anew(cache: WorkerCache, damage: str) -> None:
    whole = file_of(trained(2, optimizer="sgd") if damage == "another training's" else trained(2))
    spoilt = {"shorter": whole[:-9], "empty": b""}.get(damage, whole)
    cache.put(KIND, KEY, spoilt)
    checkpoints, training = Checkpoints(cache, KEY), session()
    assert checkpoints.take_up(training) == 0
    assert training.epoch == 0
    (note,) = checkpoints.notes
    assert "began anew" in note
    assert cache.get(KIND, KEY) is None


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(cache: WorkerCache) -> None:
    checkpoints, training = Checkpoints(cache, KEY), trained(1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        checkpoints.after_epoch(training)
        checkpoints.after_training(training)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    (note,) = checkpoints.notes
    assert note.startswith("A checkpoint couldn't be kept: ")
    assert Checkpoints(cache, KEY).take_up(session()) == 0


def test_two_jobs_of_one_training_do_not_disturb_each_other(cache: WorkerCache) -> None:
    """One ends and drops the checkpoint while the other goes on, and is taken up again later."""
    one, other = Checkpoints(cache, KEY), Checkpoints(cache, KEY)
    first, second = trained(2), trained(1)
    one.after_epoch(first)
    other.after_epoch(second)  # an older epoch over a newer one: as good
    one.drop()
    third = session()
    assert Checkpoints(cache, KEY).take_up(third) == 0
    other.after_training(trained(2))
    assert Checkpoints(cache, KEY).take_up(third) == 2
    one.drop()
    other.drop()


BASE: dict[str, Any] = {
    "operation": "train",
    "model_config": {"type": "sequential", "layers": [{"type": "relu"}]},
    "training_data": {"features": [[1.0]], "labels": [0]},
    "validation_data": {"features": [[1.0]], "labels": [0]},
    "epochs": 3,
}


def key_of(data: tuple[str, ...] = ("a",), state: str | None = None, threads: int = 1,
           **more: Any) -> str:  # fmt: skip
    prepared: Any = SimpleNamespace(
        received=None if state is None else SimpleNamespace(sha256=state),
        device=torch.device("cpu"),
        environment={"threads": threads, "torch": "2.0"},
    )
    return checkpoint_key(TrainInput.model_validate(BASE | more), prepared, list(data))


def test_a_checkpoint_is_of_one_training_only() -> None:
    keys = [
        key_of(),
        key_of(("b",)),
        key_of(("a", "b")),
        key_of(state="s"),
        key_of(threads=2),
        key_of(epochs=4),
        key_of(seed=1),
        key_of(early_stopping={"patience": 2}),
        key_of(hyperparameters={"learning_rate": 0.1}),
        key_of(model_config={"type": "sequential", "layers": [{"type": "elu", "alpha": 2.0}]}),
        key_of(model_config={"type": "sequential", "layers": [{"type": "elu", "alpha": 3.0}]}),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(state_reply={"delta": True}) == keys[0]
