"""Warm models: what is kept, what is closed, and when a model is loaded anew."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import write_detector
from visiondyno import worker
from visiondyno.errors import Cancelled, DatasetError, ModelError, Unavailable
from visiondyno.operations.context import OperationContext
from visiondyno.operations.model_source import warm_models
from visiondyno.runtimes.base import LoadedModel, LoadOptions
from visiondyno.runtimes.card_file import card_path
from visiondyno.runtimes.model_cards import write_card
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.warm import WarmModels

IMAGE = np.zeros((8, 8, 3), np.uint8)
ROWS = [[1.0, 2.0, 15.0, 28.0, 0.9, 0.0]]


class Memory:
    """The memory in use: each loading adds what the model is said to need."""

    def __init__(self, needs: Callable[[str], int | None]) -> None:
        self.needs = needs
        self.used_bytes: int | None = 1000
        self.loaded: list[LoadedModel] = []

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        model = load_model(reference, options)
        needed = self.needs(reference)
        if needed is None:
            self.used_bytes = None
        elif self.used_bytes is not None:
            self.used_bytes += needed
        self.loaded.append(model)
        return model


def fake(number: int) -> str:
    return f"fake:detection:{number}"


def make(
    capacity_bytes: int, needs: Callable[[str], int | None] = lambda _: 10
) -> tuple[WarmModels, Memory]:
    memory = Memory(needs)
    return WarmModels(capacity_bytes, lambda _: memory.used_bytes, memory.load), memory


def use(models: WarmModels, reference: str, options: LoadOptions | None = None) -> bool:
    """Open it once and say whether it was warm."""
    told: list[bool] = []
    with models.open(reference, options or LoadOptions(), told.append) as model:
        model.predict([IMAGE])
    (warm,) = told
    return warm


def is_open(model: LoadedModel) -> bool:
    try:
        model.predict([IMAGE])
    except ModelError:
        return False
    return True


def test_a_model_is_loaded_once_and_stays_open() -> None:
    models, memory = make(100)
    assert [use(models, fake(1)) for _ in range(3)] == [False, True, True]
    (model,) = memory.loaded
    assert is_open(model)
    assert models.kept_bytes == 10
    models.close()
    assert not is_open(model)


def test_other_options_and_references_are_other_models() -> None:
    models, memory = make(100)
    assert not use(models, fake(1))
    assert not use(models, fake(2))
    assert not use(models, fake(1), LoadOptions(intra_op_threads=1))
    assert use(models, fake(1))
    assert len(memory.loaded) == 3


def test_the_least_recently_used_goes_first() -> None:
    models, memory = make(30)
    for number in (1, 2, 3):
        use(models, fake(number))
    assert use(models, fake(1))
    use(models, fake(4))  # 2 has to go
    assert [is_open(model) for model in memory.loaded] == [True, False, True, True]
    assert [use(models, fake(number)) for number in (1, 3, 4)] == [True, True, True]
    assert not use(models, fake(2))


def test_a_model_above_the_capacity_is_not_kept() -> None:
    models, memory = make(30, lambda reference: 31 if reference == fake(1) else 10)
    assert [use(models, fake(1)) for _ in range(2)] == [False, False]
    assert models.kept_bytes == 0
    assert not any(is_open(model) for model in memory.loaded)


def test_without_a_reading_of_memory_one_model_is_kept_alone() -> None:
    models, _ = make(30, lambda _: None)
    assert [use(models, fake(number)) for number in (1, 1, 2, 1)] == [False, True, False, False]


def test_of_models_with_a_share_of_the_gpu_one_is_kept() -> None:
    models, _ = make(100, lambda reference: 10 if reference == fake(1) else 5000)
    shared = LoadOptions(gpu_memory_limit_bytes=5000)
    use(models, fake(1))
    assert [use(models, fake(2), shared) for _ in range(2)] == [False, True]
    assert models.kept_bytes == 10  # not what others took meanwhile
    use(models, fake(3), shared)
    assert not use(models, fake(2), shared)
    assert use(models, fake(1))


@pytest.mark.parametrize("error", [Cancelled("by the user"), DatasetError("an empty image")])
def test_an_error_that_is_not_the_models_leaves_it_warm(error: Exception) -> None:
    models, memory = make(100)
    for _ in range(2):
        with pytest.raises(type(error)), models.open(fake(1), LoadOptions()):
            raise error
    assert is_open(memory.loaded[0])
    assert use(models, fake(1))
    assert len(memory.loaded) == 1
    assert models.kept_bytes == 10


@pytest.mark.parametrize("error", [KeyError("a defect"), ModelError("stopped while running")])
def test_a_use_that_failed_closes_the_model(error: Exception) -> None:
    models, memory = make(100)
    use(models, fake(1))
    with pytest.raises(type(error)), models.open(fake(1), LoadOptions()):
        raise error
    assert not is_open(memory.loaded[0])
    assert not use(models, fake(1))


def test_a_cancel_before_loading_loads_nothing() -> None:
    models, memory = make(100)

    def stop(_: bool) -> None:
        raise Cancelled("before it began")

    with pytest.raises(Cancelled), models.open(fake(1), LoadOptions(), stop):
        pytest.fail("it was cancelled")
    assert memory.loaded == []
    use(models, fake(1))
    with pytest.raises(Cancelled), models.open(fake(1), LoadOptions(), stop):
        pytest.fail("it was cancelled")
    assert use(models, fake(1))


def test_who_opens_a_model_in_use_gets_their_own() -> None:
    models, memory = make(100)
    with models.open(fake(1), LoadOptions()) as outer:
        with models.open(fake(1), LoadOptions()) as inner:
            assert inner is not outer
        use(models, fake(2))
        assert is_open(outer)
    assert [is_open(model) for model in memory.loaded] == [True, False, True]
    assert use(models, fake(1))


def test_a_model_in_use_is_closed_after_it_once_all_are_closed() -> None:
    models, memory = make(100)
    with models.open(fake(1), LoadOptions()):
        models.close()
        assert is_open(memory.loaded[0])
    assert not is_open(memory.loaded[0])
    assert not use(models, fake(1))
    assert not use(models, fake(1))


@given(
    st.lists(st.integers(0, 5), max_size=25),
    st.lists(st.integers(0, 40), min_size=6, max_size=6),
    st.integers(1, 80),
)
def test_what_is_kept_never_exceeds_the_capacity(
    order: list[int], needs: list[int], capacity_bytes: int
) -> None:
    models, memory = make(capacity_bytes, lambda reference: needs[int(reference[-1])])
    for number in order:
        use(models, fake(number))
        assert models.kept_bytes <= capacity_bytes
        kept = [model.description.reference for model in memory.loaded if is_open(model)]
        assert len(kept) == len(set(kept))
        assert sum(needs[int(reference[-1])] for reference in kept) == models.kept_bytes
        assert (fake(number) in kept) == (needs[number] <= capacity_bytes)


# ---- files


def replace_file(path: Path, write: Callable[[], object]) -> None:
    """Write it anew, at another time on any clock of a file system."""
    write()
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000_000))


def test_a_model_that_changed_on_disk_is_loaded_anew(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "net.onnx", ROWS)
    models, memory = make(1 << 30)
    assert [use(models, str(path)) for _ in range(2)] == [False, True]
    replace_file(path, lambda: write_detector(path, [[1, 2, 15, 28, 0.5, 1]]))
    assert [use(models, str(path)) for _ in range(2)] == [False, True]
    old, new = memory.loaded
    assert not is_open(old)
    assert new.predict([IMAGE])[0].class_ids.tolist() == [1]  # type: ignore[union-attr]
    write_card(path)
    assert card_path(path).exists()
    assert [use(models, str(path)) for _ in range(2)] == [False, True]
    path.unlink()
    with pytest.raises(ModelError, match="no model file"):
        use(models, str(path))


def test_changed_weights_beside_a_model_count_too(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "net.onnx", ROWS)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    models, memory = make(1 << 30)
    assert [use(models, str(path)) for _ in range(2)] == [False, True]
    assert memory.loaded[0].files == (path, tmp_path / "weights.bin")
    weights = tmp_path / "weights.bin"
    replace_file(weights, lambda: weights.write_bytes(weights.read_bytes()))
    assert not use(models, str(path))


def test_a_file_counts_at_least_its_size(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "net.onnx", ROWS)
    models, _ = make(1 << 30, lambda _: 0)
    use(models, str(path))
    assert models.kept_bytes == path.stat().st_size


# ---- in operations


def test_a_worker_predicts_the_same_with_a_warm_model(tmp_path: Path) -> None:
    import base64

    path = write_detector(tmp_path / "net.onnx", ROWS)
    encoded, data = cv2.imencode(".png", IMAGE)
    assert encoded
    job = {
        "operation": "predict",
        "model": str(path),
        "images": [base64.b64encode(data.tobytes()).decode()],
    }
    models = warm_models(1 << 30)
    said: list[dict[str, object]] = []
    outputs = [
        worker.run(job, OperationContext(said.append, models=models)),
        worker.run(job, OperationContext(said.append, models=models)),
        worker.run(job, OperationContext(said.append)),
    ]
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0]["predictions"][0]["names"] == ["car"]
    assert [event["warm"] for event in said if "warm" in event] == [False, True, False]
    assert said[0] == {"stage": "loading the model", "warm": False, "model": str(path)}
    assert models.kept_bytes >= path.stat().st_size
    models.close()


def test_evaluate_takes_the_warm_model_too(tmp_path: Path) -> None:
    from dataset_factory import write_coco

    path = write_detector(tmp_path / "net.onnx", ROWS)
    write_coco(tmp_path / "data")
    job = {
        "operation": "evaluate",
        "model": str(path),
        "data": str(tmp_path / "data"),
        "resamples": 100,
    }
    models = warm_models(1 << 30)
    said: list[dict[str, object]] = []
    outputs = [worker.run(job, OperationContext(said.append, models=models)) for _ in range(2)]
    assert outputs[0] == outputs[1]
    assert [event["warm"] for event in said if "warm" in event] == [False, True]
    models.close()


def test_a_device_that_is_not_here_is_told_and_keeps_nothing() -> None:
    models = warm_models(1 << 30)
    with pytest.raises(Unavailable), models.open("fake:detection", LoadOptions(device="cuda")):
        pytest.fail("the fake runtime has no such device")
    assert models.kept_bytes == 0
