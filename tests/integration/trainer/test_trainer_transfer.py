"""What the trainer sends, and what it doesn't send again: states and data."""

import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_places import HYPER, MLP, CountingClient, blobs_of_points
from visiondyno.client.model_state import ModelState
from visiondyno.client.trainer import Trainer
from visiondyno.errors import BaseMissing, OperationFailed

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # small modules are faster so, and other tests keep their cores
pytestmark = pytest.mark.torch

TRAIN = blobs_of_points()


def lose(home: Path, kind: str) -> None:
    """What an eviction, or another worker, makes of what was kept."""
    folders = [path for path in home.rglob(kind) if path.is_dir()]
    assert folders
    for folder in folders:
        shutil.rmtree(folder)


def test_a_state_that_the_worker_holds_is_sent_by_name_only(
    trainer: Trainer, client: CountingClient
) -> None:
    wide = {"type": "sequential", "layers": [{"type": "linear", "in_features": 6}]}
    wide["layers"][0]["out_features"] = 3000  # type: ignore[index]
    _, state = trainer.train_epoch(wide, TRAIN, HYPER)
    assert state.worker_holds
    trainer.train_epoch(wide, TRAIN, HYPER, model_state=state)
    trainer.evaluate(wide, ModelState(state), TRAIN)  # one that this client knows nothing of
    by_name, whole = client.inputs[1], client.inputs[2]
    assert by_name["model_state_format"] == "delta+shuffle+zstd"
    assert len(by_name["model_state"]) < 1000
    assert len(whole["model_state"]) > 50_000
    assert [job["state_reply"] for job in client.inputs[:2]] == [{"delta": True}] * 2


def test_a_worker_that_lost_the_state_is_sent_all_of_it(
    home: Path, trainer: Trainer, client: CountingClient, caplog: pytest.LogCaptureFixture
) -> None:
    hyper = HYPER | {"seed": 4}
    undisturbed, _ = trainer.train_model(MLP, TRAIN, None, hyper, epochs=2)
    _, state = trainer.train_epoch(MLP, TRAIN, hyper)
    lose(home, "states")
    caplog.set_level(logging.INFO, logger="visiondyno")
    _, after = trainer.train_epoch(MLP, TRAIN, hyper, model_state=state)
    assert after == undisturbed
    assert "no longer holds" in caplog.text
    sent = [job["model_state_format"] for job in client.inputs[-2:]]
    assert [kind.partition("+")[0] for kind in sent] == ["delta", "safetensors"]
    assert state.worker_holds


def test_a_base_that_is_missing_for_another_reason_is_told(client: CountingClient) -> None:
    state = ModelState({"weight": np.zeros(2)})
    trainer = Trainer(client)

    def refuse(_: object) -> None:
        raise BaseMissing("nobody holds it")

    client.before = refuse
    with pytest.raises(BaseMissing):
        trainer.evaluate(MLP, state, TRAIN)
    assert len(client.inputs) == 1


def test_a_lost_optimiser_begins_anew_with_a_warning(
    home: Path, trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    _, state = trainer.train_epoch(MLP, TRAIN, HYPER)
    lose(home, "optimizer")
    _, after = trainer.train_epoch(MLP, TRAIN, HYPER, model_state=state)
    assert "began anew" in caplog.text
    assert after.trained.epoch == 2


def test_large_states_and_data_go_by_blob_both_ways_and_data_once(
    trainer: Trainer, client: CountingClient
) -> None:
    noise = np.random.default_rng(0)
    large = {"type": "sequential", "layers": [{"type": "linear", "in_features": 1500}]}
    large["layers"][0]["out_features"] = 1500  # type: ignore[index]
    data = noise.normal(size=(40, 1500)).astype(np.float32), np.arange(40)
    start = ModelState(
        {
            "0.weight": noise.normal(size=(1500, 1500)).astype(np.float32),
            "0.bias": np.zeros(1500, np.float32),
        }
    )
    _, state = trainer.train_epoch(large, data, HYPER, model_state=start)
    assert client.inputs[0]["model_state"] == client.uploads[1]
    assert client.inputs[0]["training_data"] == client.uploads[0]
    assert state.worker_holds
    metrics = trainer.evaluate(large, state, data)
    assert metrics["samples_processed"] == 40
    assert client.inputs[1]["validation_data"] == client.uploads[0]
    assert len(client.uploads) == 2


def test_a_data_set_object_is_read_once(trainer: Trainer, client: CountingClient) -> None:
    class Points(torch.utils.data.Dataset):  # type: ignore[misc]
        def __init__(self) -> None:
            self.taken = 0

        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> tuple[Any, int]:
            self.taken += 1
            return torch.tensor(TRAIN[0][index % 90]), int(TRAIN[1][index % 90])

    points = Points()
    first, _ = trainer.train_model(MLP, points, None, HYPER)
    second, _ = trainer.train_model(MLP, points, None, HYPER)
    assert first == second
    assert points.taken == 30
    tensors = torch.utils.data.TensorDataset(*map(torch.tensor, TRAIN))
    before, _ = trainer.train_model(MLP, tensors, None, HYPER)
    tensors.tensors[0][:] = 0
    after, _ = trainer.train_model(MLP, tensors, None, HYPER)
    assert before != after


class Stored(torch.utils.data.Dataset):  # type: ignore[misc]
    """All of these are equal, and hold different samples."""

    def __init__(self, factor: float = 1.0) -> None:
        self.points = torch.tensor(TRAIN[0]) * factor
        self.transform = lambda point: point

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.points[index]), int(TRAIN[1][index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored)

    def __hash__(self) -> int:
        return 1


def test_a_data_set_object_that_changed_is_read_again(trainer: Trainer) -> None:
    def learned(data: Any) -> ModelState:
        return trainer.train_model(MLP, data, None, HYPER)[0]

    data = Stored()
    as_it_was = learned(data)
    assert learned(Stored(2.0)) != as_it_was
    data.points *= 2
    assert learned(data) == learned(Stored(2.0))
    data.transform = lambda point: point / 2
    assert learned(data) == as_it_was
    data.lock = threading.Lock()  # nothing can look into such a one
    data.points *= 2
    assert learned(data) == learned(Stored(2.0))


@pytest.mark.parametrize("lossy", ["bf16", "int8-delta"])
def test_rounded_states_still_learn_and_say_that_they_are_rounded(
    client: CountingClient, lossy: Any
) -> None:
    hyper = HYPER | {"learning_rate": 0.05}
    exact, rounded = Trainer(client), Trainer(client, lossy=lossy)
    metrics: dict[Trainer, dict[str, float]] = {}
    states: dict[Trainer, ModelState | None] = {exact: None, rounded: None}
    for _ in range(4):
        for trainer in (exact, rounded):
            metrics[trainer], states[trainer] = trainer.train_epoch(
                MLP, TRAIN, hyper, model_state=states[trainer]
            )
    assert states[exact] != states[rounded]
    assert metrics[rounded]["loss"] == pytest.approx(metrics[exact]["loss"], rel=0.1)
    assert metrics[rounded]["loss"] < 0.8
    replies = [job["state_reply"].get("lossy") for job in client.inputs[1::2]]
    assert replies == [lossy if lossy == "bf16" else None, lossy, lossy, lossy]


def test_an_answer_without_a_state_is_told(trainer: Trainer) -> None:
    with pytest.raises(OperationFailed, match="no 'model_state'"):
        trainer._transfer.receive({"metrics": {}}, None)
