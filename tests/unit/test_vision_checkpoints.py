"""Checkpoints of vision trainings: whole or begun anew, the best weights with them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.errors import StorageFull
from visiondyno.operations.context import OperationContext
from visiondyno.operations.vision_checkpoints import (
    HISTORY,
    KIND,
    checkpoint_folder,
    checkpoint_key,
)
from visiondyno.operations.worker_cache import WorkerCache
from visiondyno.specs.vision_training import TrainVisionInput
from visiondyno.training.session import SessionState
from visiondyno.training.vision.checkpoint import FILE, FolderCheckpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

KEY = "ab" * 32


def state(epoch: int) -> SessionState:
    return SessionState({"weight": torch.full((2,), float(epoch))}, {"epoch": epoch})


def weights(epoch: int) -> dict[str, Any]:
    return {"weight": torch.full((2,), float(epoch))}


def test_what_was_kept_is_taken_up_with_the_best_so_far(tmp_path: Path) -> None:
    kept = FolderCheckpoint(tmp_path)
    assert kept.take_up() is None
    kept.scored(0.5, lambda: weights(1))
    kept.scored(0.2, lambda: weights(2))
    kept.keep(lambda: state(2), is_last=True)
    later = FolderCheckpoint(tmp_path)
    found = later.take_up()
    assert found is not None
    assert found.values["epoch"] == 2
    assert torch.equal(found.tensors["weight"], state(2).tensors["weight"])
    assert found.tensors.keys() == {"weight"}
    assert torch.equal(later.best["weight"], weights(1)["weight"])
    assert later.best_score == 0.5
    assert later.notes == []
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1))
def test_the_best_is_the_last_of_the_highest_scores(scores: list[float | None]) -> None:
    kept = FolderCheckpoint(Path("nowhere"))
    for number, score in enumerate(scores):
        kept.scored(score, lambda number=number: weights(number))  # type: ignore[misc]
    told = [(score, number) for number, score in enumerate(scores) if score is not None]
    best = max(told)[1] if told else len(scores) - 1
    assert float(kept.best["weight"][0]) == best
    assert kept.best_score == (max(told)[0] if told else None)


def test_the_best_is_a_copy(tmp_path: Path) -> None:
    mine = weights(1)
    kept = FolderCheckpoint(tmp_path)
    kept.scored(1.0, lambda: mine)
    mine["weight"].zero_()
    assert torch.equal(kept.best["weight"], weights(1)["weight"])


def test_writing_takes_its_share_of_the_time_only(tmp_path: Path) -> None:
    now_s = 0.0
    kept = FolderCheckpoint(tmp_path, clock=lambda: now_s)
    written: list[int] = []

    def slow(epoch: int) -> SessionState:
        nonlocal now_s
        now_s += 1.0
        written.append(epoch)
        return state(epoch)

    for epoch in range(1, 42):
        now_s += 1.0
        kept.keep(lambda epoch=epoch: slow(epoch), is_last=epoch == 41)  # type: ignore[misc]
    # A second each: the first, one after twenty more seconds, and the last.
    assert written == [1, 21, 41]


@pytest.mark.parametrize("spoil", [b"", b"visiondyno.training-state/1\n", b"x" * 500])
def test_a_damaged_checkpoint_is_noted_and_the_training_begins_anew(
    tmp_path: Path, spoil: bytes
) -> None:
    (tmp_path / FILE).write_bytes(spoil)
    kept = FolderCheckpoint(tmp_path)
    assert kept.take_up() is None
    assert len(kept.notes) == 1
    assert "began anew" in kept.notes[0]
    assert kept.best == {}


def test_one_that_cant_be_written_is_noted_once(tmp_path: Path) -> None:
    kept = FolderCheckpoint(tmp_path / "absent")
    for epoch in (1, 2):
        kept.keep(lambda: state(1), is_last=epoch == 2)
    assert len(kept.notes) == 1

    def too_much() -> SessionState:
        raise MemoryError

    kept.keep(too_much, is_last=True)
    assert "the memory is full" in kept.notes[1]

    def wrong() -> SessionState:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kept.keep(wrong, is_last=True)


def spec(**changes: Any) -> TrainVisionInput:
    fields = {"model": "ultralytics:yolov8n", "data": "street:train", "epochs": 3} | changes
    return TrainVisionInput.model_validate(fields)


def test_the_key_is_of_what_decides_the_result() -> None:
    decided = {"device": "cpu", "threads": 1}
    key = checkpoint_key(spec(), decided, ["a", None])
    # The same data by another name, the same weights in another form.
    assert checkpoint_key(spec(data="/copy", model_state="AAAA"), decided, ["a", None]) == key
    others = [
        checkpoint_key(spec(epochs=4), decided, ["a", None]),
        checkpoint_key(spec(arguments={"nbs": 8}), decided, ["a", None]),
        checkpoint_key(spec(), decided | {"threads": 2}, ["a", None]),
        checkpoint_key(spec(), decided, ["b", None]),
        checkpoint_key(spec(), decided, ["a", "b"]),
    ]
    assert len({key, *others}) == 6


def test_the_folder_stays_where_a_training_ends_by_an_error_only(tmp_path: Path) -> None:
    cache, context = WorkerCache(tmp_path, 10**6), OperationContext()
    history = [{"epoch": 1}, {"epoch": 2}]

    def fail() -> None:
        with checkpoint_folder(cache, KEY, context) as folder:
            assert folder.history(5) == []
            (folder.trainer / FILE).write_bytes(b"x" * 1000)
            folder.keep(history)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with checkpoint_folder(cache, KEY, context) as folder:
        assert folder.history(1) == history[:1]
        assert folder.history(2) == history
        assert cache.size_bytes(KIND, KEY) > 1000
        # Held: nothing evicts it, also where it is more than may be kept.
        WorkerCache(tmp_path, 0).put("states", "other", b"data")
        assert (folder.trainer / FILE).exists()
        (folder.trainer.parent / HISTORY).write_text("[1, 2]")
        assert folder.history(2) == []
    assert cache.get(KIND, KEY) is None


def test_a_cache_that_never_has_room_is_told(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path, 10**6)

    def evict() -> None:
        cache.drop(KIND, KEY)

    class Evicted(WorkerCache):
        def hold(self, kind: str, key: str) -> Any:
            evict()
            return super().hold(kind, key)

    with (
        pytest.raises(StorageFull, match="VISIONDYNO_CACHE_BYTES"),
        checkpoint_folder(Evicted(tmp_path, 10**6), KEY, OperationContext()),
    ):
        pass
